"""Settings of a run: agent, oracle, task and policy, and the run's own."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from agents.registry import AGENTS, POLICIES
from envs.tasks.task import require_task, task_config
from envs.votes.options import ReadOptions
from oracles.registry import GAMES, oracle_config, require_oracle
from preference_duel.names import UnknownNameError, find, nearest, require_known
from preference_duel.types import DuelFeedback

PARTS = "task", "policy", "oracle", "agent"
TABLES: dict[str, Mapping[str, str]] = {"policy": POLICIES, "agent": AGENTS}
DEFAULT_TAU = 0.1
"""Small enough that the equilibrium leaves the start, large enough that it depends on it."""
FINITE = "symbols", ".json"
"""Built-in tasks that list every response, by name or ending; a task of your own says `finite: ClassVar[bool]`."""


@dataclass(frozen=True)
class RunConfig:
    """Length of the run, its measurements, and its directory."""

    steps: int = 100
    """Updates of the agent in all; with `parallel` the only setting that may change on --resume."""
    queries: int | None = None
    """Oracle queries after which the run ends, though it has steps left, >= 1; None: the steps alone count."""
    batch_size: int | None = 32
    """Prompts per step, drawn with replacement; None: every training prompt once."""
    feedback: DuelFeedback = "outcome"
    """What a query reveals: "outcome" (who won), "probability" (P itself), or "thumb" (whether a response won against
    one of the start that is not shown; for agents of single responses, such as kto)."""
    votes: int = 1
    """Outcomes per asked pair; 1 under the other kinds of feedback."""
    data: str | None = None
    """Preferences given before, to learn from instead of duels: a file of JSON lines, a JSON array, CSV or Parquet, or
    a dataset's directory, in a public format or one of your own (docs/data.md); the oracle then only measures. Several
    with commas between are played in turn, and the reference is renewed as each begins (sDPO)."""
    stage_steps: int | None = None
    """Steps on each of several files of `data` but the last, >= 1; None: as many as play all of the file once."""
    unwritable: Literal["stop", "skip", "cut"] = "stop"
    """What happens to preferences of `data` that the policy can't write (longer than max_new_tokens, a word outside of
    its vocabulary): stop before the first step, skip them, or cut responses that are too long and skip the rest."""
    reading: Annotated[ReadOptions, tyro.conf.arg(name="data")] = dataclasses.field(default_factory=ReadOptions)
    opponent: str | None = None
    """Directory of a finished run, or a transformers directory or hub id, whose policy is the opponent in every duel:
    the agent (spo) learns a best response to it; None: self-play."""
    seed: int = 0
    """Names every random number of the run, but for the oracle's own game."""
    dir: str | None = None
    """The run directory; None: runs/TASK-AGENT-ORACLE-seedN-TIME."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto: cuda where there is one."""
    deterministic: bool = False
    """Use only operations that give the same bits whenever they are repeated on the same device, and stop at one that
    has no such form; slower on GPUs."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What processes started by torchrun share: "ddp" the work, each with whole parameters; "fsdp" the parameters too
    (FSDP2), where one GPU can't hold them. It may change on --resume, as their number may."""
    threads: int | None = None
    """CPU threads of torch; None: torch's own choice. A resumed run keeps the number it started with."""
    eval_every: int = 20
    """Steps between evaluations on held-out prompts (also before the first step and after the last); 0: never."""
    eval_queries: int | None = None
    """Oracle queries between evaluations, >= 1, instead of `eval_every` steps: at the end of the first step that has
    asked so many more; None: steps count."""
    eval_prompts: int = 128
    """Held-out prompts of an evaluation at most; the same in every run."""
    eval_pairs: int = 4
    """Pairs for each of them: one response of the policy, one of the starting policy; finite tasks need no draws."""
    eval_pool: int = 16
    """Responses of the starting policy per prompt, of free text, among which an adversary chooses the best against the
    policy: a lower bound of its exploitability, on 24 held-out prompts; 0: none."""
    eval_tau: float | None = None
    """KL coefficient, > 0, of the regularised game by which finite tasks are measured, the starting policy its
    reference; None: the agent's own `tau`, 0.1 where it has none or 0."""
    save_every: int = 20
    """Steps between checkpoints (also after the last step); 0: only then."""
    keep: int = 2
    """Checkpoints that are kept, at least 1."""
    duel_every: int = 10
    """Steps between entries in duels.jsonl; 0: none."""
    duel_prompts: int = 2
    """Prompts of such an entry."""

    def __post_init__(self) -> None:
        least = {
            "steps": 0,
            "queries": 1,
            "batch_size": 1,
            "votes": 1,
            "stage_steps": 1,
            "seed": 0,
            "threads": 1,
            "eval_every": 0,
            "eval_queries": 1,
            "eval_prompts": 1,
        }
        least |= {"eval_pairs": 1, "eval_pool": 0, "save_every": 0, "keep": 1, "duel_every": 0, "duel_prompts": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"run.{name} must be at least {bound}, got {value}")
        if self.data is None and self.reading != ReadOptions():
            raise ValueError("run.data.format, fields, split, strict and soft say how run.data is read, which is None")
        if not all(self.files):
            raise ValueError(f"run.data={self.data!r} names an empty file; write FILE,FILE without spaces")
        if self.stage_steps is not None and len(self.files) < 2:
            raise ValueError(
                f"run.stage_steps is about several files (--run.data FILE,FILE), and run.data={self.data!r}"
            )
        if self.data is None and self.unwritable != "stop":
            raise ValueError(f"run.unwritable={self.unwritable!r} is about run.data, which is None")
        if self.eval_tau is not None and not 0 < self.eval_tau < math.inf:
            raise ValueError(f"run.eval_tau must be positive, got {self.eval_tau:g}")

    @property
    def files(self) -> list[str]:
        """The files of `data`, in their order; a name that exists as it is may have commas in it."""
        if self.data is None:
            return []
        try:
            whole = Path(self.data).exists()
        except OSError:  # the names of several files are longer together than one may be
            whole = False
        return [self.data] if whole else self.data.split(",")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes.

    Attributes:
        names: what was chosen for each of `PARTS`.
        configs: the configuration of each of `PARTS`.
        run: the run's own settings.
    """

    names: dict[str, str]
    configs: dict[str, Any]
    run: RunConfig

    def to_json(self) -> dict[str, Any]:
        """Returns the names and every field as JSON values."""
        parts = {part: fields_of(self.configs[part]) for part in PARTS}
        return {"names": self.names, **parts, "run": fields_of(self.run)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Settings:
        """Returns the settings that `to_json` wrote.

        Raises:
            ValueError: if a name or a field is unknown here.
        """
        names = {part: str(content["names"][part]) for part in PARTS}
        configs = {part: filled(config_class(part, names[part])[0], content[part]) for part in PARTS}
        return Settings(names, configs, filled(RunConfig, content["run"]))


def sampling(settings: Settings) -> Settings:
    """Returns settings whose policy samples, where it listed its whole distribution, which asks about all pairs."""
    policy = settings.configs["policy"]
    if not getattr(policy, "exact", False):
        return settings
    return dataclasses.replace(
        settings, configs={**settings.configs, "policy": dataclasses.replace(policy, exact=False)}
    )


def require_name(part: str, name: str) -> None:
    """Raises if a name can't be one of a task, policy, oracle or agent, without importing what it stands for.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if part == "task":
        require_task(name)
    elif part == "oracle":
        require_oracle(name)
    elif part == "policy" and name not in POLICIES and ":" not in name:
        if "/" not in name and not Path(name).is_dir() and nearest(name, POLICIES):
            known = ", ".join(sorted(POLICIES))
            raise UnknownNameError(
                f"unknown policy '{name}'{nearest(name, POLICIES)} Known: {known}, a transformers directory or hub "
                f"id, or your own as 'module:Config'."
            )
    else:
        require_known(part, name, TABLES[part])


