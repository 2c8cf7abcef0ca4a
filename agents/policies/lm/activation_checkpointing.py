"""Activation checkpointing: a layer keeps its input for the backward pass, and recomputes the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recompute_layers(model: Any) -> None:
    """Makes every block of a transformers model recompute its activations (Chen et al. 2016, arXiv:1604.06174).

    Transformers' own works in training mode only, with dropout.

    Raises:
        ValueError: if the model does not name its blocks.
    """
    names = set(model._no_split_modules or ())
    blocks = [part for part in model.modules() if type(part).__name__ in names]
    if not blocks:
        raise ValueError(
            f"--policy.checkpointing: {type(model).__name__} does not name its blocks (_no_split_modules); "
            f"leave it out and lower --policy.micro_tokens"
        )
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
