"""The command line: argparse reads which four parts are chosen, tyro reads the fields of their configurations."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from agents.registry import AGENTS, POLICIES
from envs.tasks.task import TASKS
from oracles.registry import BUILT_IN as ORACLES
from oracles.registry import GAMES, WRAPPERS
from preference_duel.deferred import deferred
from preference_duel.names import UnknownNameError
from runners.run.config import PARTS, RunConfig, Settings, config_class, is_finite, require_name

if TYPE_CHECKING:
    from runners.run.config_file import ConfigFile

PROGRAM = "python -m runners.duel"
DESCRIPTION = "A policy learns from preferences by duels: an agent proposes, an oracle judges."
CONFIG = "Settings in YAML, or a run directory with those of its run; other flags override them."
RESUME = "Goes on with the run in this directory, from its last checkpoint."
TRACEBACK = "DUEL_TRACEBACK"
"""Environment variable that asks for the traceback of an error."""
MAY_CHANGE = ("run", "steps"), ("run", "parallel")
"""Fields of a run that another command line may set on --resume."""
CHOICES = {
    "task": f"{', '.join([*TASKS, *GAMES])}, FILE.jsonl of prompts, FILE.json of a game, hf:DATASET, "
    "votes:FILE of votes, or module:Config",
    "policy": f"{', '.join(POLICIES)}, a transformers directory or hub id, or module:Config",
    "oracle": f"{', '.join([*ORACLES, *GAMES])}, or module:Config; +{', +'.join(WRAPPERS)} wrap it",
    "agent": f"{', '.join(AGENTS)}, or module:Config",
}
_OFTEN = "sppo", "ipo", "dpo", "kto", "inpo", "nash_md", "spo", "oelhf", "rlhf", "grpo", "ppo"
SHORT_CHOICES = {
    **CHOICES,
    "agent": f"{', '.join(_OFTEN)}, {len(AGENTS) - len(_OFTEN)} others (--help-all), or module:Config",
}
"""The choices of --help, which fits on two screens."""
VOTES = "votes:"
"""Beginning of the name of a task whose responses are the items of a file of votes."""
HUB_JUDGES = {"pairrm": {"checkpoint": "llm-blender/PairRM"}}
"""Oracle fields beside a policy from a directory or the hub: the embedded judge knows the embedded text alone."""


INDENT = 34
"""Columns of a flag and its default, ahead of its meaning."""
FOOTER = """Each flag stands beside its default; switches (on, off) are set by --part.field, cleared by --part.no-field.
--help-all gives the full texts, types and choices, and the fields that '*' stands for."""


def exit_code(command: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Runs a command and prints what ended it, in one line.

    Args:
        command: returns an exit code; None: 0.
        interrupted: printed after Ctrl-C.

    Returns:
        Its exit code, 130 after Ctrl-C, 1 after an error and 2 after an unknown name.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UnknownNameError) else 1


@dataclass(frozen=True)
class Command:
    """A command line, resolved.

    Attributes:
        settings: what is to run.
        arguments: the command line as it was typed.
        resume: the run directory that goes on; None: a new run.
    """

    settings: Settings
    arguments: tuple[str, ...]
    resume: Path | None = None


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Reads a command line; --help, --help-all and unknown fields end the program.

    Args:
        arguments: what follows the program's name; None: sys.argv.

    Raises:
        UnknownNameError: if no such agent, oracle, policy or task is known.
        ValueError: if a file of settings is wrong, or a resumed run is asked to change.
        OSError: if that file, or the run that is to go on, can't be read.
    """
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    chosen, config, resume = _choices(arguments)
    for part, name in chosen.items():
        require_name(part, name)  # before a configuration is imported, which takes a second
    if resume is None:
        file = None if config is None else _read_config_file(config, chosen)
        with deferred("torch"):
            names = _names({**(file.names if file else {}), **chosen})
            presets = _presets(names, file)
        run = RunConfig(**_run_defaults(names["oracle"]))
        run = file.over("run", run) if file else run
        return Command(_fields(arguments, names, presets, run), arguments)
    if config is not None:
        raise ValueError(f"--config {config}: the run in {resume} has its own settings; leave it out, or --resume")
    from runners.run.config_file import read_settings

    before = read_settings(resume)
    before = dataclasses.replace(before, run=dataclasses.replace(before.run, dir=str(resume)))
    for part, name in chosen.items():
        if name != before.names[part]:
            raise ValueError(f"--{part} {name}: the run in {resume} has --{part} {before.names[part]}; start a new run")
    after = _fields(arguments, before.names, before.configs, before.run)
    for part, old, new in [("run", before.run, after.run), *((p, before.configs[p], after.configs[p]) for p in PARTS)]:
        _require_same(part, old, new)
    return Command(after, arguments, resume)


