"""Every flag that the pages, docstrings and messages mention is one that the command line takes, with that value."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import re
import sys
import typing
from functools import cache

import pytest

from agents.registry import AGENTS, POLICIES
from oracles.registry import BUILT_IN, WRAPPERS
from preference_duel.names import UnknownNameError
from runners.run.cli import parse
from runners.run.config import RunConfig, config_class
from tests.documents import PAGES, files, name
from tests.paths import ROOT

SOURCES = ("preference_duel", "oracles", "envs", "agents", "runners", "benchmarks")
FLAG = re.compile(r"--(task|policy|oracle|agent|run)\.([A-Za-z][\w.-]*\w)(?:[ \n]+(?=([^\s`|\\]+)))?")
CODE = re.compile(r"```.*?```|`[^`]+`", flags=re.DOTALL)
PLAIN = re.compile(r"True|False|None|-?\.?\d[\w.+-]*")
"""Values outside of code, where a flag may be followed by prose."""
STANDS_FOR = re.compile(r"[A-Z]+|.*\.[A-Z]+|field")
"""Names that stand for any field."""
NAMES = {
    "task": ("chat", "symbols", "rps", "hf:DATASET", "votes:FILE", "prompts.jsonl"),
    "policy": tuple(POLICIES),
    "oracle": (*BUILT_IN, *(f"cyclic+{wrapper}" for wrapper in WRAPPERS), "my_oracle:Shorter"),
    "agent": tuple(AGENTS),
    "run": ("",),
}


def texts():
    """Every page, and every string of the source, by where it is."""
    for page in PAGES:
        yield name(page), page.read_text(encoding="utf-8")
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.JoinedStr):
                    yield where, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield where, node.value


def mentioned(text):
    """The flags of a text with their values, in groups that stand in one span of code or alone in prose."""
    for span in CODE.findall(text):
        yield [flag for flag in map(read, FLAG.finditer(span.replace("\\\n", " "))) if flag]
    for match in FLAG.finditer(CODE.sub(" ", text)):
        flag = read(match)
        if flag and flag[2] and not PLAIN.fullmatch(flag[2]):
            flag = (*flag[:2], None)
        yield [flag] if flag else []


def read(match):
    """The part, the field and the value that follows, None if another flag does."""
    part, field, value = match.groups()
    value = (value or "").rstrip(".,;:)\"'")
    if STANDS_FOR.fullmatch(field):
        return None
    return part, field, None if value.startswith("--") or "{" in value or not value else value


@cache
def fields(kind):
    """The type of every field of a configuration, by its dotted path."""
    found: dict[str, typing.Any] = {}
    for field, annotation in typing.get_type_hints(kind, include_extras=True).items():
        if field not in {one.name for one in dataclasses.fields(kind)}:
            continue
        found.setdefault(field, annotation)
        shown = [part.name for part in getattr(annotation, "__metadata__", ()) if getattr(part, "name", None)]
        for option in (annotation, *typing.get_args(annotation)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                inside = fields(option).items()
                found |= {f"{shown[0] if shown else field}.{inner}": inner_kind for inner, inner_kind in inside}
    return found


def kind_of(part, chosen):
    return RunConfig if part == "run" else config_class(part, chosen)[0]


def required(part, chosen):
    """Values for the fields of a configuration that have none."""
    missing = dataclasses.MISSING
    preset = {} if part == "run" else config_class(part, chosen)[1]
    for field in dataclasses.fields(kind_of(part, chosen)):
        if field.default is missing and field.default_factory is missing and field.name not in preset:
            yield from (f"--{part}.{field.name}", "x")


def refusal(part, field, value, beside=()):
    """Why no configuration takes a flag, alone or with those beside it; None if one does."""
    path = field.replace("-", "_")
    plain = re.sub(r"(^|\.)no_(?=[^.]+$)", r"\1", path)
    known = [chosen for chosen in NAMES[part] if {path, plain} & set(fields(kind_of(part, chosen)))]
    if not known:
        return "no part has this field"
    if value is None and path == plain:
        return None
    flag = [f"--{part}.{field}", *([] if value is None else [value])]
    more = [word for a, b, c in beside if a == part for word in (f"--{a}.{b}", *([] if c is None else [c]))]
    for chosen, words in [(chosen, words) for words in (flag, more or flag) for chosen in known]:
        start = [*([] if part == "run" else [f"--{part}", chosen]), *required(part, chosen)]
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            try:
                parse([*start, *words])
            except (SystemExit, ValueError, OSError, UnknownNameError):
                continue
        return None
    return f"refused by {', '.join(known)}"


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The files that the pages ask their readers to save, importable."""
    for page in PAGES:
        for path, code in files(page.read_text(encoding="utf-8")).items():
            (tmp_path / path).write_text(code, encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_oracle", None)


@pytest.mark.slow
def test_the_command_line_takes_every_flag_that_is_mentioned(examples):
    places = {}
    for where, text in texts():
        for group in mentioned(text):
            for flag in group:
                places.setdefault(flag, (where, group))
    refused = [
        f"{where}: --{part}.{field} {value or ''}: {reason}"
        for (part, field, value), (where, group) in places.items()
        if (reason := refusal(part, field, value, group))
    ]
    assert not refused, "\n".join(refused)
    assert len(places) > 100


@pytest.mark.slow
def test_a_wrong_spelling_of_a_switch_is_refused(examples):
    assert refusal("policy", "exact", "True")
    assert refusal("agent", "average", "False")
    assert refusal("agent", "no_such_field", None)
    assert refusal("policy", "exact", None) is None
    assert refusal("agent", "no-average", None) is None


def test_every_command_that_a_page_mentions_is_there_and_has_the_flags():
    found = 0
    for page in PAGES:
        for module, words in re.findall(r"python -m ((?:runners|benchmarks)\.\w+)([^`\n]*)", page.read_text("utf-8")):
            path = ROOT / module.replace(".", "/")
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            source = path.read_text(encoding="utf-8")
            for own in re.findall(r"^from (runners[\w.]+) import", source, re.MULTILINE):  # where its options may be
                source += (ROOT / own.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            found += 1
            if module != "runners.duel":
                flags = re.findall(r"--[a-z][\w.-]*", words.split("  #")[0])
                assert [flag for flag in flags if flag not in source and flag[2:] not in source] == [], name(page)
    assert found > 40
