"""Reading of preferences and votes: what a row must agree in, mappings, counts and duplicates, and what is refused."""

import json
import math
import re

import numpy as np
import pandas
import pytest

from envs.votes.options import ReadOptions
from envs.votes.preferences import Preference, load_preferences, load_prompts, read_preferences
from envs.votes.vote_files import load_votes, read_votes
from preference_duel.types import messages_of
from tests.envs.votes.layouts import LAYOUTS, battle, bot, hh, system, user

PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "p", "chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")]},
            "prompt is none of the user",
        ),
        (
            {"prompt": [user("p")], "chosen": [user("q"), bot("a")], "rejected": [bot("b")]},
            "prompt and the messages before",
        ),
        (
            {"prompt": "q", "chosen": [user("q"), bot("a"), user("thanks")], "rejected": "b"},
            "the last message of chosen must be",
        ),
        (
            {"prompt": "q", "chosen": bot("a"), "rejected": user("b")},
            "the last message of rejected must be the assistant's",
        ),
        ({**PAIR, "system": 3}, "system must be text, got 3"),
        (
            {"system": "Rhyme.", "chosen": [system("Sing."), user("q"), bot("a")], "rejected": bot("b")},
            "system and the system message differ, got 'Rhyme.'",
        ),
        (
            {"prompt": "q", "chosen": [user("q"), bot("a")], "rejected": "b", "messages": [user("r"), bot("a")]},
            "messages and the messages before the responses differ",
        ),
        (
            {"prompt": "q", "chosen": {**bot("a"), "tool_calls": [{}]}, "rejected": "b"},
            "chosen: message 0 calls tools, which a text can't hold",
        ),
        (
            {"prompt": "q", "chosen": [{"role": "assistant", "content": [{"type": "image"}]}], "rejected": "b"},
            "chosen: message 0 must have parts {'type': 'text', 'text': text} alone",
        ),
        (
            {"prompt": "q", "chosen": ["a"], "rejected": "b"},
            "chosen: message 0 must be {'role': text, 'content': text}",
        ),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "chosen must be text or a list of messages"),
        ({"prompt": "q\ud83d", "chosen": "a", "rejected": "b"}, "prompt has half a surrogate pair"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": [bot("q")], "chosen": "a", "rejected": "b"}, "the last message must be the user's"),
        ({"chosen": "Up it goes.", "rejected": "Down it goes."}, "there is no prompt: chosen and rejected begin with"),
        (
            {"chosen": [bot("a")], "rejected": [bot("b")]},
            "the responses have no message in common before them, and there is no prompt",
        ),
        ({"info": {"id": 1}, "summaries": [{"text": "a"}] * 2, "choice": 0}, "info must have a post or an article"),
        (
            {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2, 3]},
            "responses, scores and models must be of one length",
        ),
    ],
)
def test_what_is_left_out_must_be_equal_to_what_stays(row, message, write):
    with pytest.raises(ValueError, match=rf"^FILE:1: {re.escape(message)}"):
        read_preferences(write(row))


def test_prompt_and_messages_are_merged_to_the_longer_one(write):
    context = [system("Sing."), user("p"), bot("yes?"), user("q")]
    rows = [
        {"prompt": context, "chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")]},
        {"prompt": context[:2], "chosen": [*context, bot("a")], "rejected": [*context, bot("b")]},
        {"prompt": "p", "chosen": [*context, bot("a")], "rejected": "b"},
        {"prompt": hh("p", "yes?", "q", ""), "system": "Sing.", "chosen": " a", "rejected": " b"},
        {"prompt": json.dumps(context), "chosen": "a", "rejected": "b", "system": "Sing."},
    ]
    found = read_preferences(write(*rows))
    assert [messages_of(one.prompt) for one in found] == [context] * 5
    assert [(one.first.strip(), one.second.strip()) for one in found] == [("a", "b")] * 5


def test_an_implicit_prompt_ends_with_a_word(write):
    rows = [{"chosen": "The sea is blue.", "rejected": "The sea is black."}, {"chosen": "Be it.", "rejected": "Be it."}]
    found, reading = load_preferences(write(*rows))
    assert found == [Preference("The sea is", " blue.", " black.", 1.0)]
    assert reading.passed["both responses are the same"].count == 1


