"""A table of votes as a finite game."""

import json
from pathlib import Path

import numpy as np
import pytest

from envs.votes.statistics.vote_game import vote_game
from envs.votes.table import VoteTable
from oracles.table import TableConfig


def test_a_pair_leans_to_the_models_prediction() -> None:
    """a won 3 of 4: scores of +- log(3)/2, prediction .75; with one more verdict of that, 3.75 of 5."""
    table = VoteTable.from_columns(["a"] * 4, ["b"] * 4, [1, 1, 1, 0])
    game = vote_game(table, smoothing=1.0)
    assert game["prompts"] == ["votes"]
    np.testing.assert_allclose(game["prob"], [[0.5, 0.75], [0.25, 0.5]], atol=1e-9)


def test_each_prompt_has_a_matrix_that_leans_to_the_whole_table(tmp_path: Path) -> None:
    table = VoteTable.from_columns(["a"] * 4, ["b"] * 4, [1, 1, 1, 0], prompts=["x", "x", "x", "y"])
    game = vote_game(table, ["x", "y"], smoothing=1.0)
    np.testing.assert_allclose(np.array(game["prob"])[:, 0, 1], [(3 + 0.75) / 4, 0.75 / 2], atol=1e-9)
    path = tmp_path / "game.json"
    path.write_text(json.dumps(game))
    oracle = TableConfig(str(path)).build(prompts=["x", "y"], responses=["a", "b"])
    assert float(oracle.prob(["y"], ["b"], ["a"])) == pytest.approx(1 - 0.375)


def test_no_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothing must be positive"):
        vote_game(VoteTable.from_columns(["a"], ["b"], [1]), smoothing=0)
