"""Finds what a name stands for: a built-in, or `module:Attribute` of the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any


class UnknownNameError(ValueError):
    """A name that is neither built in nor importable."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest known name, or ""."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def require_known(kind: str, name: str, built_in: Mapping[str, str], own: bool = True) -> None:
    """Raises unless a name is built in or has the form "module:Attribute"; imports nothing.

    Args:
        kind: what is looked for, for the message.
        name: the name.
        built_in: the known names.
        own: whether "module:Attribute" is allowed.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    module, _, attribute = name.partition(":")
    if name in built_in or (own and attribute and module and not module.startswith(".")):
        return
    or_own = ", or your own as 'module:Config'" if own else ""
    raise UnknownNameError(
        f"unknown {kind} '{name}'{nearest(name, built_in) or '.'} Known: {', '.join(sorted(built_in))}{or_own}."
    )


def find(kind: str, name: str, built_in: Mapping[str, str]) -> Any:
    """Returns the object that a name stands for.

    Args:
        kind: what is looked for, for the message: "agent", "oracle", ...
        name: a key of `built_in`, or "package.module:Attribute"; modules beside the working directory count.
        built_in: name -> "package.module:Attribute".

    Raises:
        UnknownNameError: with the nearest known name, or what could not be imported.
    """
    require_known(kind, name, built_in)
    module_name, _, attribute = built_in.get(name, name).partition(":")
    if name not in built_in and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UnknownNameError(
            f"{kind} '{name}': no module '{error.name}' in the working directory or among the installed packages"
        ) from error
    if not hasattr(module, attribute):
        raise UnknownNameError(
            f"{kind} '{name}': module '{module_name}' has no '{attribute}'{nearest(attribute, vars(module)) or '.'}"
        )
    return getattr(module, attribute)


def configure(kind: str, name: str, built_in: Mapping[str, str], fields: Mapping[str, Any]) -> Any:
    """Returns the named configuration dataclass filled with `fields`.

    Raises:
        UnknownNameError: if the name or one of the fields is unknown; the nearest one is suggested.
    """
    return fill(kind, name, find(kind, name, built_in), fields)


def fill(kind: str, name: str, config: Any, fields: Mapping[str, Any]) -> Any:
    """Returns a configuration dataclass filled with `fields`.

    Raises:
        UnknownNameError: if one of the fields is unknown; the nearest one is suggested.
        TypeError: if it is no dataclass with `build`.
    """
    if not isinstance(config, type) or not dataclasses.is_dataclass(config) or not hasattr(config, "build"):
        raise TypeError(f"{kind} '{name}' must be a dataclass with a build() method, got {config!r}")
    known = {field.name for field in dataclasses.fields(config)}
    for field in fields:
        if field not in known:
            hint = nearest(field, known) or "."
            raise UnknownNameError(f"{kind} '{name}' has no field '{field}'{hint} Fields: {', '.join(sorted(known))}.")
    return config(**fields)  # pyright: ignore[reportCallIssue] - a dataclass type, checked above
