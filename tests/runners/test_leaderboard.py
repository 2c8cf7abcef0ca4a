"""`python -m runners.leaderboard`: points equal to evalica's and arena-rank's, in order, with intervals around them."""

import csv
import json
import math
from pathlib import Path

import evalica
import pytest

from envs.votes.vote_files import load_votes
from runners.leaderboard import POINTS, START, main
from tests.paths import GOLDEN


def test_points_are_those_of_evalica(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["example", "--csv", str(tmp_path / "table.csv")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["1", "alder"]
    with (tmp_path / "table.csv").open() as file:
        rows = {row["item"]: {k: float(v) for k, v in row.items() if k != "item"} for row in csv.DictReader(file)}
    table, _ = load_votes("runners/auditing/example.csv")
    winners = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    expected = evalica.bradley_terry(
        [table.items[i] for i in table.first.tolist()],
        [table.items[i] for i in table.second.tolist()],
        [winners[outcome] for outcome in table.outcome.tolist()],
        tolerance=1e-13,
        limit=10_000,
    ).scores
    logs = {name: math.log(expected[name]) for name in rows}
    mean = sum(logs.values()) / len(logs)
    arena_rank = json.loads((GOLDEN / "arena_rank.json").read_text())["ratings"]
    assert arena_rank.keys() == rows.keys()
    for name, row in rows.items():
        assert row["points"] == pytest.approx(START + POINTS * (logs[name] - mean), abs=1e-4)
        assert row["points"] == pytest.approx(arena_rank[name], abs=0.02)  # it stops early
        assert row["low"] < row["points"] < row["high"]
    assert sum(row["verdicts"] for row in rows.values()) == 2 * 1200


def test_few_draws_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["example", "--draws", "1"]) == 1
    assert capsys.readouterr().err == "error: --draws must be at least 2, got 1\n"
