"""Runs that were made: their players as they were at the last checkpoint, and what tells one run from another."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preference_duel.protocols import attended
from runners.run.build import Players, gather
from runners.run.checkpoint import load
from runners.run.config import PARTS, Settings
from runners.run.record import changed_files, read_settings, title

TELLING = "seed", "batch_size", "feedback", "votes"
"""Settings of a run that may stand in its label; of the four parts all may."""


@dataclass(frozen=True)
class Finished:
    """One run.

    Attributes:
        directory: where it was written.
        label: tells it from the others that it was read with.
        settings: what was run.
        players: the agent as it was saved last, the reference as it started.
        step: updates made until then.
    """

    directory: Path
    label: str
    settings: Settings
    players: Players
    step: int


def read_finished(directories: Sequence[Path], device: str) -> list[Finished]:
    """Reads runs back, each with the parts that it was made of.

    Args:
        directories: run directories.
        device: where networks run.

    Raises:
        ValueError: if one is no run directory or has no checkpoint, or they are runs of different tasks.
        OSError: if a checkpoint or a file that a run read can't be had.
    """
    settings = [read_settings(directory) for directory in directories]
    tasks = [one.to_json()["task"] | {"": one.names["task"]} for one in settings]
    for directory, task in zip(directories, tasks, strict=True):
        if task != tasks[0]:
            raise ValueError(
                f"runs that are compared must share a task; {directories[0]} has {_told(tasks[0])}, {directory} has "
                f"{_told(task)}: evaluate them apart"
            )
    finished = []
    for directory, label, one in zip(directories, labels(settings, directories), settings, strict=True):
        saved = load(directory)
        if saved is None:
            raise ValueError(f"{directory} has no checkpoint yet; let it run on, or start it with --run.save_every 1")
        for line in changed_files(directory, one):
            warnings.warn(f"{directory}: {line}; what is measured is not what the run saw", stacklevel=2)
        players = gather(one, device)
        if (people := attended(players.oracle)) is not None:
            people.keep_in(directory, title(directory))
        players.agent.load_state_dict(saved.agent)
        finished.append(Finished(directory, label, one, players, saved.step))
    return finished


def labels(settings: Sequence[Settings], directories: Sequence[Path]) -> list[str]:
    """Returns the agent's name and whatever differs between the runs, the directory where that does not tell."""
    flat = [_flat(one) for one in settings]
    found = []
    for one in flat:
        words = [one["agent", ""]]
        for (part, field), value in one.items():
            alike = [other for other in flat if not field or other.get((part, "")) == one.get((part, ""))]
            if (part, field) != ("agent", "") and len({str(other[part, field]) for other in alike}) > 1:
                words.append(f"{field}={value}" if field else str(value))
        found.append(" ".join(words))
    counts = Counter(found)
    return [
        label if counts[label] == 1 else f"{label} ({directory.name})"
        for label, directory in zip(found, directories, strict=True)
    ]


def _flat(settings: Settings) -> dict[tuple[str, str], Any]:
    """Returns (part, field) -> value; a part's name stands under the field ""."""
    content = settings.to_json()
    parts = {(part, name): value for part in PARTS for name, value in _leaves(content[part])}
    run = {("run", name): content["run"][name] for name in TELLING}
    return {**{(part, ""): name for part, name in content["names"].items()}, **parts, **run}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _told(task: Mapping[str, Any]) -> str:
    return " ".join([str(task[""]), *(f"{name}={value}" for name, value in task.items() if name)])
