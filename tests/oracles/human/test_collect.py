"""Policies compared by people: `python -m runners.collect`."""

import json
from collections import Counter

import pytest
import torch

from envs.votes import load_preferences
from oracles.human.human_oracle import HumanOracle
from oracles.human.verdict_store import Verdict
from preference_duel.keyed_random import Key
from preference_duel.types import Completion
from runners.audit import main as audit
from runners.collect import main
from runners.duel import main as duel
from runners.evaluation.entrants import Entrant
from runners.evaluation.human_votes import Comparison, votes
from tests.oracles.human.scripted import Scripted, free_port

GAME = {"prompts": [f"p{i}" for i in range(4)], "responses": ["a", "b", "c"], "prob": [[0.5] * 3] * 3}


def alphabetical(prompt, left, right):
    return "left" if left < right else "right"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs on a game."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "game.json").write_text(json.dumps(GAME))
    for name in ("sppo", "ipo", "dpo"):
        command = [
            "--task",
            "game.json",
            "--agent",
            name,
            "--run.steps",
            "1",
            "--run.eval_every",
            "0",
            "--run.dir",
            name,
        ]
        assert duel(command) == 0
    return ["sppo", "ipo", "dpo"]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def user(text):
    return [{"role": "user", "content": text}]


def test_people_compare_runs_and_the_audit_reads_their_votes(runs, tmp_path, capsys):
    port = free_port()
    with Scripted(f"http://127.0.0.1:{port}", alphabetical):
        assert main([*runs, "--out", "votes.jsonl", "--draws", "3", "--port", str(port), "--grace", "0"]) == 0
    shown = capsys.readouterr().out
    assert "pairs: 36, " in shown
    found = rows(tmp_path / "votes.jsonl")
    assert {row["model_a"] for row in found} | {row["model_b"] for row in found} == set(runs)
    for row in found:
        a, b = (row[f"conversation_{side}"][-1]["content"] for side in "ab")
        assert a != b
        assert row["winner"] == ("model_a" if a < b else "model_b")
        assert row["conversation_a"][:-1] == row["conversation_b"][:-1]
        assert (row["annotator"], row["conversation_a"][0]["role"]) == ("ann", "user")
    assert audit(["votes.jsonl", "--draws", "19"]) == 0
    assert f"votes.jsonl: {len(found)} rows (arena), {len(found)} votes" in capsys.readouterr().out
    preferences, _ = load_preferences("votes.jsonl")
    assert {one.prompt for one in preferences} <= set(GAME["prompts"])


def test_a_collection_is_stopped_written_in_part_and_goes_on(runs, tmp_path, monkeypatch, capsys):
    port = free_port()
    command = [*runs[:2], "--out", "votes.jsonl", "--draws", "8", "--port", str(port), "--grace", "0"]
    with monkeypatch.context() as patch, Scripted(f"http://127.0.0.1:{port}", alphabetical, most=3) as ann:

        def interrupt(oracle, missing):
            if len(ann.questions) == 3:
                raise KeyboardInterrupt

        patch.setattr(HumanOracle, "_report", interrupt)
        assert main(command) == 130
    assert "votes.sqlite keeps 3 verdicts; the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "votes.jsonl").exists()
    assert main([*command, "--finish"]) == 0
    part = rows(tmp_path / "votes.jsonl")
    (tmp_path / "votes.jsonl").unlink()
    with Scripted(f"http://127.0.0.1:{port}", alphabetical) as again:
        assert main(command) == 0
    assert len(again.questions) > 0
    assert not set(ann.questions) & set(again.questions)
    assert rows(tmp_path / "votes.jsonl")[: len(part)] == part


def test_wrong_commands_are_refused_in_a_line(runs, tmp_path, capsys):
    (tmp_path / "there.jsonl").write_text("")
    for command, code, message in (
        ([*runs, "--out", "there.jsonl"], 1, "there.jsonl exists and is never overwritten: choose another --out"),
        (["sppo", "--out", "votes.jsonl"], 1, "expected two policies or more, each once, got sppo"),
        (["sppo", "sppo", "--out", "votes.jsonl"], 1, "expected two policies or more, each once, got sppo, sppo"),
        (["sppo", "tinny", "--out", "votes.jsonl"], 2, "unknown policy 'tinny'; did you mean 'tiny'?"),
        ([*runs, "--out", "votes.sqlite"], 1, "the votes are JSON lines; choose a name such as votes.jsonl"),
        ([*runs, "--out", "votes.jsonl", "--people", "0"], 1, "--people must be at least 1, got 0"),
        ([*runs, "--out", "votes.jsonl", "--finish"], 1, "votes.sqlite holds no verdict yet; leave --finish out"),
        ([*runs[1:], "--out", "votes.jsonl"], 1, "holds the verdicts of the comparison of dpo, ipo, sppo on game.json"),
        (["tiny", "hf", "--out", "votes.jsonl"], 1, "no run names a task: pass --task"),
    ):
        assert main(command) == code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1


def test_a_verdict_counts_for_each_pair_of_policies_that_gave_the_texts():
    pairs = [
        Comparison("p", ("one", "two"), ("a", "b")),
        Comparison("p", ("one", "three"), ("a", "b")),
        Comparison("q", ("one", "two"), ("a", "b")),
    ]
    verdicts = [
        Verdict(user("p"), "b", "a", "left", "ann", "now"),
        Verdict(user("other"), "b", "a", "left", "ann", "now"),
    ]
    found = [(row["model_a"], row["model_b"], row["winner"]) for row in votes(verdicts, pairs)]
    assert found == [("two", "one", "model_a"), ("three", "one", "model_a")]


def test_a_policy_that_lists_its_distribution_is_drawn_from():
    class Listed:
        exact = True

        def draw(self, prompts, n, key):
            return [[Completion("a"), Completion("b"), Completion("c")]] * 2, torch.tensor([[0.25, 0, 0.75], [0, 1, 0]])

    texts = Entrant("listed", Listed(), None).responses(["p", "q"], 400, Key(0))
    counts = Counter(texts[0])
    assert set(counts) == {"a", "c"}
    assert 70 < counts["a"] < 130
    assert set(texts[1]) == {"b"}


@pytest.mark.slow
def test_language_models_are_compared_with_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert duel(["--task", "chat", "--run.steps", "1", "--run.eval_every", "0", "--run.dir", "talk"]) == 0
    port, models = free_port(), ["tiny", "talk/step-1/policy"]
    command = ["--task", "chat", "--prompts", "3", "--out", "votes.jsonl", "--port", str(port), "--grace", "0"]
    with Scripted(f"http://127.0.0.1:{port}", alphabetical):
        assert main(["talk", *models, *command]) == 0
    found = rows(tmp_path / "votes.jsonl")
    assert {row["model_a"] for row in found} | {row["model_b"] for row in found} == {"sppo", *models}
    assert all(row["conversation_a"][0]["role"] == "user" for row in found)