def config_class(part: str, name: str) -> tuple[type, dict[str, Any]]:
    """Returns the configuration dataclass that a name stands for, and the fields that the name itself sets.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if part == "task":
        kind, preset = task_config(name)
    elif part == "oracle":
        kind, preset = oracle_config(name)
    elif part == "policy" and name not in POLICIES and ":" not in name:
        require_name(part, name)
        kind, preset = find(part, "hf", POLICIES), {"path": name}
    else:
        kind, preset = find(part, name, TABLES[part]), {}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "build")):
        raise UnknownNameError(f"{part} '{name}' must be a dataclass with a build() method, got {kind!r}")
    return kind, dict(preset)


def is_finite(task: str) -> bool:
    """Returns whether a task's name stands for one that lists every response."""
    kind, _ = config_class("task", task)
    return bool(getattr(kind, "finite", task in (*FINITE, *GAMES) or Path(task).suffix in FINITE))


def fields_of(config: Any) -> dict[str, Any]:
    """Returns every field of a configuration as JSON values.

    Raises:
        ValueError: naming the field that JSON can't hold.
    """
    fields = {}
    for name, value in dataclasses.asdict(config).items():
        try:
            fields[name] = json.loads(json.dumps(value, default=_plain))
        except TypeError as error:
            raise ValueError(f"{type(config).__name__}.{name} = {value!r} can't be written as JSON: {error}") from error
    return fields


def changed(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the fields that are not at their default, those of a nested configuration as "outer.inner"."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(value):
            found |= changed(value, f"{prefix}{field.name}.")
        elif value != default:
            found[prefix + field.name] = value
    return found


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}; use numbers, strings, tuples and nested dataclasses")


def filled(kind: type, fields: Mapping[str, Any]) -> Any:
    """Returns the configuration whose `fields_of` these are; fields that are newer than the file take defaults.

    Raises:
        ValueError: if the configuration does not know one of the fields.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise ValueError(f"{kind.__name__} has no field '{name}'{nearest(name, known)} Was the run made elsewhere?")
    return kind(**{name: typed(hints[name], value) for name, value in fields.items()})


def typed(hint: Any, value: Any) -> Any:
    """Returns a JSON value as its annotation's type: JSON has no tuples, paths and dataclasses."""
    origin, inner = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin in (Union, types.UnionType):
        options = [typed(option, value) for option in inner if option is not type(None)]
        return next((option for option in options if type(option) is not type(value)), value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return filled(hint, value)  # pyright: ignore[reportArgumentType] - a type: hints hold no instances
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1:] == (...,) else inner
        return tuple(typed(kind, item) for kind, item in zip(kinds, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    return Path(value) if hint is Path and isinstance(value, str) else value
