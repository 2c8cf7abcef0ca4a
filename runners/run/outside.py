"""Files outside of a run directory that a run reads: where they are, and whether they are still the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HUB = "hf:"
WHOLE = 2**26
"""Bytes of a file in a directory up to which its content counts; of larger ones, a model's weights, the size does."""
NAMES = "path", "held_out", "checkpoint", "template", "data", "of"
"""Fields that may name a file or directory without a dot or slash in it."""

WRITTEN = "cache", "file"
"""Fields that name a file which the run itself writes."""


def fingerprints(settings: Any) -> dict[str, dict[str, str]]:
    """Returns "part.field" -> absolute path and sha256 of every file or directory that the settings name."""
    found = {}
    for key, value in _values(settings):
        path = _existing(key, value)
        if path is not None:
            found[key] = {"path": str(path.resolve()), "sha256": fingerprint(path)}
    return found


def fingerprint(path: Path) -> str:
    """Returns the sha256 of a file, or of the names and contents in a directory."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for inner in sorted(one for one in path.rglob("*") if one.is_file()):
        size = inner.stat().st_size
        content = fingerprint(inner) if size <= WHOLE else str(size)
        whole.update(f"{inner.relative_to(path)}\0{content}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def located(settings: Any, files: Mapping[str, Mapping[str, str]]) -> Any:
    """Returns a run's settings with the absolute path of each file that is not where a relative one leads from here.

    A run directory that was moved to another machine with its files beside it keeps the relative paths.
    """
    configs, run = dict(settings.configs), settings.run
    for key, one in files.items():
        part, *names = key.split(".")
        owner = run if part == "run" else configs[part]
        value = str(_get(owner, names))
        prefix = HUB if value.startswith(HUB) else ""
        here = Path(value.removeprefix(HUB)).expanduser()
        if here.resolve() == Path(one["path"]) or not Path(one["path"]).exists():
            continue
        owner = _with(owner, names, prefix + one["path"])
        if part == "run":
            run = owner
        else:
            configs[part] = owner
    return dataclasses.replace(settings, configs=configs, run=run)


def changes(settings: Any, files: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a line for each file that is not what it was when the run began; `settings` are those of `located`."""
    now = fingerprints(settings)
    lines = []
    for key, one in files.items():
        if key not in now:
            lines.append(f"--{_flag(key)} {one['path']} is no longer there")
        elif now[key]["sha256"] != one["sha256"]:
            then, new = one["sha256"][:12], now[key]["sha256"][:12]
            lines.append(
                f"--{_flag(key)} {now[key]['path']} has changed since the run began (sha256 {then}, now {new})"
            )
    return lines


def _values(settings: Any) -> Iterator[tuple[str, Any]]:
    files = settings.run.files
    yield from ((f"run.data.{i}" if len(files) > 1 else "run.data", file) for i, file in enumerate(files))
    for part, config in settings.configs.items():
        yield from _fields(part, config)


def _fields(prefix: str, config: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(f"{prefix}.{field.name}", value)
        else:
            yield f"{prefix}.{field.name}", value


def _existing(key: str, value: Any) -> Path | None:
    if not isinstance(value, str | Path) or not str(value):
        return None
    text, name = str(value).removeprefix(HUB), _flag(key).rpartition(".")[2]
    if name in WRITTEN or not ({"/", "."} & set(text) or name in NAMES):
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() and path.resolve() != Path.cwd() else None
    except (OSError, ValueError, RuntimeError):  # a text that is no path: too long, with a NUL, an unknown ~user
        return None


def _flag(key: str) -> str:
    """Returns a key without the number that one of several files has."""
    return key.rstrip(".0123456789")


def _get(owner: Any, names: Sequence[str]) -> Any:
    for name in names:
        owner = owner.split(",")[int(name)] if isinstance(owner, str) else getattr(owner, name)
    return owner


def _with(owner: Any, names: Sequence[str], value: str) -> Any:
    first, *rest = names
    if isinstance(owner, str):  # one of several files
        files = owner.split(",")
        if "," in value:
            raise ValueError(f"{value} has a comma in it, which separates several files: rename it, or its folder")
        files[int(first)] = value
        return ",".join(files)
    old = getattr(owner, first)
    new = _with(old, rest, value) if rest else type(old)(value)
    return dataclasses.replace(owner, **{first: new})
