"""Finished runs loaded from their last checkpoint, and labels of what differs between them."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preference_duel.protocols import attended
from runners.run.build import Experiment, build_experiment, load_experiment
from runners.run.config import PARTS, RunConfig, Settings, config_class
from runners.run.config_file import read_settings
from runners.run.record import changed_files, title

LABELLING = "seed", "batch_size", "feedback", "votes"
"""Settings of a run that may stand in its label; of the four parts all may."""


@dataclass(frozen=True)
class SavedRun:
    """A run loaded from its directory.

    Attributes:
        directory: of the run.
        label: what differs from the runs loaded with it.
        settings: as saved.
        experiment: the agent as saved last, the reference as at the start.
        step: updates made before the checkpoint.
    """

    directory: Path
    label: str
    settings: Settings
    experiment: Experiment
    step: int


def read_saved_runs(directories: Sequence[Path], device: str) -> list[SavedRun]:
    """Loads runs, each with its task, oracle, agent and policies.

    Args:
        directories: run directories.
        device: device of networks.

    Raises:
        ValueError: if a directory holds no run or no checkpoint, or the runs have different tasks.
        OSError: if a checkpoint or a file that a run read can't be read.
    """
    settings = [read_settings(directory) for directory in directories]
    tasks = [each.to_json()["task"] | {"": each.names["task"]} for each in settings]
    for directory, task in zip(directories, tasks, strict=True):
        if task != tasks[0]:
            raise ValueError(
                f"runs that are compared must share a task; {directories[0]} has {_described(tasks[0])}, {directory} "
                f"has {_described(task)}: evaluate them apart"
            )
    runs = []
    for directory, label, each in zip(directories, labels(settings, directories), settings, strict=True):
        for line in changed_files(directory, each):
            warnings.warn(f"{directory}: {line}; what is measured is not what the run saw", stacklevel=2)
        experiment, saved = load_experiment(directory, each, device)
        if (people := attended(experiment.oracle)) is not None:
            people.keep_in(directory, title(directory))
        runs.append(SavedRun(directory, label, each, experiment, saved.step))
    return runs


def read_model(name: str, start: str | None, task: str, oracle: tuple[str, Any], device: str) -> SavedRun:
    """Returns a language model as if it were what a run ended with.

    Args:
        name: a transformers directory or hub id.
        start: of the model that it was trained from; None: the model itself.
        task: name of the task.
        oracle: name and configuration of the judge.
        device: device of networks.

    Raises:
        ValueError: if the model can't read the task's prompts.
        UnknownNameError: if there is no such model or task.
        OSError: if one can't be read.
    """
    names = {"task": task, "policy": name, "oracle": oracle[0], "agent": "spo"}
    built = {part: config_class(part, names[part]) for part in ("task", "policy", "agent")}
    configs = {**{part: kind(**fields) for part, (kind, fields) in built.items()}, "oracle": oracle[1]}
    settings = Settings(names, configs, RunConfig())
    experiment = build_experiment(settings, device)
    if start is not None:
        kind, fields = config_class("policy", start)
        settings = Settings({**names, "policy": start}, {**configs, "policy": kind(**fields)}, RunConfig())
        reference = build_experiment(settings, device).reference
        experiment = dataclasses.replace(experiment, reference=reference)
    return SavedRun(Path(name), Path(name).name, settings, experiment, 0)


def labels(settings: Sequence[Settings], directories: Sequence[Path]) -> list[str]:
    """Returns the agent's name and whatever differs between the runs, the directory if that is not enough."""
    flat = [_flat(each) for each in settings]
    names = []
    for fields in flat:
        words = [fields["agent", ""]]
        for (part, field), value in fields.items():
            alike = [other for other in flat if not field or other.get((part, "")) == fields.get((part, ""))]
            if (part, field) != ("agent", "") and len({str(other[part, field]) for other in alike}) > 1:
                words.append(f"{field}={value}" if field else str(value))
        names.append(" ".join(words))
    counts = Counter(names)
    return [
        label if counts[label] == 1 else f"{label} ({directory.name})"
        for label, directory in zip(names, directories, strict=True)
    ]


def _flat(settings: Settings) -> dict[tuple[str, str], Any]:
    """Returns (part, field) -> value; a part's name stands under the field ""."""
    content = settings.to_json()
    parts = {(part, name): value for part in PARTS for name, value in _leaves(content[part])}
    run = {("run", name): content["run"][name] for name in LABELLING}
    return {**{(part, ""): name for part, name in content["names"].items()}, **parts, **run}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _described(task: Mapping[str, Any]) -> str:
    return " ".join([str(task[""]), *(f"{name}={value}" for name, value in task.items() if name)])