def test_conversations_that_went_two_ways_are_passed_over(write):
    apart = battle("q", "a", "b", 1.0)
    for side, first in (("a", "one"), ("b", "two")):
        apart[f"conversation_{side}"] = [user("p"), bot(first), *apart[f"conversation_{side}"]]
    path = write(*LAYOUTS["arena 140k"], apart)
    found, reading = load_preferences(path)
    assert len(found) == 5
    assert str(reading) == (
        "FILE: 6 rows (arena), 5 preferences\n"
        "  passed over 1: conversation_a and conversation_b differ before their last message (FILE:6)"
    )
    assert len(read_votes(path)) == 6


def test_a_tenth_of_the_rows_may_be_unusable(write):
    empty = {**PAIR, "rejected": ""}
    rows = [{**PAIR, "prompt": str(i)} for i in range(18)]
    found, reading = load_preferences(write(*rows, empty, {**empty, "chosen": 3}))
    assert (len(found), reading.rows, reading.used, reading.skipped) == (18, 20, 18, 2)
    assert str(reading).splitlines()[1:] == [
        "  skipped 1: rejected is empty (FILE:19)",
        "  skipped 1: chosen must be text or a list of messages (FILE:20)",
    ]
    with pytest.raises(
        ValueError, match=r"^FILE:18: rejected is empty - 2 of 19 rows can't be used, more than a tenth"
    ):
        load_preferences(write(*rows[:17], empty, empty))
    with pytest.raises(ValueError, match=r"^FILE:19: rejected is empty$"):
        load_preferences(write(*rows, empty), ReadOptions(strict=True))
    reading = load_preferences(write(*rows, *rows, *rows, *[empty] * 4))[1]
    assert "skipped 4: rejected is empty (FILE:55, FILE:56, FILE:57, ...)" in str(reading)


def test_duplicates_are_counted_in_either_order(write):
    seats = {"prompt": "q", "first": "a", "second": "b", "outcome": 1}
    rows = [
        seats,
        {**seats, "first": "b", "second": "a", "outcome": 0},
        {**seats, "prompt": "r"},
        {**seats, "outcome": 0},
    ]
    found, reading = load_preferences(write(*rows))
    assert (len(found), reading.duplicates) == (4, 2)
    assert "4 preferences, 2 of them of a pair that came before" in str(reading)
    assert load_votes("FILE")[1].duplicates == 2
    votes = [
        battle("q", "a", "b", 1.0) | {"question_id": q, "judge": j} for q, j in ((1, "x"), (1, "y"), (1, "x"), (2, "x"))
    ]
    assert load_votes(write(*votes))[1].duplicates == 1


def test_rows_of_one_file_may_have_several_of_our_own_forms(write):
    rows = [PAIR, {"prompt": "q", "first": "a", "second": "b", "outcome": 0.25}]
    found, reading = load_preferences(write(*rows))
    assert [one.outcome for one in found] == [1.0, 0.25]
    assert reading.formats == ["chosen_rejected", "first_second"]
    assert [one.outcome for one in read_preferences(write({**PAIR, "prob": 0.9}))] == [1.0]


MAPPED = [
    {"history": f"q{i}", "ref": {"A": ["a"], "B": "b"}, "won": won, "by": f"kim {i}"} for i, won in enumerate("120")
]
FIELDS = "prompt=history,first=ref.A.0,second=ref.B,winner=won,first_wins=1,second_wins=2|3,tie=0,annotator=by"


