"""Settings of a run from a YAML file, or from config.json of a run directory."""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from preference_duel.json_text import parse_json, short
from preference_duel.names import UnknownNameError, nearest
from runners.run.config import PARTS, Settings, require_name, typed
from runners.run.outside import located

RECORDED = (
    "command",
    "started",
    "device",
    "processes",
    "threads",
    "git_commit",
    "versions",
    "platform",
    "resumed",
    "files",
)
"""Entries of a run directory's config.json beside the settings."""
SECTIONS = "names", *PARTS, "run"


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in YAML 1.2, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class ConfigFile:
    """A file of settings.

    Attributes:
        path: of the file.
        names: task, policy, oracle and agent, as far as it names them.
        fields: part, or "run" -> its fields, as YAML gave them.
    """

    path: Path
    names: Mapping[str, str]
    fields: Mapping[str, Mapping[str, Any]]

    def over(self, part: str, config: Any) -> Any:
        """Returns a configuration with the fields that the file has for its part.

        Raises:
            ValueError: "FILE: part.field: ..." if a field is unknown, of a wrong type or out of range.
        """
        return _merged(config, self.fields.get(part, {}), f"{self.path}: {part}")


def read_config(directory: Path) -> dict[str, Any]:
    """Returns config.json of a run directory.

    Raises:
        ValueError: if there is no run, or the file is no JSON.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is no run directory: it has no config.json")
    return parse_json(path.read_bytes(), path)


def is_run(path: Path) -> bool:
    """Returns whether a directory is a run's; a transformers directory has a config.json too."""
    try:
        return "names" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_settings(directory: Path) -> Settings:
    """Returns the settings of the run in a directory; a file that it read is found from any working directory.

    Raises:
        ValueError: if config.json is missing, damaged, or has an unknown name.
    """
    content = read_config(directory)
    try:
        return located(Settings.from_json(content), content.get("files", {}))
    except KeyError as error:
        raise ValueError(f"{directory / 'config.json'} lacks {error}") from error


def read_config_file(path: Path) -> ConfigFile:
    """Reads a YAML or JSON file of settings, or those of a run directory but for its place.

    Raises:
        ValueError: "FILE:LINE: ..." if it is no YAML, "FILE: ..." if its sections are not those of config.json.
        UnknownNameError: if it names an unknown task, policy, oracle or agent.
        OSError: if it can't be read.
    """
    path = path / "config.json" if path.is_dir() else path
    content = _mapping(_parse(path), f"{path}", "names, fields of task, policy, oracle and agent, and run")
    for name in content:
        if name not in (*SECTIONS, *RECORDED):
            raise ValueError(f"{path}: {name}: no such section{nearest(str(name), SECTIONS) or '.'} {_known(SECTIONS)}")
    sections = {name: _mapping(content.get(name) or {}, f"{path}: {name}", "a mapping") for name in SECTIONS}
    names, fields = sections.pop("names"), dict(sections)
    for part, name in names.items():
        if part not in PARTS:
            raise ValueError(f"{path}: names.{part}: no such part{nearest(str(part), PARTS) or '.'} {_known(PARTS)}")
        if not isinstance(name, str):
            raise ValueError(f"{path}: names.{part}: expected a name, got {short(name)}")
        try:
            require_name(part, name)
        except UnknownNameError as error:
            raise UnknownNameError(f"{path}: names.{part}: {error}") from error
    if content.keys() & set(RECORDED):
        fields["run"] = {name: value for name, value in fields["run"].items() if name != "dir"}
    return ConfigFile(path, names, fields)


def _parse(path: Path) -> Any:
    """Returns what a file holds; JSON is YAML too."""
    try:
        return yaml.load(path.read_bytes(), _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: broken YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: broken YAML: {str(error).splitlines()[0]}") from error


def _mapping(value: Any, place: str, expected: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected {expected}, got {short(value)}")
    return value


def _known(names: tuple[str, ...] | list[str]) -> str:
    return f"Known: {', '.join(names)}."


def _merged(config: Any, fields: Mapping[Any, Any], place: str) -> Any:
    """Returns a configuration with some of its fields replaced, those of nested configurations one by one."""
    hints = get_type_hints(type(config))
    known = [field.name for field in dataclasses.fields(config) if field.init]
    values = {}
    for name, value in fields.items():
        field = f"{place}.{name}"
        if name not in known:
            raise ValueError(f"{field}: no such field{nearest(str(name), known) or '.'} {_known(known)}")
        before = getattr(config, name)
        if dataclasses.is_dataclass(before):
            values[name] = _merged(before, _mapping(value, field, "a mapping"), field)
        elif _fits(hints[name], value):
            values[name] = typed(hints[name], value)
        else:
            raise ValueError(f"{field}: expected {_spelled(hints[name])}, got {short(value)}")
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _fits(hint: Any, value: Any) -> bool:
    """Returns whether a YAML value can stand for a type; one of the user's own takes anything."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(option, value) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) and isinstance(value, list) else inner
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_fits, kinds, value))
    yaml_types = {float: (int, float), int: int, str: str, bool: bool, Path: str, types.NoneType: types.NoneType}
    if hint not in yaml_types:
        return True
    return isinstance(value, yaml_types[hint]) and (hint is bool or not isinstance(value, bool))


def _spelled(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_spelled, inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"a list of {_spelled(inner[0])}"
    return {types.NoneType: "null"}.get(hint, getattr(hint, "__name__", str(hint)))
