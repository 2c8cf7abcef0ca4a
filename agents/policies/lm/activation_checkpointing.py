"""Activation checkpointing: a layer keeps its input for the backward pass, and computes the rest again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recompute_layers(model: Any) -> None:
    """Lets every block of a transformers model compute its inside twice (Chen et al. 2016, arXiv:1604.06174).

    It works outside of training mode too, which transformers' own does not: there dropout would be on.

    Raises:
        ValueError: if the model does not say what its blocks are.
    """
    names = set(model._no_split_modules or ())
    blocks = [part for part in model.modules() if type(part).__name__ in names]
    if not blocks:
        raise ValueError(
            f"--policy.checkpointing: {type(model).__name__} does not say what its blocks are (_no_split_modules); "
            f"leave it out and lower --policy.micro_tokens"
        )
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
