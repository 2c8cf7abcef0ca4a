"""Oracles that judge finished runs: their own, or others that they were not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from envs.tasks.task import Task
from oracles import Oracle
from runners.evaluation.saved_runs import SavedRun
from runners.run.build import build_oracle
from runners.run.config import changed, config_class, fields_of


@dataclass(frozen=True)
class Judge:
    """One oracle.

    Attributes:
        label: its name, with the fields that were set.
        oracle: decides the duels.
        fields: its configuration, as JSON values.
    """

    label: str
    oracle: Oracle
    fields: dict[str, Any]


def own_judges(runs: Sequence[SavedRun]) -> tuple[list[Judge], list[int]]:
    """Returns the distinct oracles of the runs, and for each run the index of its own."""
    judges: list[Judge] = []
    indices = []
    for run in runs:
        judge = _own(run)
        known = [other.fields for other in judges]
        indices.append(known.index(judge.fields) if judge.fields in known else len(judges))
        if judge.fields not in known:
            judges.append(judge)
    return judges, indices


def read_judge(text: str, task: Task, device: str) -> Judge:
    """Builds the oracle named by a text.

    Args:
        text: NAME[,FIELD=VALUE...], such as "bt" or "cyclic,lam=0.75,seed=3".
        task: its prompts and responses parametrise a finite family.
        device: device of a network.

    Raises:
        UnknownNameError: if no such oracle is known.
        ValueError: if a field has no value, or one that the oracle refuses.
    """
    name, config = judge_config(text)
    return Judge(text, build_oracle(config, task, device), {"name": name, **fields_of(config)})


def judge_config(text: str) -> tuple[str, Any]:
    """Returns the name and the configuration of an oracle named by NAME[,FIELD=VALUE...].

    Raises:
        UnknownNameError: if no such oracle is known.
        ValueError: if a field has no value.
    """
    name, *settings = text.split(",")
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"--oracle {text}: expected FIELD=VALUE after a comma, got {setting!r}")
    kind, preset = config_class("oracle", name)
    arguments = [part for setting in settings for part in (f"--{setting.split('=', 1)[0]}", setting.split("=", 1)[1])]
    missing = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    default = kind(**{**dict.fromkeys(required, tyro.MISSING), **preset})
    config = tyro.cli(kind, prog=f"--oracle {name}", default=default, args=arguments, use_underscores=True)
    return name, config


def _own(run: SavedRun) -> Judge:
    name, config = run.settings.names["oracle"], run.settings.configs["oracle"]
    words = [f"{field}={value}" for field, value in changed(config).items()]
    return Judge(",".join([name, *words]), run.experiment.oracle, {"name": name, **fields_of(config)})
