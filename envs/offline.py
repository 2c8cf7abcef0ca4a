"""Preferences that were given before: read from a file, and played as duels in epochs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.tasks.prompts import read_prompt
from envs.tasks.task import Task
from envs.tasks.text import load_split
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.names import nearest
from preference_duel.types import Completion, Duel, Proposal

_CHOSEN = ("chosen", "rejected")
_SEATED = ("first", "second", "outcome")
_PLAYED = ("left", "right", "prob")
_FORMS = _CHOSEN, _SEATED, _PLAYED


@dataclass(frozen=True)
class Preference:
    """One comparison that was made.

    Attributes:
        prompt: what was asked.
        first: one response.
        second: the other one.
        outcome: 1 where the first won, 0 where the second did; a share where several people were asked.
    """

    prompt: str
    first: str
    second: str
    outcome: float


def read_preferences(path: str) -> list[Preference]:
    """Reads comparisons from a file of lines, or from a Hugging Face data set in a local directory.

    Args:
        path: FILE.jsonl with {"prompt", "chosen", "rejected"} or {"prompt", "first", "second", "outcome"} on each line,
            the duels.jsonl of a run ({"prompt", "left", "right", "prob"}; where both are the same text, nothing was
            compared), or a directory whose data set has such columns ("hf:DIR" says the same). Prompts and responses
            are text or lists of messages; of a response's messages the last one counts.

    Raises:
        ValueError: with the file and the line that is wrong, or if the lines do not say who won.
        OSError: if the file cannot be read.
    """
    folder = path.removeprefix("hf:")
    records = _rows(folder) if path.startswith("hf:") or Path(path).is_dir() else _lines(path)
    given = [(_preference(where, record), record) for where, record in records]
    found = [one for one, _ in given if one is not None]
    if not found:
        raise ValueError(f'{path}: has no preferences; write {{"prompt": ..., "chosen": ..., "rejected": ...}} a line')
    if all(one.outcome == 0.5 for one in found):
        raise ValueError(f"{path}: every outcome is 1/2, so that nothing says who was preferred")
    if (
        len(found) > 1
        and len({one.outcome for one in found}) == 1
        and not any("chosen" in record for _, record in given)
    ):
        raise ValueError(
            f"{path}: all {len(found)} outcomes are {found[0].outcome:g}, which says nothing about the responses; if "
            f"the first one was always preferred, name the fields chosen and rejected"
        )
    return found


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    for number, raw in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = raw.decode("utf-8-sig")
            if text.strip():
                yield where, json.loads(text)
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: broken JSON: {error.msg} (column {error.colno})") from error


def _rows(folder: str) -> Iterator[tuple[str, Any]]:
    for i, record in enumerate(load_split(folder, None, "train")):
        yield f"{folder} row {i}", record


def _preference(where: str, record: Any) -> Preference | None:
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: must be an object with prompt, chosen and rejected, got {str(record)[:60]!r}")
    given = {name for name, value in record.items() if value is not None}
    forms: list[tuple[str, ...]] = [form for form in _FORMS if given & set(form)] or [_CHOSEN]
    if len(forms) > 1:
        found = " and ".join(name for form in forms for name in form if name in given)
        raise ValueError(
            f"{where}: has {found}; say who won in one way: chosen and rejected, or first, second and outcome"
        )
    for name in ("prompt", *forms[0]):
        if name not in given:
            raise ValueError(f"{where}: has no field '{name}'{nearest(name, record) or '.'} It has {sorted(record)}.")
    prompt = read_prompt(where, record["prompt"])
    first, second = (_response(where, name, record[name]) for name in forms[0][:2])
    if first == second and forms[0] is _PLAYED:
        return None
    if first == second:
        raise ValueError(f"{where}: both responses are the same, {first[:60]!r}: there is nothing to prefer")
    return Preference(prompt, first, second, 1.0 if forms[0] is _CHOSEN else _outcome(where, record, forms[0][2]))


def _response(where: str, name: str, value: Any) -> str:
    text = value[-1].get("content") if isinstance(value, list) and value and isinstance(value[-1], dict) else value
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where}: {name} must be text or a list of messages, got {str(value)[:60]!r}")
    return text


def _outcome(where: str, record: Mapping[str, Any], name: str) -> float:
    value = record[name]
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{where}: {name} must be 1 (the first won), 0, or a share between them, got {value!r}")
    return float(value)


class FileArena:
    """Plays the comparisons of a file instead of asking an oracle: every one once in each epoch, in a drawn order.

    Args:
        task: its responses are the only ones that may occur where it is finite.
        preferences: what was compared.
        batch_size: comparisons per reset; None: all.
        seed: names the orders.

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
            for one in preferences:
                for text in (one.first, one.second):
                    if text not in self._completions:
                        hint = nearest(text, self._completions) or "."
                        raise ValueError(f"a preference has the response '{text}', which the task does not list{hint}")
        self.preferences, self.seed = list(preferences), seed
        self._plays = 0
        self._orders: dict[int, list[int]] = {}

    @property
    def queries(self) -> int:
        """Comparisons that were played so far."""
        return self._plays * self.batch_size

    def reset(self) -> list[str]:
        """Returns the prompts of the next comparisons."""
        return [one.prompt for one in self._batch()]

    def play(self, proposal: Proposal | None = None) -> Duel:
        """Returns the next comparisons, one for each prompt; nobody's proposal changes them."""
        del proposal
        batch = self._batch()
        self._plays += 1
        prob = torch.tensor([one.outcome for one in batch], dtype=torch.float64)[:, None, None]
        one = torch.ones(len(batch), 1, dtype=torch.float64)
        left = [[self._completion(comparison.first)] for comparison in batch]
        right = [[self._completion(comparison.second)] for comparison in batch]
        certain = bool(((prob == 0) | (prob == 1)).all())
        feedback = "outcome" if certain else "probability"
        return Duel([c.prompt for c in batch], left, right, prob, one, one, one[..., None] > 0, feedback, 1)

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
