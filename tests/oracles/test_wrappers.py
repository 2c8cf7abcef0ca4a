"""Named games, and the wrappers that "+" adds to an oracle."""

import json

import pytest
import torch

import oracles
from envs import make_task
from envs.games import intransitivity, payoff_matrix, regularised_nash, von_neumann_winner
from oracles import check_oracle, payoff
from oracles.registry import oracle_config
from oracles.table import GAMES
from oracles.wrappers import Noise, PerPrompt, PositionBias
from preference_duel.names import UnknownNameError
from runners.duel import main

RESPONSES = [f"y{i}" for i in range(9)]
PROMPTS = ["x", "y", "z"]


class Asked:
    """Knows its answers pair by pair, and counts the questions."""

    antisymmetric = True

    def __init__(self):
        self.count = 0

    def prob(self, prompts, first, second):
        self.count += len(prompts)
        gaps = [len(a) - len(b) for a, b in zip(first, second, strict=True)]
        return torch.sigmoid(torch.tensor(gaps, dtype=torch.float64))


def make(name, **fields):
    return oracles.make(name, prompts=PROMPTS, responses=RESPONSES, **fields)


def matrix(oracle, prompt="x"):
    return payoff_matrix(oracle, prompt, RESPONSES)


def test_an_oracle_in_three_wrappers_keeps_the_contract():
    check_oracle(make("gpm+per_prompt+noise+position_bias"), PROMPTS, [RESPONSES] * 3)


def test_noise_flips_coins_and_only_rescales_the_regularised_game():
    noisy = matrix(make("cyclic+noise", lam=0.7, noise=Noise(0.25)))
    clean = matrix(make("cyclic", lam=0.7))
    assert torch.allclose(noisy, 0.75 * clean + 0.125)
    ref = torch.softmax(torch.arange(9, dtype=torch.float64) / 3, 0)
    same = regularised_nash(clean, ref, 0.1 / 0.75).policy
    assert torch.allclose(regularised_nash(noisy, ref, 0.1).policy, same, atol=1e-8)


def test_a_preferred_seat_says_that_it_is_not_antisymmetric_and_self_play_sees_none():
    biased, fair = make("cyclic+position_bias", position_bias=PositionBias(1.0)), make("cyclic")
    assert not biased.antisymmetric
    first, second = ["y1"], ["y4"]
    logit = fair.prob(["x"], first, second).logit()
    assert biased.prob(["x"], first, second).logit().item() == pytest.approx(logit.item() + 1)
    table = payoff(biased, ["x"], [RESPONSES])[0]
    assert torch.allclose(table + table.T, torch.ones(9, 9, dtype=torch.float64))
    both = (torch.sigmoid(matrix(fair).logit() + 1) + torch.sigmoid(matrix(fair).logit() - 1)) / 2
    assert torch.allclose(table, both)
    assert make("cyclic+position_bias", position_bias=PositionBias(0.0)).antisymmetric


def test_both_orders_are_asked_of_an_oracle_that_answers_pairs():
    inner = Asked()
    biased = PositionBias(0.5).wrap(lambda prompts: inner, None)
    assert not hasattr(biased, "payoff")
    table = payoff(biased, ["x"], [["a", "bb", "ccc"]])[0]
    assert inner.count == 6
    assert torch.allclose(table + table.T, torch.ones(3, 3, dtype=torch.float64))


def test_every_prompt_has_a_share_of_cycles_of_its_own():
    ends = PerPrompt(0.2, 0.9, seed=4)
    mixed = make("cyclic+per_prompt", per_prompt=ends)
    shares = [intransitivity(matrix(mixed, prompt)).curl_ratio.item() for prompt in PROMPTS]
    assert shares == pytest.approx([ends.lam(prompt) for prompt in PROMPTS], abs=1e-9)
    assert 0.2 <= min(shares) < max(shares) <= 0.9
    one = make("cyclic", lam=ends.lam("y"))
    assert torch.equal(matrix(mixed, "y"), matrix(one, "y"))


def test_the_outer_wrapper_comes_last_in_the_name():
    both = matrix(make("cyclic+noise+position_bias", noise=Noise(1.0), position_bias=PositionBias(2.0)))
    assert torch.allclose(both, torch.full_like(both, 0.5))
    seat = make("cyclic+position_bias+noise", noise=Noise(0.5), position_bias=PositionBias(50.0))
    assert seat.prob(["x"], ["y0"], ["y1"]).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cyclic+nois", UnknownNameError, "unknown wrapper 'nois'; did you mean 'noise'"),
        ("cyclik+noise", UnknownNameError, "did you mean 'cyclic'"),
        ("cyclic+noise+noise", ValueError, "wrapper 'noise' is named twice"),
        ("bt+per_prompt", ValueError, "needs an oracle with a field 'lam'"),
        ("cyclic+noise+per_prompt", ValueError, "stands first after an oracle"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, error, message):
    with pytest.raises(error, match=message):
        oracle_config(name)


@pytest.mark.parametrize(
    ("name", "wrapper", "message"),
    [
        ("noise", Noise(1.5), "eps must lie in"),
        ("noise", Noise(-0.1), "eps must lie in"),
        ("per_prompt", PerPrompt(0.8, 0.2), "low must not be above high"),
    ],
)
def test_fields_of_wrappers_are_checked(name, wrapper, message):
    with pytest.raises(ValueError, match=message):
        make(f"cyclic+{name}", **{name: wrapper})


@pytest.mark.parametrize("name", GAMES)
def test_named_games_are_tasks_and_oracles(name):
    task = make_task(name)
    judge = oracles.make(name, prompts=task.prompts, responses=task.response_texts)
    game = payoff_matrix(judge, task.prompts[0], task.response_texts)
    assert torch.equal(game, task.prob)
    expected = {
        "rps": [1 / 3] * 3,
        "comal3": [4 / 11, 3 / 11, 4 / 11],
        "cycle5": [0.2] * 5,
        "clone_rps": [1 / 3, 1 / 3],
    }[name]
    assert von_neumann_winner(game).policy[: len(expected)].tolist() == pytest.approx(expected, abs=1e-9)
    assert intransitivity(game).pure > 0


def test_a_run_takes_names_and_wrappers_from_the_command_line(tmp_path):
    short = ["--run.steps", "2", "--run.eval_every", "2"]
    judge = ["--oracle", "rps+noise", "--oracle.noise.eps", "0.5"]
    assert main(["--task", "rps", *judge, *short, "--run.dir", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["names"]["oracle"] == "rps+noise"
    assert config["oracle"] == {"game": "rps", "noise": {"eps": 0.5}}
    assert main(["--resume", str(tmp_path / "run"), "--run.steps", "3"]) == 0


def test_a_named_game_judges_its_own_task_alone(tmp_path, capsys):
    assert main(["--task", "symbols", "--oracle", "rps", "--run.dir", str(tmp_path / "run")]) == 1
    assert "oracle 'rps' judges --task rps alone" in capsys.readouterr().err
    assert main(["--task", "rpss", "--run.dir", str(tmp_path / "run")]) == 2
    assert "did you mean 'rps'" in capsys.readouterr().err
