"""Formats of preference data: five rows of each are read as pairs, votes and prompts; each broken in five ways."""

import json

import pytest

from envs.votes.formats import FORMATS
from envs.votes.options import ReadOptions
from envs.votes.preferences import load_preferences, load_prompts, read_preferences
from envs.votes.vote_files import load_votes
from preference_duel.types import messages_of
from tests.envs.votes.layouts import (
    EARLIER,
    FIRST,
    GREETING,
    LAYOUTS,
    NAMES,
    NO_TIES,
    OUTCOMES,
    QUESTIONS,
    SECOND,
    SYSTEM,
    bot,
    system,
    user,
)

CHOSEN = [name for name, rows in LAYOUTS.items() if "chosen" in rows[0]]
DIALOGUES = ["chosen_rejected capybara", "implicit_prompt hh_rlhf", "alpaca", "helpsteer2", "helpsteer3"]
LISTS = ["nectar", "ranking", "ranked", "distilabel", "ultrafeedback", "summarize"]


def outcomes_of(layout):
    if layout in CHOSEN:
        return [1.0] * 5
    return NO_TIES if layout in ("pku", "shp", "summarize", "ranked") else OUTCOMES


def pairs_of(layout):
    both = zip(FIRST, SECOND, strict=True)
    return [(a, b) if o or layout not in CHOSEN else (b, a) for (a, b), o in zip(both, OUTCOMES, strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_five_rows_are_read_as_pairs(layout, write):
    found, reading = load_preferences(write(*LAYOUTS[layout]))
    assert reading.formats == [layout.split()[0]]
    assert (reading.rows, reading.used, reading.skipped, reading.duplicates) == (5, 5, 0, 0)
    assert [one.outcome for one in found] == outcomes_of(layout)
    assert [(one.first.strip(), one.second.strip()) for one in found] == pairs_of(layout)
    for one, question in zip(found, QUESTIONS, strict=True):
        *before, last = messages_of(one.prompt)
        assert last == user(question)
        expected = [user(EARLIER), bot(GREETING)] if layout in DIALOGUES else []
        assert before == ([system(SYSTEM)] if layout in ("orca", "chosen_rejected system") else expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_five_rows_are_read_as_votes_and_as_prompts(layout, write):
    path = write(*LAYOUTS[layout])
    table, reading = load_votes(path)
    assert reading.used == 5
    assert table.outcome.tolist() == outcomes_of(layout)
    first, second = ([table.items[i].strip() for i in side] for side in (table.first, table.second))
    if "wren" in json.dumps(LAYOUTS[layout]):
        assert set(zip(first, second, strict=True)) == {("wren", "rook")}
    else:
        assert list(zip(first, second, strict=True)) == pairs_of(layout)
    assert table.prompts.tolist() == [0, 1, 2, 3, 4]
    assert (table.annotators is not None) == ("kim" in json.dumps(LAYOUTS[layout]))
    prompts, _ = load_prompts(path)
    assert [line[:2] for line in prompts] == [
        (f"FILE:{i}", one.prompt) for i, one in enumerate(read_preferences(path), start=1)
    ]


@pytest.mark.parametrize("layout", NAMES)
def test_rows_that_name_items_are_votes_and_no_texts(layout, write):
    path = write(*NAMES[layout])
    table, reading = load_votes(path)
    assert reading.formats == [layout]
    assert table.outcome.tolist() == ([1.0] * 5 if layout == "winner_loser" else OUTCOMES)
    assert list(table.items) == (["wren", "rook", "daw"] if layout == "winner_loser" else ["wren", "rook"])
    assert table.seated is (layout == "crowd")
    assert reading.annotators == ([] if layout == "winner_loser" else ["70", "71", "72", "73", "74"])
    with pytest.raises(ValueError, match=f"FILE:1: format {layout} .* names who won and holds no texts"):
        load_preferences(path)


def test_every_format_is_tried_here():
    tried = {layout.split()[0] for layout in [*LAYOUTS, *NAMES]}
    assert tried | {"pku_safer", "thumbs", "kto", "demonstrations", "completions", "prompts"} == set(FORMATS)


def replaced(value, old, new):
    if isinstance(value, dict):
        return {name: replaced(inner, old, new) for name, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, old, new) for inner in value]
    if value == old:
        return new
    return value.replace(old, new) if isinstance(value, str) and isinstance(old, str) else value


def broken(layout):
    """The third row of a layout broken in five ways, each with what the message says after "FILE:3: "."""
    row, text = LAYOUTS[layout][2], (FIRST if layout in CHOSEN else SECOND)[2]
    field = [name for name, value in row.items() if text in json.dumps(value) and name != "messages"][-1]
    one = FORMATS[layout.split()[0]]
    named = rf"{field}\[1\]" if layout in LISTS else field
    yield {name: value for name, value in row.items() if name != field}, f"has no field '{field}'"
    yield {**row, field: 7}, rf"{field} must be .*, got 7"
    yield replaced(row, text, ""), rf"{named} is empty"
    yield replaced(row, text, f"{text} \ud83d"), rf"{named} has half a surrogate pair"
    if layout in ("nectar", "ultrafeedback"):
        yield replaced(row, 1.0 if layout == "nectar" else 0.5, "high"), rf"{field}\[0\] must have a number"
    elif layout in ("ranking", "ranked", "distilabel"):
        field = {"ranking": "scores", "ranked": "ranking", "distilabel": "ratings"}[layout]
        yield {**row, field: [1]}, f"{field} must be a list of at least 2"
    elif one.winner:
        expected = one.rule.expected.replace("(", r"\(").replace(")", r"\)")
        yield {**row, one.winner: "perhaps"}, f"{one.winner} must be {expected}, got 'perhaps'"
    else:
        yield [row], "must be an object with prompt, chosen and rejected"


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_broken_row_is_named_with_its_field(layout, way, write):
    record, message = list(broken(layout))[way]
    rows = list(LAYOUTS[layout])
    rows[2] = record
    path = write(*rows)
    tail = r".* - 1 of 5 rows can't be used, more than a tenth"
    for read in (load_preferences, load_votes):
        if read is load_votes and way < 4 and "wren" in json.dumps(LAYOUTS[layout]) and layout not in LISTS:
            continue  # rows that name items need no texts
        with pytest.raises(ValueError, match=rf"^FILE:3: {message}{tail}"):
            read(path)
        with pytest.raises(ValueError, match=rf"^FILE:3: {message}"):
            read(path, ReadOptions(strict=True))
    whole = LAYOUTS[layout] * 3
    whole[2] = record
    found, reading = load_preferences(write(*whole))
    assert len(found) == 14
    assert [(one.count, one.places) for one in reading.unusable.values()] == [(1, ("FILE:3",))]
    with pytest.warns(UserWarning, match=r"skipped 1: .*\(FILE:3\)"):
        read_preferences(path="FILE")
