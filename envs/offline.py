"""Preferences that were given before, played as duels in epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.tasks.task import Task
from envs.votes.lists import ResponseList, load_lists
from envs.votes.preferences import Preference, load_preferences, read_preferences
from envs.votes.thumbs import Thumb
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.names import nearest
from preference_duel.types import Completion, Duel, Proposal

__all__ = [
    "FileArena",
    "Preference",
    "ResponseList",
    "load_lists",
    "load_preferences",
    "read_preferences",
]

Given = Sequence[Preference] | Sequence[ResponseList] | Sequence[Thumb]


class FileArena:
    """Plays the comparisons of a file instead of asking an oracle: every one once in each epoch, in a drawn order.

    A comparison is a duel of one response with another; a list is a self-play duel whose `prob` was given; a thumb is a
    duel whose other response is not shown.

    Args:
        task: if it is finite, the preferences may hold its responses only.
        given: what was compared, in pairs or in lists, or judged alone.
        batch_size: of these per reset; None: all.
        seed: random seed of the orders.

    Raises:
        ValueError: if the batch is larger than the file, or a response is none of a finite task.
    """

    offline = True
    opens_stage = False

    def __init__(self, task: Task, given: Given, batch_size: int | None, seed: int = 0) -> None:
        self.batch_size = len(given) if batch_size is None else batch_size
        if not 1 <= self.batch_size <= len(given):
            raise ValueError(f"batch_size must lie in 1..{len(given)}, the comparisons given, got {batch_size}")
        self._completions = None
        if task.responses is not None:
            self._completions = {response.text: response for response in task.responses}
            for one in given:
                for text in one.texts:
                    if text not in self._completions:
                        hint = nearest(text, self._completions) or "."
                        place = f"{one.place}: " if one.place else ""
                        raise ValueError(
                            f"{place}a preference has the response '{text}', which the task does not list{hint}"
                        )
        self.given, self.seed = list(given), seed
        self._plays = self._queries = 0
        self._orders: dict[int, list[int]] = {}

    @property
    def queries(self) -> int:
        """Comparisons that were played so far."""
        return self._queries

    @property
    def unread_share(self) -> None:
        """None: a file's verdicts are all there."""

    def reset(self) -> list[str]:
        """Returns the prompts of the next comparisons."""
        return [one.prompt for one in self._batch()]

    def play(self, proposal: Proposal | None = None) -> Duel:
        """Returns the next comparisons, one for each prompt; a proposal is ignored."""
        del proposal
        batch = self._batch()
        self._plays += 1
        duel = _DUELS[type(batch[0])](batch, self._completion)
        self._queries += int(duel.comparisons.sum())
        return duel

    def _batch(self) -> list[Any]:
        """Returns the comparisons of the next play; an epoch's rest that fills no batch opens the next one."""
        start = self._plays * self.batch_size
        places = np.arange(start, start + self.batch_size)
        epochs, rows = np.divmod(places, len(self.given))
        needed = [int(epoch) for epoch in np.unique(epochs)]
        self._orders = {epoch: self._orders.get(epoch) or self._order(epoch) for epoch in needed}
        return [self.given[self._orders[int(e)][r]] for e, r in zip(epochs, rows, strict=True)]

    def _order(self, epoch: int) -> list[int]:
        uniforms = Key(hash_seed(self.seed, "epoch", epoch), 0, Stream.PROMPT).uniform(k=np.arange(len(self.given)))
        return np.argsort(uniforms, kind="stable").tolist()

    def _completion(self, text: str) -> Completion:
        return Completion(text) if self._completions is None else self._completions[text]

    def state_dict(self) -> dict[str, int | bool]:
        """Returns how much was played; the seed and that are the whole random state."""
        return {"plays": self._plays, "queries": self._queries}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continues from `state_dict()`."""
        self._plays = int(state["plays"])
        self._queries = int(state.get("queries", self._plays * self.batch_size))  # older checkpoints hold pairs alone


def _pairs(batch: Sequence[Preference], completion: Callable[[str], Completion]) -> Duel:
    prob = torch.tensor([one.outcome for one in batch], dtype=torch.float64)[:, None, None]
    weight = torch.ones(len(batch), 1, dtype=torch.float64)
    left, right = [[completion(one.first)] for one in batch], [[completion(one.second)] for one in batch]
    return _duel([one.prompt for one in batch], left, right, prob, weight, prob >= 0)


def _lists(batch: Sequence[ResponseList], completion: Callable[[str], Completion]) -> Duel:
    """Returns a self-play duel; shorter lists are filled up with responses of weight 0, about which nothing is known.

    Equal responses of a list were not compared.
    """
    count = max(len(one.responses) for one in batch)
    prob = torch.full((len(batch), count, count), 0.5, dtype=torch.float64)
    asked = torch.zeros_like(prob, dtype=torch.bool)
    weight = torch.zeros(len(batch), count, dtype=torch.float64)
    for b, one in enumerate(batch):
        weight[b, : len(one.responses)] = 1 / len(one.responses)
        for (i, j), share in one.prob.items():
            if one.responses[i] != one.responses[j]:
                prob[b, i, j], prob[b, j, i] = share, 1 - share
                asked[b, i, j] = asked[b, j, i] = True
    texts = [(*one.responses, *one.responses[:1] * (count - len(one.responses))) for one in batch]
    responses = [[completion(text) for text in row] for row in texts]
    return _duel([one.prompt for one in batch], responses, responses, prob, weight, asked)


def _thumbs(batch: Sequence[Thumb], completion: Callable[[str], Completion]) -> Duel:
    label = torch.tensor([one.label for one in batch], dtype=torch.float64)[:, None, None]
    weight, hidden = torch.ones(len(batch), 1, dtype=torch.float64), [[Completion("")]] * len(batch)
    left, prompts = [[completion(one.response)] for one in batch], [one.prompt for one in batch]
    return Duel(prompts, left, hidden, label, weight, weight, label >= 0, "thumb", 1, given=True)


def _duel(
    prompts: Sequence[str],
    left: Sequence[Sequence[Completion]],
    right: Sequence[Sequence[Completion]],
    prob: Tensor,
    weight: Tensor,
    asked: Tensor,
) -> Duel:
    told = prob[asked]
    feedback = "outcome" if bool(((told == 0) | (told == 1)).all()) else "probability"
    return Duel(prompts, left, right, prob, weight, weight, asked, feedback, 1, given=True)


_DUELS: dict[type, Callable[..., Duel]] = {Preference: _pairs, ResponseList: _lists, Thumb: _thumbs}
