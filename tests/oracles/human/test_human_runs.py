"""Runs whose oracle is people."""

import json

import pytest

from oracles.human.verdict_store import VerdictStore
from runners.duel import main
from runners.evaluation.saved_runs import read_saved_runs
from runners.run.cli import parse
from runners.run.record import read_lines
from runners.run.signals import Interrupt
from tests.oracles.human.scripted import Scripted, free_port

PROB = [[0.5, 1, 0], [0, 0.5, 0.5], [1, 0.5, 0.5]]
GAME = {"prompts": ["p", "q"], "responses": ["a", "b", "c"], "prob": PROB}


def by_table(prompt, left, right):
    prob = PROB[GAME["responses"].index(left)][GAME["responses"].index(right)]
    return {1: "left", 0: "right", 0.5: "tie"}[prob]


@pytest.fixture
def duel(tmp_path, monkeypatch):
    """Starts a run of SPPO on the game with people; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "game.json").write_text(json.dumps(GAME))

    def start(*words, oracle="human", directory="run", resume=False):
        begin = ["--task", "game.json", "--agent", "sppo", "--oracle", oracle, "--run.dir", directory]
        begin += ["--run.steps", "4", "--run.batch_size", "8", "--policy.no-exact", "--agent.responses", "3"]
        return main([*(["--resume", directory] if resume else begin), *words])

    return start


def page(port):
    return ["--oracle.port", str(port), "--oracle.grace", "0"]


def measured(directory):
    """Everything but the clock's share, and the evaluation's."""
    lines = read_lines(directory / "metrics.jsonl")
    return [{tag: v for tag, v in line.items() if tag != "wall_time" and "time/" not in tag} for line in lines]


def test_a_run_judged_by_people_is_the_run_on_a_table_of_their_verdicts(duel, tmp_path, capsys):
    port, measure = free_port(), ["--run.eval_every", "2"]
    with Scripted(f"http://127.0.0.1:{port}", by_table) as ann:
        assert duel(*page(port), *measure) == 0
    assert "asks:  at most 12 pairs: 6 to learn from, and 6 in evaluations" in capsys.readouterr().out
    assert sorted(ann.questions) == list(range(1, 7)), "three pairs of two prompts, each asked once"
    assert duel(*measure, oracle="table", directory="table") == 0
    assert measured(tmp_path / "run") == measured(tmp_path / "table")
    assert any("eval/win_rate_vs_ref" in line for line in measured(tmp_path / "run"))
    (finished,) = read_saved_runs([tmp_path / "run"], "cpu")
    prompts, left, right = ["p", "q"], ["a", "c"], ["c", "b"]
    assert finished.experiment.oracle.prob(prompts, left, right).tolist() == [0, 0.5], "read back, without a page"
    finished.experiment.oracle.close()


def test_a_stopped_run_keeps_the_verdicts_and_asks_only_for_the_rest(duel, tmp_path, monkeypatch, capsys):
    port = free_port()
    with monkeypatch.context() as patch, Scripted(f"http://127.0.0.1:{port}", by_table, most=2) as ann:
        given = property(lambda self: 2 if len(ann.questions) == 2 else None, lambda self, value: None)
        patch.setattr(Interrupt, "signal", given, raising=False)  # Ctrl-C after the second verdict
        assert duel(*page(port)) == 130
    assert "stopped after step 0; go on with: python -m runners.duel --resume run" in capsys.readouterr().out
    with Scripted(f"http://127.0.0.1:{port}", by_table, "bob") as bob:
        assert duel("--oracle.patience", "0.1", resume=True) == 0
    assert not set(ann.questions) & set(bob.questions)
    assert duel("--run.eval_every", "0", oracle="table", directory="table") == 0
    assert measured(tmp_path / "run") == measured(tmp_path / "table")


def test_people_are_not_asked_about_held_out_prompts_by_default():
    assert parse(["--oracle", "human"]).settings.run.eval_every == 0
    assert parse(["--oracle", "human+noise"]).settings.run.eval_every == 0
    assert parse(["--oracle", "human", "--run.eval_every", "5"]).settings.run.eval_every == 5
    assert parse(["--oracle", "bt"]).settings.run.eval_every == 20


def test_a_resumed_run_may_take_another_port_but_not_other_people(duel, tmp_path, capsys):
    port = free_port()
    with Scripted(f"http://127.0.0.1:{port}", by_table):
        assert duel(*page(port), "--run.steps", "2") == 0
    assert duel("--run.steps", "3", *page(free_port()), resume=True) == 0
    capsys.readouterr()
    assert duel("--oracle.people", "2", resume=True) == 2
    assert "does not fit the run that is resumed" in capsys.readouterr().err


def test_the_file_of_another_run_is_refused_in_a_line(duel, tmp_path, capsys):
    store = VerdictStore(tmp_path / "other.sqlite")
    store.claim("the run game.json tabular human sppo, seed 7, started 2026-01-01T00:00:00+00:00")
    store.close()
    assert duel("--oracle.file", "other.sqlite") == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith("error: ")
    assert "other.sqlite holds the verdicts of the run game.json tabular human sppo, seed 7, started 2026" in error


def test_a_port_in_use_is_refused_in_a_line(duel, tmp_path, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert duel(*page(taken.getsockname()[1])) == 1
    assert "can't listen on port" in capsys.readouterr().err.splitlines()[0]
