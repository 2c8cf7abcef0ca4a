"""Files of thumbs: their two layouts and one of one's own, what is refused, and that pairs are not made of them."""

import pytest

from envs.offline import FileArena
from envs.tasks.finite import finite_task
from envs.votes import read_preferences, read_votes
from envs.votes.options import ReadOptions
from envs.votes.preferences import load_prompts
from envs.votes.thumbs import Thumb, holds_demonstrations, holds_thumbs, load_demonstrations, load_thumbs
from preference_duel.types import messages_of
from tests.envs.votes.layouts import bot, system, user

ROWS = [
    {"prompt": "How deep is a fjord?", "response": "Up to 1300 metres.", "label": 1},
    {"prompt": "How deep is a fjord?", "response": "Quite deep.", "label": 0},
    {"prompt": "Who mends bells?", "response": "A bell founder.", "label": 0.75},
]
THUMBS = [Thumb(row["prompt"], row["response"], row["label"]) for row in ROWS]


def renamed(row, **names):
    return {names.get(name, name): value for name, value in row.items()}


@pytest.mark.parametrize("layout", ["thumbs", "kto"])
def test_thumbs_are_read_in_both_layouts(layout, write):
    path = write(*(row if layout == "thumbs" else renamed(row, response="completion") for row in ROWS))
    found, reading = load_thumbs(path)
    assert found == THUMBS
    assert [one.place for one in found] == ["FILE:1", "FILE:2", "FILE:3"]
    assert str(reading) == f"FILE: 3 rows ({layout}), 3 thumbs"
    assert holds_thumbs(path)
    assert [prompt for _, prompt, _ in load_prompts(path)[0]] == [one.prompt for one in THUMBS]


def test_labels_may_be_truth_values_or_their_words(write):
    rows = [{**ROWS[0], "label": label} for label in (True, False, "True", "false", "1", 0.5)]
    assert [one.label for one in load_thumbs(write(*rows))[0]] == [1, 0, 1, 0, 1, 0.5]


def test_thumbs_of_messages_are_read(write):
    asked = [system("Be brief."), user("Good morning."), bot("Good morning to you."), user("Who mends bells?")]
    row = {"prompt": asked, "completion": [bot("A bell founder.")], "label": True}
    (one, _), _ = load_thumbs(write(row, {**row, "label": False}))
    assert messages_of(one.prompt) == asked
    assert one.response == "A bell founder."


def test_thumbs_of_another_layout_are_named(write):
    path = write(*({"q": row["prompt"], "answer": {"text": row["response"]}, "good": row["label"]} for row in ROWS))
    options = ReadOptions(fields="prompt=q,response=answer.text,label=good")
    assert load_thumbs(path, options)[0] == THUMBS
    assert holds_thumbs(path, options)
    for fields in ("response=q,label=good", "prompt=q,response=answer,label=good,winner=good"):
        with pytest.raises(ValueError, match="must name prompt, response and label, of demonstrations prompt and resp"):
            load_thumbs(path, ReadOptions(fields=fields))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROWS[0], "label": 1.5}, r"label must be true, false or a share in \[0, 1\], got 1.5"),
        ({**ROWS[0], "label": -1}, r"label must be true, false or a share in \[0, 1\], got -1"),
        ({**ROWS[0], "label": "good"}, r"label must be true, false or a share in \[0, 1\], got 'good'"),
        ({"prompt": "q", "response": "a"}, "has no field 'label'"),
        ({**ROWS[0], "response": " "}, "response is empty"),
        ({**ROWS[0], "prompt": ""}, "prompt"),
        (["q", "a", 1], "must be an object with prompt, response and label"),
    ],
)
def test_a_broken_thumb_is_named_with_its_field(row, message, write):
    path = write(*ROWS, row)
    with pytest.raises(ValueError, match=rf"^FILE:4: .*{message}.* - 1 of 4 rows can't be used"):
        load_thumbs(path)
    found, reading = load_thumbs(write(*ROWS * 4, row))
    assert (found, reading.skipped) == (THUMBS * 4, 1)


@pytest.mark.parametrize("layout", ["demonstrations", "completions"])
def test_responses_without_labels_are_demonstrations(layout, write):
    names = {} if layout == "demonstrations" else {"response": "completion"}
    path = write(*(renamed({"prompt": row["prompt"], "response": row["response"]}, **names) for row in ROWS))
    assert holds_demonstrations(path)
    assert not holds_thumbs(path)
    found, reading = load_demonstrations(path)
    assert found == [Thumb(row["prompt"], row["response"], 1.0) for row in ROWS]
    assert str(reading) == f"FILE: 3 rows ({layout}), 3 demonstrations"
    with pytest.raises(ValueError, match=r"rows are demonstrations .* no pair who won; agents sft and spin learn"):
        read_preferences(path)


def test_demonstrations_of_another_layout_are_named(write):
    path, options = write({"q": "Who mends bells?", "a": "A founder."}), ReadOptions(fields="prompt=q,response=a")
    assert holds_demonstrations(path, options)
    assert load_demonstrations(path, options)[0] == [Thumb("Who mends bells?", "A founder.", 1.0)]


def test_an_empty_corpus_and_thumbs_among_demonstrations_are_refused(write):
    path = write({"prompt": "q", "response": " "})
    with pytest.raises(ValueError, match="FILE:1: response is empty"):
        load_demonstrations(path)
    assert not holds_demonstrations(write(*ROWS))
    with pytest.raises(ValueError, match="FILE:1"):
        load_demonstrations(write(*ROWS))


@pytest.mark.parametrize("label", [0, 0.5, 1])
def test_labels_of_one_kind_alone_say_nothing(label, write):
    path = write(*({**row, "label": label} for row in ROWS))
    with pytest.raises(ValueError, match=f"FILE: all 3 labels are {label}, so that no response is better"):
        load_thumbs(path)
    for enough in (0, 1):
        if label == enough:
            assert len(load_thumbs(path, alone=[enough])[0]) == 3
        else:
            with pytest.raises(ValueError, match=f"give both kinds, or {enough} alone"):
                load_thumbs(path, alone=[enough])


def test_pairs_and_votes_are_not_made_of_thumbs(write):
    path = write(*ROWS)
    for read in (read_preferences, read_votes):
        with pytest.raises(ValueError, match=r"^FILE:1: rows are thumbs .*no pair who won; agents of single responses"):
            read(path)


def test_thumbs_are_played_as_duels_whose_right_seat_is_not_shown():
    task = finite_task("bells", ("Who mends bells?",), ["yes", "no"], ["yes", "no"])
    duel = FileArena(task, [Thumb(task.prompts[0], "yes", 0.75), Thumb(task.prompts[0], "no", 0.0)], None).play()
    assert (duel.feedback, duel.given, duel.self_play, duel.exact) == ("thumb", True, False, False)
    assert {(row[0].text, prob) for row, prob in zip(duel.left, duel.prob.flatten().tolist(), strict=True)} == {
        ("yes", 0.75),
        ("no", 0.0),
    }
    assert {one.text for row in duel.right for one in row} == {""}
    assert duel.asked.all()
    with pytest.raises(ValueError, match="the task does not list"):
        FileArena(task, [Thumb(task.prompts[0], "perhaps", 1.0)], None)