def _choices(arguments: Sequence[str]) -> tuple[dict[str, str], Path | None, Path | None]:
    """Reads the chosen parts, --config and --resume; everything else is tyro's."""
    first = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    for part in PARTS:
        first.add_argument(f"--{part}")
    for flag in ("config", "resume"):
        first.add_argument(f"--{flag}", type=Path)
    known = vars(first.parse_known_args(arguments)[0])
    config, resume = known.pop("config"), known.pop("resume")
    return {part: name for part, name in known.items() if name is not None}, config, resume


def _read_config_file(path: Path, chosen: Mapping[str, str]) -> ConfigFile:
    """Returns a file of settings, without the fields of parts that a flag replaces by another."""
    from runners.run.config_file import read_config_file

    file = read_config_file(path)
    replaced = {part for part, name in chosen.items() if file.names.get(part, name) != name}
    return dataclasses.replace(file, fields={part: file.fields[part] for part in file.fields.keys() - replaced})


def _names(chosen: Mapping[str, str]) -> dict[str, str]:
    """Fills up what was not chosen: the embedded text has its judge and policy, a finite task needs neither."""
    task = chosen.get("task", "chat")
    if not is_finite(task):
        defaults = {"policy": "tiny", "oracle": "pairrm"}
    else:
        judge = task if task in GAMES else "table" if _has_prob(task) else "cyclic"
        judge = "votes" if task.startswith(VOTES) else judge
        defaults = {"policy": "tabular", "oracle": judge}
    defaults["policy"] = _own_policy(chosen.get("agent", "sppo"))[0] or defaults["policy"]
    return {"task": task, "agent": "sppo", **defaults, **chosen}


def _own_policy(agent: str) -> tuple[str | None, Mapping[str, Any]]:
    """Returns the policy that an agent brings, and fields of it; None where any will do."""
    return getattr(config_class("agent", agent)[0], "own_policy", (None, {}))


def _run_defaults(oracle: str) -> Mapping[str, Any]:
    """Returns the settings of a run that an oracle changes unless they are set."""
    return getattr(config_class("oracle", oracle)[0], "run_defaults", {})


def _has_prob(task: str) -> bool:
    """Returns whether a finite game's file brings its own payoff; what is wrong with a file is the task's to say."""
    try:
        return Path(task).suffix == ".json" and "prob" in json.loads(Path(task).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _presets(names: Mapping[str, str], file: ConfigFile | None) -> dict[str, Any]:
    """Returns for each part its configuration before any flag was read; tyro's MISSING if a field is required."""
    presets = {}
    own, its_fields = _own_policy(names["agent"])
    for part in PARTS:
        kind, fields = config_class(part, names[part])
        if part == "policy" and names["policy"] == own:
            fields = {**its_fields, **fields}
        if part == "oracle" and _from_hub(names["policy"]):
            fields = HUB_JUDGES.get(_unwrapped(names[part]), {}) | fields
        if part == "oracle" and _unwrapped(names[part]) == "table" and Path(names["task"]).suffix == ".json":
            fields = {"path": names["task"]} | fields
        if part == "oracle" and _unwrapped(names[part]) == "votes" and names["task"].startswith(VOTES):
            fields = {"file": names["task"].removeprefix(VOTES)} | fields
        required = _required(kind) - set(fields)
        if file and file.fields.get(part):
            presets[part] = file.over(part, kind(**fields, **dict.fromkeys(required, tyro.MISSING)))
        else:
            presets[part] = tyro.MISSING_NONPROP if required else kind(**fields)
    return presets


def _unwrapped(oracle: str) -> str:
    return oracle.split("+", maxsplit=1)[0]


def _from_hub(policy: str) -> bool:
    return policy == "hf" or (policy not in POLICIES and ":" not in policy)


def _required(kind: type) -> set[str]:
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is missing and field.default_factory is missing
    }


