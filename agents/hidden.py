"""What a language model's layers make of a text, read at chosen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def hidden_at(layers: Any, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
    """Returns the last hidden states at some tokens, in one forward pass.

    Args:
        layers: a transformers model without its head.
        rows: R texts in tokens; they are padded on the right.
        places: R lists of positions in them, M in all.

    Returns:
        [M, d] float32, row after row, differentiable, on the layers' device.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=layers.device)
    lengths = torch.tensor([len(row) for row in rows], device=layers.device)
    mask = torch.arange(width, device=layers.device) < lengths[:, None]
    hidden = layers(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    wanted = [r * width + place for r, row in enumerate(places) for place in row]
    return hidden.flatten(0, 1)[torch.tensor(wanted, device=layers.device)].float()
