"""Preferences that were given before, played as duels in epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from envs.tasks.task import Task
from envs.votes.preferences import Preference, load_preferences, read_preferences
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.names import nearest
from preference_duel.types import Completion, Duel, Proposal

__all__ = ["FileArena", "Preference", "load_preferences", "read_preferences"]


class FileArena:
    """Plays the comparisons of a file instead of asking an oracle: every one once in each epoch, in a drawn order.

    Args:
        task: if it is finite, the preferences may hold its responses only.
        preferences: what was compared.
        batch_size: comparisons per reset; None: all.
        seed: random seed of the orders.

    Raises:
        ValueError: if the batch is larger than the file, or a response is none of a finite task.
    """

    offline = True

    def __init__(self, task: Task, preferences: Sequence[Preference], batch_size: int | None, seed: int = 0) -> None:
        self.batch_size = len(preferences) if batch_size is None else batch_size
        if not 1 <= self.batch_size <= len(preferences):
            raise ValueError(f"batch_size must lie in 1..{len(preferences)}, the comparisons given, got {batch_size}")
        self._completions = None
        if task.responses is not None:
            self._completions = {response.text: response for response in task.responses}
            for preference in preferences:
                for text in (preference.first, preference.second):
                    if text not in self._completions:
                        hint = nearest(text, self._completions) or "."
                        place = f"{preference.place}: " if preference.place else ""
                        raise ValueError(
                            f"{place}a preference has the response '{text}', which the task does not list{hint}"
                        )
        self.preferences, self.seed = list(preferences), seed
        self._plays = 0
        self._orders: dict[int, list[int]] = {}

    @property
    def queries(self) -> int:
        """Comparisons that were played so far."""
        return self._plays * self.batch_size

    @property
    def unread_share(self) -> None:
        """None: a file's verdicts are all there."""

    def reset(self) -> list[str]:
        """Returns the prompts of the next comparisons."""
        return [preference.prompt for preference in self._batch()]

    def play(self, proposal: Proposal | None = None) -> Duel:
        """Returns the next comparisons, one for each prompt; a proposal is ignored."""
        del proposal
        batch = self._batch()
        self._plays += 1
        prob = torch.tensor([preference.outcome for preference in batch], dtype=torch.float64)[:, None, None]
        weight = torch.ones(len(batch), 1, dtype=torch.float64)
        left = [[self._completion(comparison.first)] for comparison in batch]
        right = [[self._completion(comparison.second)] for comparison in batch]
        certain = bool(((prob == 0) | (prob == 1)).all())
        feedback = "outcome" if certain else "probability"
        return Duel([c.prompt for c in batch], left, right, prob, weight, weight, weight[..., None] > 0, feedback, 1)

    def _batch(self) -> list[Preference]:
        """Returns the comparisons of the next play; an epoch's rest that fills no batch opens the next one."""
        start = self._plays * self.batch_size
        places = np.arange(start, start + self.batch_size)
        epochs, rows = np.divmod(places, len(self.preferences))
        needed = [int(epoch) for epoch in np.unique(epochs)]
        self._orders = {epoch: self._orders.get(epoch) or self._order(epoch) for epoch in needed}
        return [self.preferences[self._orders[int(e)][r]] for e, r in zip(epochs, rows, strict=True)]

    def _order(self, epoch: int) -> list[int]:
        uniforms = Key(hash_seed(self.seed, "epoch", epoch), 0, Stream.PROMPT).uniform(
            k=np.arange(len(self.preferences))
        )
        return np.argsort(uniforms, kind="stable").tolist()

    def _completion(self, text: str) -> Completion:
        return Completion(text) if self._completions is None else self._completions[text]

    def state_dict(self) -> dict[str, int | bool]:
        """Returns how many batches were played; the seed and that are the whole random state."""
        return {"plays": self._plays}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continues from `state_dict()`."""
        self._plays = int(state["plays"])