def _fields(
    arguments: Sequence[str], names: Mapping[str, str], defaults: Mapping[str, Any], run: RunConfig
) -> Settings:
    """Reads `--agent.field` and its like over the defaults; prints a help that is wanted instead."""
    kinds = {part: config_class(part, names[part])[0] for part in PARTS} | {"run": RunConfig}
    defaults = {**defaults, "run": run}
    if {"-h", "--help"} & set(arguments):
        choices = {part: (names[part], f"{SHORT_CHOICES[part]}.") for part in PARTS} | {
            "config": ("FILE", CONFIG),
            "resume": ("DIR", RESUME),
        }
        print(_short_help(choices, {part: (kinds[part], defaults[part]) for part in kinds}))
        raise SystemExit(0)
    shape: list[tuple[str, Any, Any]] = []
    for part in PARTS:
        flag = tyro.conf.arg(name=part, metavar="NAME", help=f"{CHOICES[part]}.")
        shape.append((f"{part}_name", Annotated[str, flag], dataclasses.field(default=names[part])))
    for name, metavar, text in (("config", "FILE", CONFIG), ("resume", "DIR", RESUME)):
        flag = tyro.conf.arg(metavar=metavar, help=text)
        shape.append((name, Annotated[str | None, flag], dataclasses.field(default=None)))
    shape += [(part, kind, _default(defaults[part])) for part, kind in kinds.items()]
    parsed = tyro.cli(
        dataclasses.make_dataclass("Command", shape, frozen=True),
        prog=PROGRAM,
        description=DESCRIPTION,
        args=["--help" if word == "--help-all" else word for word in arguments],
        use_underscores=True,
        config=(
            tyro.conf.HelptextFromCommentsOff,
        ),  # a field's help is the string below it; comments take twice as long
    )
    return Settings(dict(names), {part: getattr(parsed, part) for part in PARTS}, parsed.run)


def _default(value: Any) -> Any:
    """Returns a field with this default, which may be a dataclass that is not frozen."""
    return dataclasses.field(default_factory=lambda: value)


def _require_same(part: str, before: Any, after: Any) -> None:
    """Raises if a field was changed on the command line of a resumed run, but for those that may."""
    may_change = getattr(before, "may_change", ())
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if new != old and (part, field.name) not in MAY_CHANGE and field.name not in may_change:
            raise ValueError(
                f"--{part}.{field.name} {new} does not fit the run that is resumed, which has {old}; "
                f"only --run.steps and --run.parallel may change: leave the flag out, or start a new run"
            )


def _short_help(choices: Mapping[str, tuple[str, str]], parts: Mapping[str, tuple[type, Any]]) -> str:
    """Returns the usage, the choices, and for each part its fields in a line each: flag, default, meaning.

    Args:
        choices: flag -> (current value, what it may be).
        parts: part -> (configuration class, its instance with defaults; anything else if it lacks required fields).
    """
    width = shutil.get_terminal_size().columns
    lines = [f"usage: {PROGRAM} [OPTIONS]", "", DESCRIPTION, ""]
    for flag, (value, text) in choices.items():
        start = f"--{flag} {value}".ljust(INDENT - 1) + " "
        lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * INDENT)
    for part, (kind, config) in parts.items():
        lines += ["", textwrap.shorten(f"{part}: {inspect.getdoc(kind) or ''}".partition("\n")[0], width)]
        lines += [_line(*row, width) for row in _rows(kind, config, part)]
    return "\n".join([*lines, "", FOOTER])


def _line(flag: str, value: str, text: str, width: int) -> str:
    start = f"  --{flag} {value}".ljust(INDENT - 1) + " "
    return start + textwrap.shorten(text, max(width - len(start), 20), placeholder=" ...", break_on_hyphens=False)


def _rows(kind: type, config: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yields flag, default and meaning of each field; a nested configuration is one row with its fields' names."""
    hints, texts = get_type_hints(kind, include_extras=True), _docstrings(kind)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        shown = [part.name for part in getattr(hints[field.name], "__metadata__", ()) if getattr(part, "name", None)]
        flag = f"{prefix}.{(shown or [field.name])[0]}"
        value = getattr(config, field.name) if isinstance(config, kind) else _field_default(field)
        if dataclasses.is_dataclass(value):
            yield f"{flag}.*", "", ", ".join(inner.name for inner in dataclasses.fields(value))
        else:
            yield flag, _shown(value), texts.get(field.name, "")


def _field_default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "(on)" if value else "(off)"
    return "(required)" if value is dataclasses.MISSING else str(value)


def _docstrings(kind: type) -> dict[str, str]:
    """Returns the string below each field, of the class itself and of those that it extends."""
    texts: dict[str, str] = {}
    for base in kind.__mro__:
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # a built-in class, or one that was not read from a file
            continue
        for field, below in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts.setdefault(name, text)
    return texts
