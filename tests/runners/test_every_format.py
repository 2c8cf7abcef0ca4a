"""Every format of preference data goes through every command: read, or refused in one line that says why."""

import json
import re

import pytest

from envs.votes.formats import FORMATS
from runners import audit, duel, fit_oracle, label
from tests.conftest import with_a_fast_few
from tests.envs.votes.layouts import LAYOUTS, NAMES, QUESTIONS
from tests.envs.votes.test_formats import LISTS, broken

SINGLE = {
    "thumbs": [{"prompt": text, "response": "Yes.", "label": i % 2} for i, text in enumerate(QUESTIONS)],
    "kto": [{"prompt": text, "completion": "Yes.", "label": i % 2 == 0} for i, text in enumerate(QUESTIONS)],
    "demonstrations": [{"prompt": text, "response": "Yes."} for text in QUESTIONS],
    "completions": [{"prompt": text, "completion": "Yes."} for text in QUESTIONS],
    "prompts": [{"prompt": text} for text in QUESTIONS],
}
"""Rows about one response or none."""
FILES = {**LAYOUTS, **NAMES, **SINGLE}
REFUSED = {
    **{
        (name, command): "names who won and holds no texts to learn from"
        for name in NAMES
        for command in ("duel", "fit")
    },
    **{(name, "task"): r"has no field 'prompt'|prompt must be text" for name in NAMES},
    **{
        (name, command): "rows are thumbs .*, each about one response, which say of no pair who won; agents of single"
        for name in ("thumbs", "kto")
        for command in ("duel", "fit", "label", "audit")
    },
    **{
        (name, command): "rows are demonstrations .*, which say of no pair who won; agents sft and spin learn from them"
        for name in ("demonstrations", "completions")
        for command in ("duel", "fit", "label", "audit")
    },
    **{("prompts", command): r"has no field '\w+'" for command in ("duel", "fit", "label", "audit")},
}
"""Why a command can't use a format."""
PAIRS = {("winner_loser", "label"): 3, ("crowd", "label"): 1}
"""Different pairs that five rows compare, if not five."""
CALLS = {
    "duel": (duel.main, ["--task", "rps", "--agent", "dpo", "--run.data", "FILE.jsonl"]),
    "task": (duel.main, ["--task", "FILE.jsonl"]),
    "fit": (fit_oracle.main, ["--kind", "bt", "--data", "FILE.jsonl", "--out", "fitted"]),
    "label": (label.main, ["--oracle", "bt", "--against", "FILE.jsonl", "--out", "labels.jsonl"]),
    "audit": (audit.main, ["FILE.jsonl"]),
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*records):
        (tmp_path / "FILE.jsonl").write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")

    return write


class ReadWhole(BaseException):
    """Ends a command once its file is read, before it learns or counts."""


@pytest.fixture(autouse=True)
def stop_after_reading(monkeypatch):
    def stop(found, *_, **__):
        raise ReadWhole(len(found))

    monkeypatch.setattr("runners.run.build.writable", lambda policy, found, *_: stop(found))
    monkeypatch.setattr("runners.run.build.build_oracle", after_task)
    monkeypatch.setattr("runners.fitting.fit.split", stop)
    monkeypatch.setattr("envs.votes.statistics.audit.audit", stop)


def after_task(config, task, device):
    if task.name == "FILE.jsonl":
        raise ReadWhole(len(task.all_prompts))


def outcome_of(command, capsys):
    """The number of rows that were read, or the error."""
    main, words = CALLS[command]
    try:
        code = main(words)
    except ReadWhole as whole:
        return whole.args[0]
    written = capsys.readouterr()
    if code == 0:
        with open("labels.jsonl", encoding="utf-8") as file:
            return len(file.readlines())
    assert written.err.count("\n") == 1
    return written.err


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, command) for name in FILES for command in CALLS if command != "task" or name not in list(LAYOUTS)[1:]],
)  # prompts of every layout: tests/envs/votes/test_formats.py
def test_a_command_reads_every_format_or_says_why_not(name, command, write, capsys):
    write(*FILES[name])
    found = outcome_of(command, capsys)
    if (name, command) in REFUSED:
        assert re.search(f"^error: FILE.jsonl:1: .*({REFUSED[name, command]})", str(found))
    else:
        assert found == PAIRS.get((name, command), 5)


@pytest.mark.parametrize("command", ["duel", "fit", "label", "audit"])
@pytest.mark.parametrize("name", with_a_fast_few(LAYOUTS, 2))
def test_a_command_names_line_field_and_expectation_of_a_broken_row(name, command, write, capsys):
    ways = list(enumerate(broken(name)))
    if command == "duel":  # whose command line takes a fifth of a second to parse: another way for each format
        ways = [ways[list(LAYOUTS).index(name) % 5]]
    for way, (record, message) in ways:
        rows = list(LAYOUTS[name])
        rows[2] = record
        write(*rows)
        found = outcome_of(command, capsys)
        if command == "audit" and way < 4 and "wren" in json.dumps(LAYOUTS[name]) and name not in LISTS:
            assert found == 5  # rows that name items are counted without their texts
        else:
            assert re.search(f"^error: FILE.jsonl:3: {message}", str(found)), found


def test_every_format_is_tried():
    assert {name.split()[0] for name in FILES} | {"pku_safer"} == set(FORMATS)
