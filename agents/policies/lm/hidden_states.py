"""Last-layer hidden states of a causal language model at chosen positions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agents.policies.lm.batching import groups, padded
from preference_duel.transfer import all_to_device

if TYPE_CHECKING:
    from agents.policies.lm.hf_policy import HFPolicy


def copied_layers(policy: HFPolicy) -> Any:
    """Returns a copy of a language model without its head, all of which learns, in float32.

    In bfloat16 nearly no weight would move at the learning rates of large models: a step is smaller than the rounding.

    Raises:
        ValueError: if its parameters are spread over processes.
    """
    if policy.sharded:
        raise ValueError("this agent copies the policy's layers, which --run.parallel fsdp spreads; take ddp")
    model: Any = policy.model
    return copy.deepcopy(model.base_model).float().requires_grad_(True)


def hidden_at(layers: Any, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]], micro_tokens: int) -> Tensor:
    """Returns the last hidden states at some tokens.

    Args:
        layers: a causal transformers model without its head.
        rows: R texts in tokens; those of like length are read together, padded on the right, where no token sees it.
        places: R lists of positions in them, M in all.
        micro_tokens: tokens in one forward pass.

    Returns:
        [M, d] float32, row after row, differentiable, on the layers' device.
    """
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    for group in groups([len(row) for row in rows], micro_tokens):
        ids = padded([rows[i] for i in group])
        index = torch.tensor([r * ids.shape[1] + place for r, i in enumerate(group) for place in places[i]])
        ids, index = all_to_device([ids, index], layers.device)
        hidden = layers(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        read = hidden[index].float()
        for i, part in zip(group, read.split([len(places[i]) for i in group]), strict=True):
            states[i] = part
    return torch.cat(states)
