"""A batch of prompts with what a loss reads of a duel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from preference_duel.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.types import Completion


@dataclass(frozen=True)
class Batch:
    """Values of a duel that a loss needs, as rows of prompts.

    Attributes:
        prompts: B prompts.
        responses: [B][K] responses.
        values: name -> [B, ...] what does not depend on the policy's parameters.
        rows: [b] of a part, where its prompts stand in the batch that was split, on the device of the values.
    """

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    values: Mapping[str, Tensor]
    rows: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def to(self, other: Tensor) -> Batch:
        """Returns the batch with its values on the device and of the dtype of a tensor."""
        values = {name: to_device(value.to(other.dtype), other.device) for name, value in self.values.items()}
        return Batch(self.prompts, self.responses, values, self.rows)

    def split(self, parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yields a batch of each of some groups of prompts."""
        device = next((value.device for value in self.values.values()), torch.device("cpu"))
        for part in parts:
            rows = to_device(torch.tensor(part), device)
            values = {name: value[rows] for name, value in self.values.items()}
            yield Batch([self.prompts[b] for b in part], [self.responses[b] for b in part], values, rows)


Task = tuple["Batch", Callable[["Batch"], "Tensor"]]
"""A batch and its loss [b]."""
