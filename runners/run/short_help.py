"""The short help of a run: one line per field of the chosen parts."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

INDENT = 34
"""Columns of a flag and its default, ahead of its meaning."""
FOOTER = """Each flag stands beside its default; switches (on, off) are set by --part.field, cleared by --part.no-field.
--help-all gives the full texts, types and choices, and the fields that '*' stands for."""


def short_help(
    program: str, description: str, choices: Mapping[str, tuple[str, str]], parts: Mapping[str, tuple[type, Any]]
) -> str:
    """Returns the usage, the choices, and for each part its fields in a line each: flag, default, meaning.

    Args:
        program: how the command line begins.
        description: what it does.
        choices: flag -> (current value, what it may be).
        parts: part -> (configuration class, its instance with defaults; anything else if it lacks required fields).
    """
    width = shutil.get_terminal_size().columns
    lines = [f"usage: {program} [OPTIONS]", "", description, ""]
    for flag, (value, text) in choices.items():
        start = f"--{flag} {value}".ljust(INDENT - 1) + " "
        lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * INDENT)
    for part, (kind, config) in parts.items():
        lines += ["", textwrap.shorten(f"{part}: {inspect.getdoc(kind) or ''}".partition("\n")[0], width)]
        lines += [_line(*row, width) for row in _fields(kind, config, part)]
    return "\n".join([*lines, "", FOOTER])


def _line(flag: str, value: str, text: str, width: int) -> str:
    start = f"  --{flag} {value}".ljust(INDENT - 1) + " "
    return start + textwrap.shorten(text, max(width - len(start), 20), placeholder=" ...", break_on_hyphens=False)


def _fields(kind: type, config: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yields flag, default and meaning of each field; a nested configuration is one row with its fields' names."""
    hints, texts = get_type_hints(kind, include_extras=True), _docstrings(kind)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        shown = [part.name for part in getattr(hints[field.name], "__metadata__", ()) if getattr(part, "name", None)]
        flag = f"{prefix}.{(shown or [field.name])[0]}"
        value = getattr(config, field.name) if isinstance(config, kind) else _default(field)
        if dataclasses.is_dataclass(value):
            yield f"{flag}.*", "", ", ".join(inner.name for inner in dataclasses.fields(value))
        else:
            yield flag, _shown(value), texts.get(field.name, "")


def _default(field: dataclasses.Field[Any]) -> Any:
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
