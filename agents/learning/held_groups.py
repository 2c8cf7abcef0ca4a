"""Groups of samples that wait for those of further duels, before one step on all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from agents.learning.batch import Batch
from preference_duel.types import Completion, Conversation

if TYPE_CHECKING:
    from torch import Tensor


class HeldGroups:
    """Groups that carry a gradient, of the duels since the last step: DAPO's dynamic sampling (arXiv:2503.14476).

    The policy does not change while groups are held, so that all of them are samples of the policy that learns.

    Args:
        redraws: further duels that a step waits for at most, at least 0.
    """

    def __init__(self, redraws: int) -> None:
        self.redraws, self.duels = redraws, 0
        self.groups: list[Batch] = []

    def add(self, batch: Batch, living: Tensor) -> Batch | None:
        """Holds a duel's living groups; returns all that are held if they are as many as the duel's, or the last.

        Args:
            batch: B groups.
            living: [B] bool, those that carry a gradient.

        Returns:
            One batch, more than B groups perhaps; None if another duel is awaited, or if none of the last one is left.
        """
        rows = batch.split([[b] for b in living.nonzero()[:, 0].tolist()])
        self.groups += [Batch(row.prompts, row.responses, _double(row.values)) for row in rows]
        self.duels += 1
        if len(self.groups) < len(batch.prompts) and self.duels <= self.redraws:
            return None
        held, self.groups, self.duels = self.groups, [], 0
        if not held:
            return None
        values = {name: torch.cat([group[name] for group in held]) for name in held[0].values}
        return Batch([group.prompts[0] for group in held], [group.responses[0] for group in held], values)

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of duels, and the groups as JSON."""
        groups = [
            {
                "prompt": getattr(group.prompts[0], "messages", group.prompts[0]),
                "responses": [dataclasses.astuple(response) for response in group.responses[0]],
                "values": {name: value[0].tolist() for name, value in group.values.items()},
            }
            for group in self.groups
        ]
        return {"duels": self.duels, "groups": json.dumps(groups)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.duels, self.groups = int(state["duels"]), [_group(**group) for group in json.loads(state["groups"])]


def _group(prompt: str | list[dict[str, str]], responses: list[list[Any]], values: dict[str, list[float]]) -> Batch:
    completions = [
        Completion(text, *(None if one is None else tuple(one) for one in of_tokens)) for text, *of_tokens in responses
    ]
    tensors = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}
    return Batch([prompt if isinstance(prompt, str) else Conversation(prompt)], [completions], tensors)


def _double(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in values.items()}
