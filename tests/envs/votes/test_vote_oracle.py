"""Files of votes as oracles and as finite tasks."""

import numpy as np
import pytest
import torch

from envs.tasks.task import make_task
from envs.votes.statistics.vote_game import vote_game
from envs.votes.vote_files import load_votes
from envs.votes.vote_oracle import VoteOracle, VotesConfig
from oracles import check_oracle, make
from runners.run.cli import parse

CROWD = [
    {"prompt": x, "left": a, "right": b, "winner": w, "model_x": 1, "model_y": 2, "worker": 7}
    for x, a, b, w in [(8, "a", "b", "left"), (8, "b", "a", "right"), (9, "b", "c", "tie"), (9, "a", "b", "right")]
]
PAIRS = [{"winner": "a", "loser": "b"}] * 3 + [{"winner": "b", "loser": "a"}, {"winner": "b", "loser": "c"}]


def test_a_pair_that_was_compared_leans_to_the_model_and_another_is_the_models(write):
    """a beat b 3 of 4 and b beat c once, which a prior holds: P = (W + s p) / (N + s)."""
    oracle = VotesConfig(write(*PAIRS), smoothing=2.0).build()
    whole = torch.tensor(vote_game(load_votes("FILE")[0], smoothing=2.0)["prob"])
    prob = oracle.prob(["votes"] * 3, ["a", "b", "a"], ["b", "a", "c"])
    torch.testing.assert_close(prob, torch.stack([whole[0, 1], whole[1, 0], whole[0, 2]]).double())
    assert oracle.never_compared == [("a", "c")]
    assert oracle.description == (
        "votes FILE: 5 votes, 3 items, 1 prompts, smoothing 2; 1 of 3 pairs never compared, their P is Bradley-Terry's "
        "prediction (a - c)"
    )


def test_each_prompt_of_the_file_is_a_game_and_all_together_are_another(write):
    oracle = make("votes", file=write(*CROWD))
    whole = vote_game(load_votes("FILE")[0])["prob"]
    ours = float(oracle.prob(["8"], ["a"], ["b"]))
    assert ours == pytest.approx((2 + whole[0][1]) / 3)
    assert float(oracle.prob(["votes"], ["a"], ["b"])) == pytest.approx(whole[0][1])
    check_oracle(oracle, ["8", "9", "votes"], [["a", "b", "c"]] * 3)


def test_a_sure_table_has_no_probability_of_0_or_1(write):
    oracle = make("votes", file=write(*[{"winner": "a", "loser": "b"}] * 9))
    assert 0.9 < float(oracle.prob(["votes"], ["a"], ["b"])) < 1


def test_the_task_has_the_items_and_brings_its_oracle(write):
    path = write(*CROWD)
    task = make_task(f"votes:{path}")
    assert (task.prompts, task.response_texts) == (("8", "9"), ("a", "b", "c"))
    assert make_task(f"votes:{path}", pooled=True).prompts == ("votes",)
    settings = parse(["--task", f"votes:{path}"]).settings
    assert (settings.names["oracle"], settings.names["policy"]) == ("votes", "tabular")
    assert settings.configs["oracle"].file == path
    oracle = settings.configs["oracle"].build(prompts=task.all_prompts, responses=task.response_texts)
    assert isinstance(oracle, VoteOracle)
    np.testing.assert_allclose(oracle.payoff(["8"], [["a", "b"]], [["a", "b"]])[0].diagonal(), 0.5)


@pytest.mark.parametrize(
    ("fields", "asked", "message"),
    [
        ({"smoothing": 0.0}, {}, "smoothing must be positive"),
        ({"smoothing": float("nan")}, {}, "smoothing must be positive"),
        ({"file": ""}, {}, "name a file of votes: --oracle votes --oracle.file FILE"),
        ({}, {"responses": ["aa"]}, "FILE: the table has no response 'aa'.*--task votes:FILE"),
        ({}, {"prompts": ["x"]}, "FILE: the table has no prompt 'x'.*--task votes:FILE"),
        ({"format": "crowd"}, {}, "FILE:1: .*crowd"),
    ],
)
def test_what_does_not_fit_is_named(fields, asked, message, write):
    path = write(*PAIRS)
    with pytest.raises(ValueError, match=message):
        make("votes", **{"file": path, **fields}, **asked)