def test_any_other_layout_is_read_by_a_mapping(write):
    options = ReadOptions(fields=FIELDS)
    assert read_preferences(write(*MAPPED), options) == [
        Preference(f"q{i}", "a", "b", outcome) for i, outcome in enumerate((1.0, 0.0, 0.5))
    ]
    table, reading = load_votes("FILE", options)
    assert (list(table.items), reading.annotators) == (["a", "b"], ["kim 0", "kim 1", "kim 2"])
    assert load_prompts("FILE", ReadOptions(fields="prompt=history"))[0] == [
        (f"FILE:{i + 1}", f"q{i}", None) for i in range(3)
    ]
    rows = [{"ask": "q", "up": "a", "down": "b", "rules": "Sing.", "m": "wren", "n": "rook"}]
    options = ReadOptions(fields="prompt=ask,system=rules,chosen=up,rejected=down,chosen_item=m,rejected_item=n")
    (found,) = read_preferences(write(*rows), options)
    assert messages_of(found.prompt) == [system("Sing."), user("q")]
    assert list(read_votes("FILE", options).items) == ["wren", "rook"]
    names = [{"one": "wren", "two": "rook", "better": "Left"}, {"one": "daw", "two": "wren", "better": "both"}]
    table = read_votes(write(*names), ReadOptions(fields="first_item=one,second_item=two,winner=better"))
    assert (list(table.items), table.outcome.tolist()) == (["wren", "daw", "rook"], [1.0, 0.5])
    shares = ReadOptions(fields="prompt=q,first=a,second=b,outcome=p")
    assert read_preferences(write({"q": "q", "a": "a", "b": "b", "p": 0.2}), shares)[0].outcome == 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("prompt", "must be NAME=FIELD,NAME=FIELD with each name once, got 'prompt'"),
        ("prompt=a,prompt=b", "must be .* with each name once"),
        ("promt=history", r"'promt' is nothing of a preference; did you mean 'prompt'\?"),
        ("prompt=histroy", r"there is no field 'histroy'; did you mean 'history'\? It has \['by', 'history'"),
        ("prompt=history", "must name chosen and rejected, or first and second"),
        ("first=ref.A.0", "must name both first and second"),
        ("first=ref.A.0,second=ref.B", "must name winner or outcome beside first and second"),
        ("chosen=ref.A.0,rejected=ref.B,winner=won", "must name no winner beside chosen"),
        ("chosen=ref.A.0,rejected=ref.B,tie=0", "first_wins, second_wins, tie are values of winner"),
        ("first=ref.A.0,second=ref.B,winner=won,tie=0", "must say both first_wins and second_wins"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused(fields, message, write):
    with pytest.raises(ValueError, match=rf"^FILE:1: data.fields:? {message}"):
        read_preferences(write(*MAPPED), ReadOptions(fields=fields))


def test_a_value_of_the_winner_that_is_not_named_is_unusable(write):
    path = write(*MAPPED)
    with pytest.raises(ValueError, match=r"^FILE:3: won must be 1 or 2 or 3, got '0'"):
        read_preferences(path, ReadOptions(fields=FIELDS.replace(",tie=0", "")))
    with pytest.raises(
        ValueError, match=r"^FILE:1: won must be first or left or .*say first_wins=, second_wins=, tie="
    ):
        read_votes(path, ReadOptions(fields=FIELDS.split(",first_wins", maxsplit=1)[0]))
    with pytest.raises(ValueError, match=r"^FILE:2: has no field 'ref.A.0', the first of data.fields"):
        read_preferences(write(MAPPED[0], {"history": "q", "won": "1"}), ReadOptions(fields=FIELDS))
    with pytest.raises(ValueError, match="not both"):
        ReadOptions(fields=FIELDS, format="arena")


def test_a_format_may_be_named(write):
    path = write(*LAYOUTS["pku"])
    assert [one.outcome for one in read_preferences(path)] == [1, 0, 1, 0, 1]
    table = read_votes(path, ReadOptions(format="pku_safer"))
    assert table.outcome.tolist() == [1] * 5
    with pytest.raises(ValueError, match=r"^FILE:1: no format is called 'pku_saver'; did you mean 'pku_safer'\?"):
        read_preferences(path, ReadOptions(format="pku_saver"))
    with pytest.raises(
        ValueError, match=r"^FILE:1: has no field 'history'. It has .* Format shp is: history, human_ref_A"
    ):
        read_preferences(path, ReadOptions(format="shp"))


def test_an_unknown_layout_lists_its_fields_and_the_nearest_format(write):
    path = write({"question": "q", "response1": "a", "response2": "b", "overall_preference": 1})
    with pytest.raises(ValueError, match=r"^FILE:1: has no field 'context'") as error:
        read_preferences(path)
    assert "It has ['overall_preference', 'question', 'response1', 'response2']." in str(error.value)
    assert "The nearest format is helpsteer3: context, response1" in str(error.value)
    assert "data.fields prompt=FIELD,chosen=FIELD,rejected=FIELD, or prompt=FIELD,first=FIELD" in str(error.value)
    with pytest.raises(
        ValueError, match=r"has no field 'prompt'. It has \['x'\]. The nearest format is chosen_rejected"
    ):
        read_votes(write({"x": 1}))


def test_the_strength_of_a_preference_is_a_share_on_request(write):
    for layout, outcomes in (("helpsteer2", [1, 1 / 6, 0.5, 1, 1 / 6]), ("helpsteer3", [2 / 3, 0, 0.5, 2 / 3, 0])):
        path = write(*LAYOUTS[layout])
        for read in (
            lambda p, o: [one.outcome for one in read_preferences(p, o)],
            lambda p, o: read_votes(p, o).outcome,
        ):
            assert list(read(path, ReadOptions(soft=True))) == pytest.approx(outcomes)


def test_cells_of_a_csv_may_hold_messages(tmp_path):
    path = tmp_path / "FILE.csv"
    rows = [
        {**row, **{n: json.dumps(v) for n, v in row.items() if n.startswith("conv")}} for row in LAYOUTS["arena 33k"]
    ]
    pandas.DataFrame(rows).to_csv(path, index=False)
    expected = tmp_path / "FILE.jsonl"
    expected.write_text("\n".join(map(json.dumps, LAYOUTS["arena 33k"])))
    assert read_preferences(str(path)) == read_preferences(str(expected))


def test_rows_of_a_ranking_give_all_pairs(write):
    answers = [{"answer": name, "model": name, "rank": rank} for name, rank in (("x", 1), ("y", 2), ("z", 2))]
    row = {"prompt": "q", "answers": answers}
    found = read_preferences(write(row))
    assert [(one.first, one.second, one.outcome) for one in found] == [("x", "y", 1), ("x", "z", 1), ("y", "z", 0.5)]
    ranked = [{"prompt": "q", "answers": answers[:2]}] * 2
    assert [one.outcome for one in read_preferences(write(*ranked))] == [1.0, 1.0]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_of_votes_counts_as_pandas_does(suffix, tmp_path):
    draw = np.random.default_rng(0)
    names = np.array([f"m{i}" for i in range(6)])
    first = draw.integers(6, size=400)
    frame = pandas.DataFrame(
        {
            "model_a": names[first],
            "model_b": names[(first + draw.integers(1, 6, size=400)) % 6],
            "winner": draw.choice(["model_a", "model_b", "tie", "tie (bothbad)"], 400),
            "judge": draw.integers(9, size=400),
        }
    )
    path = str(tmp_path / f"votes.{suffix}")
    {"csv": frame.to_csv, "jsonl": frame.to_json, "parquet": frame.to_parquet}[suffix](
        path, **({"orient": "records", "lines": True} if suffix == "jsonl" else {"index": False})
    )
    table, reading = load_votes(path)
    items = list(table.items)
    assert [items[i] for i in table.first] == frame.model_a.tolist()
    assert [items[i] for i in table.second] == frame.model_b.tolist()
    share = frame.winner.map({"model_a": 1.0, "model_b": 0.0}).fillna(0.5)
    assert table.outcome.tolist() == share.tolist()
    assert [reading.annotators[i] for i in table.annotators] == frame.judge.astype(str).tolist()
    assert table.seated
    assert table.prompts is None
    assert reading.duplicates is None


def test_votes_that_name_no_pair_or_winner_are_named(write):
    good = [battle("q", "a", "b", 1.0)] * 60
    bad = [
        {"model_b": "wren"},
        {"model_a": " "},
        {"winner": "model_c"},
        {"winner": math.nan},
        {"model_a": ["wren"]},
    ]
    rows = [{name: row[name] for name in ("model_a", "model_b", "winner")} for row in good]
    rows += [{**rows[0], **change} for change in bad]
    table, reading = load_votes(write(*rows))
    assert len(table) == 60
    assert list(table.items) == ["wren", "rook"]
    assert str(reading).splitlines()[1:] == [
        "  skipped 2: model_a must be a name (FILE:62, FILE:65)",
        "  skipped 1: model_a and model_b must differ (FILE:61)",
        "  skipped 2: winner must be model_a or model_b or tie or tie (bothbad) or both_bad (FILE:63, FILE:64)",
    ]
    with pytest.raises(ValueError, match=r"^FILE:62: model_a must be a name, got ' '"):
        load_votes("FILE", ReadOptions(strict=True))


def test_rows_that_name_no_annotator_share_one(write):
    rows = [battle("q", "a", "b", 1.0) | {"judge": judge} for judge in ("kim", None, None, 0)]
    table, reading = load_votes(write(*rows))
    assert reading.annotators == ["kim", "(not named)", "0"]
    assert table.annotators.tolist() == [0, 1, 1, 2]


def test_records_that_are_no_objects_are_named(write, tmp_path):
    with pytest.raises(
        ValueError, match=r"^FILE row 0: must be an object with prompt, chosen and rejected, got 1 - 2 of 2"
    ):
        read_votes(write([1, "x"]))
    (tmp_path / "FILE").write_text("\n")
    with pytest.raises(ValueError, match="FILE: has no votes; write"):
        read_votes("FILE")
    (tmp_path / "FILE").write_text("".join(json.dumps(battle("q", "a", "b", 1.0)) + "\n" for _ in range(20)) + "{")
    table, reading = load_votes("FILE")
    assert (len(table), reading.rows, reading.skipped) == (20, 21, 1)
