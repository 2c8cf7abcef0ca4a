"""Labels of any oracle, and their agreement with verdicts: `python -m runners.label`."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from envs.votes import load_preferences, load_votes
from envs.votes.statistics.judge_agreement import judge_agreement
from runners.audit import main as audit
from runners.duel import main as duel
from runners.label import main

COLOURS = ["red", "blue", "green", "white"]
HERE = f"{__name__}:Longer"
ASKED: list[tuple[str, str, str]] = []


@dataclass(frozen=True)
class Longer:
    """Prefers the longer response, and the one that is shown first by `seat`; dies after so many questions.

    Pairs that show `silent` first are left unread.
    """

    seat: float = 0.0
    dies_after: int = 10**9
    silent: str = ""

    def build(self, *, prompts=None, responses=None, device="cpu"):
        return LongerOracle(self.seat, self.dies_after, self.silent)


class LongerOracle:
    antisymmetric = False

    def __init__(self, seat, dies_after, silent):
        self.seat, self.dies_after, self.silent = seat, dies_after, silent
        self.leaves_unread = bool(silent)

    def prob(self, prompts, first, second):
        if len(ASKED) >= self.dies_after:
            raise KeyboardInterrupt
        ASKED.extend(zip(prompts, first, second, strict=True))
        gaps = [0.1 * (len(a) - len(b)) for a, b in zip(first, second, strict=True)]
        prob = (0.5 + self.seat + torch.tensor(gaps, dtype=torch.float64)).clamp(0, 1)
        return torch.where(torch.tensor([a == self.silent for a in first]), torch.nan, prob)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ASKED.clear()
    rows = [{"prompt": f"p{i}", "responses": COLOURS, "models": ["a", "b", "c", "d"]} for i in range(5)]
    write("responses.jsonl", rows)
    return tmp_path


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def lines(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_responses_of_a_file_are_labelled_in_both_orders():
    assert main(["--responses", "responses.jsonl", "--oracle", f"{HERE},seat=0.05", "--out", "labels.jsonl"]) == 0
    assert len(ASKED) == len(set(ASKED)) == 2 * 5 * 6
    preferences, _ = load_preferences("labels.jsonl")
    assert len(preferences) == 30
    for one in preferences:
        assert one.outcome == pytest.approx(min(max(0.5 + 0.1 * (len(one.first) - len(one.second)), 0), 1))
    table, reading = load_votes("labels.jsonl")
    assert sorted(table.items) == ["a", "b", "c", "d"]
    assert (len(reading.prompts), reading.annotators) == (5, [f"{HERE},seat=0.05"])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_learns_from_labels_of_policies_and_the_audit_counts_them(capsys):
    write_game = {"prompts": ["p", "q"], "responses": COLOURS, "prob": [[0.5] * 4] * 4}
    with open("game.json", "w", encoding="utf-8") as file:
        json.dump(write_game, file)
    for name in ("sppo", "ipo"):
        assert duel(["--task", "game.json", "--agent", name, "--run.steps", "1", "--run.dir", name]) == 0
    command = ["sppo", "ipo", "--oracle", HERE, "--draws", "9"]
    assert main([*command, "--out", "labels.jsonl"]) == 0
    rows = lines("labels.jsonl")
    assert {row["first_item"] for row in rows} | {row["second_item"] for row in rows} == {"sppo", "ipo"}
    assert {row["prompt"] for row in rows} == {"p", "q"}
    assert main([*command, "--out", "again.jsonl"]) == 0
    assert lines("again.jsonl") == rows
    assert audit(["labels.jsonl", "--draws", "19"]) == 0
    learn = ["--task", "game.json", "--agent", "ipo", "--run.data", "labels.jsonl", "--run.steps", "1"]
    assert duel([*learn, "--run.dir", "learned"]) == 0
    assert main(["ipo", "--oracle", HERE, "--out", "own.jsonl", "--draws", "4"]) == 0
    assert "first_item" not in lines("own.jsonl")[0]


def test_after_a_kill_nothing_is_asked_twice(place, capsys):
    out = ["--responses", "responses.jsonl", "--out", "labels.jsonl", "--batch_size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LongerOracle, "__init__", lambda self, *_: vars(self).update(seat=0.0, dies_after=24, silent=""))
        assert main([*out, "--oracle", HERE]) == 130
        with open("labels.jsonl.answers", "a", encoding="utf-8") as file:
            file.write('{"question": "cut of')
        patch.setattr(LongerOracle, "__init__", lambda self, *_: vars(self).update(seat=0.0, dies_after=40, silent=""))
        assert main([*out, "--oracle", HERE]) == 130
    assert not (place / "labels.jsonl").exists()
    assert main([*out, "--oracle", HERE]) == 0
    assert "20 answered before" in capsys.readouterr().out
    assert len(ASKED) == len(set(ASKED)) == 60
    assert [path.name for path in place.glob("labels*")] == ["labels.jsonl"]
    ASKED.clear()
    assert main(["--responses", "responses.jsonl", "--out", "whole.jsonl", "--oracle", HERE]) == 0
    assert lines("labels.jsonl") == lines("whole.jsonl")


def test_unread_pairs_are_in_no_label_and_in_no_figure(capsys):
    judge = f"{HERE},silent=blue"
    assert (
        main(["--responses", "responses.jsonl", "--oracle", judge, "--out", "labels.jsonl", "--batch_size", "4"]) == 0
    )
    assert "unread: 15 (50.0%) of the pairs; they are in no label and in no figure" in capsys.readouterr().out
    rows = lines("labels.jsonl")
    assert len(rows) == 15
    assert not any("blue" in (row["first"], row["second"]) for row in rows)
    verdicts = [("red", "green", 0), ("green", "red", 1), ("blue", "red", 0), ("white", "red", 0)]
    write("people.jsonl", [{"prompt": "p", "first": a, "second": b, "outcome": o} for a, b, o in verdicts])
    write("read.jsonl", lines("people.jsonl")[:2] + lines("people.jsonl")[3:])
    numbers = []
    for name in ("people", "read"):
        command = ["--against", f"{name}.jsonl", "--oracle", judge, "--out", f"{name}.out", "--json", f"{name}.json"]
        assert main(command) == 0
        with open(f"{name}.json", encoding="utf-8") as file:
            numbers.append({key: value for key, value in json.load(file).items() if key != "against"})
    assert [one.pop("unread") for one in numbers] == [1, 0]
    assert numbers[0] == numbers[1]


def test_unread_answers_are_kept_like_others(place, capsys):
    out = [
        "--responses",
        "responses.jsonl",
        "--out",
        "labels.jsonl",
        "--batch_size",
        "4",
        "--oracle",
        f"{HERE},silent=blue",
    ]
    with pytest.MonkeyPatch.context() as patch:
        quick = LongerOracle.__init__
        patch.setattr(LongerOracle, "__init__", lambda self, seat, _, silent: quick(self, seat, 24, silent))
        assert main(out) == 130
    assert '"forward": null' in (place / "labels.jsonl.answers").read_text()
    assert main(out) == 0
    assert "12 answered before" in capsys.readouterr().out
    assert len(ASKED) == len(set(ASKED)) == 60
    write("blue.jsonl", [{"prompt": "p", "responses": ["blue", "red"]}])
    assert main(["--responses", "blue.jsonl", "--out", "none.jsonl", "--oracle", f"{HERE},silent=blue"]) == 1
    assert "none of the judge's answers could be read" in capsys.readouterr().err
    assert not (place / "none.jsonl").exists()


def test_answers_of_another_command_are_refused(capsys):
    out = ["--responses", "responses.jsonl", "--out", "labels.jsonl"]
    with open("labels.jsonl.answers", "w", encoding="utf-8") as file:
        file.write('{"oracle": "bt", "questions": "0"}\n')
    assert main([*out, "--oracle", HERE]) == 1
    assert "holds answers of another command (bt)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--responses", "responses.jsonl", "--oracle", "bbt"], 2, "did you mean 'bt'"),
        (["--responses", "responses.jsonl", "--oracle", "bt,sed=1"], 2, "sed"),
        (["--responses", "responses.jsonl", "--oracle", "human"], 1, "runners.collect"),
        (["--responses", "responses.jsonl", "--oracle", "bt", "--json", "x.json"], 1, "pass --against FILE"),
        (["--responses", "none.jsonl", "--oracle", "bt"], 1, "none.jsonl"),
        (["--responses", "bad.jsonl", "--oracle", "bt"], 1, "bad.jsonl:2: responses must be a list of at least 2"),
        (["--against", "prompts.jsonl", "--oracle", "bt"], 1, "prompts.jsonl:1: has no field"),
        (["--against", "ties.jsonl", "--oracle", "bt"], 1, "every outcome is 1/2"),
        (["--against", "ties.jsonl", "--oracle", "bt", "--json", "no/x"], 1, "--json no/x: there is no directory no"),
        (["tiny", "--oracle", "bt", "--draws", "1"], 1, "--draws must be at least 2"),
        (["tiny", "--oracle", "bt"], 1, "no run names a task: pass --task"),
        (["--oracle", "bt"], 1, "in one way: policies, --responses FILE or --against FILE"),
    ],
)
def test_errors_say_what_to_do(words, code, message, capsys):
    write("bad.jsonl", [{"prompt": "p", "responses": ["x", "y"]}, {"prompt": "p", "responses": "x"}])
    write("prompts.jsonl", [{"prompt": "p"}])
    write("ties.jsonl", [{"prompt": "p", "first": "x", "second": "y", "outcome": 0.5}] * 2)
    try:
        found = main([*words, "--out", "labels.jsonl"])
    except SystemExit as error:
        found = error.code
    assert found == code
    assert message in capsys.readouterr().err


def test_an_existing_file_is_never_overwritten(place, capsys):
    (place / "labels.jsonl").write_text("mine")
    assert main(["--responses", "responses.jsonl", "--oracle", HERE, "--out", "labels.jsonl"]) == 1
    assert "labels.jsonl exists and is never overwritten" in capsys.readouterr().err
    assert ((place / "labels.jsonl").read_text(), ASKED) == ("mine", [])


def test_agreement_with_verdicts_on_texts(capsys):
    verdicts = [("red", "green", 0), ("green", "red", 1), ("blue", "red", 1), ("white", "red", 0), ("blue", "red", 0.5)]
    write("people.jsonl", [{"prompt": "p", "first": a, "second": b, "outcome": o} for a, b, o in verdicts])
    command = ["--against", "people.jsonl", "--oracle", f"{HERE},seat=0.15", "--out", "l.jsonl", "--json", "n.json"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "agrees with 75.0%" in shown
    with open("n.json", encoding="utf-8") as file:
        numbers = json.load(file)
    more = 4 * (((numbers["high"] - numbers["low"]) / 2 / 0.01) ** 2 - 1)
    assert f"About {100 * math.ceil(more / 100):,} more decided verdicts of this kind would tell" in shown
    # P(green > red) = .7, P(blue > red) = .6, P(white > red) = .7
    assert numbers["brier"] == pytest.approx((0.3**2 + 0.3**2 + 0.4**2 + 0.7**2) / 4)
    filled = [part for part in numbers["bins"] if part["verdicts"]]
    assert sum(part["verdicts"] for part in filled) == 4
    assert sum(part["verdicts"] * part["agrees"] for part in filled) == pytest.approx(3)
    assert sum(part["verdicts"] * part["confidence"] for part in filled) == pytest.approx(0.7 + 0.7 + 0.6 + 0.7)
    assert (numbers["verdicts"], numbers["decided"], numbers["questions"]) == (5, 4, 3)
    assert numbers["first_wins"] == pytest.approx(0.65)
    assert numbers["flips"] == pytest.approx(1 / 3)
    assert numbers["among"] == 1.0
    assert len(lines("l.jsonl")) == 3


def prefers_the_first(prompt, first, second):
    return 0.8


def test_a_judge_that_averages_both_orders_shows_its_order_effect(capsys):
    write(
        "people.jsonl", [{"prompt": "p", "first": a, "second": b, "outcome": int(a < b)} for a, b in ("ab", "cd", "da")]
    )
    words = ["--oracle", f"judge,of={__name__}:prefers_the_first", "--out", "l.jsonl"]
    assert main(["--against", "people.jsonl", *words]) == 0
    shown = capsys.readouterr().out
    assert "the response shown first wins 80.0% [80.0%, 80.0%]; in 100.0% of the pairs the order decides" in shown
    assert [row["outcome"] for row in lines("l.jsonl")] == [0.5] * 3


def test_votes_of_one_judge_are_compared_with_those_of_people(capsys):
    def crowd(name, winners):
        rows = ["prompt,model_x,model_y,worker,winner,left,right"]
        rows += [f"{i % 2},1,2,w{i},{winner},wren,rook" for i, winner in enumerate(winners)]
        with open(name, "w", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")

    crowd("people.csv", ["left", "right", "left", "tie", "right", "right"])
    crowd("judge.csv", ["left", "right"])
    assert main(["--against", "people.csv", "--oracle", "votes,file=judge.csv", "--out", "l.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "agrees with 80.0%" in shown
    assert "of 5 decided verdicts on 2 pairs; 16.7% of the verdicts" in shown
    assert "by construction" in shown


def test_a_perfect_judge_has_alpha_one_and_a_coin_about_none():
    rng = np.random.default_rng(0)
    outcome = rng.integers(0, 2, 4000).astype(float)
    question = np.arange(4000)
    perfect = judge_agreement(outcome, 1 - outcome, question, outcome)
    assert (perfect.accuracy, perfect.alpha, perfect.brier, perfect.high) == (1, 1, 0, 1)
    assert 0.99 < perfect.low < 1
    coin = rng.random(4000)
    chance = judge_agreement(coin, 1 - coin, question, outcome)
    assert abs(chance.alpha) < 0.05
    assert chance.low < 0.5 < chance.high
    assert math.isnan(chance.among)
    assert json.dumps(chance.as_dict(), allow_nan=False)


def test_the_interval_widens_if_verdicts_share_a_question():
    rng = np.random.default_rng(1)
    prob = rng.random(100)
    won = (rng.random(100) < 0.5).astype(float)
    alone = judge_agreement(prob, 1 - prob, np.arange(100), won)
    repeated = judge_agreement(prob, 1 - prob, np.repeat(np.arange(100), 9), np.repeat(won, 9))
    assert repeated.accuracy == alone.accuracy
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=1e-6)
