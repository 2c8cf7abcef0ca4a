import itertools
import math
import subprocess
import sys

import pytest
import torch

from oracles.base import payoff
from oracles.bradley_terry import RewardOracle
from oracles.check import check_oracle
from oracles.readers.classifier import ReaderConfig
from oracles.registry import make
from preference_duel.protocols import PayoffOracle

PROMPTS = ["p", "q", ""]
RESPONSES = ["".join(letters) for letters in itertools.product("abc", repeat=3)]


@pytest.fixture
def finite():
    return make("bt", prompts=PROMPTS, responses=RESPONSES, seed=3, scale=1.5)


def logits(prob: torch.Tensor) -> torch.Tensor:
    return torch.logit(prob)


def test_drawn_rewards_keep_the_promises_of_an_oracle(finite):
    check_oracle(finite, PROMPTS, [RESPONSES[:5], RESPONSES[3:8], RESPONSES[-5:]])
    check_oracle(make("bt"), ["a prompt", "another"], [["x", "y", "", "x"], ["x", "y", "z", "a\x1fb"]])


def test_probability_is_the_logistic_of_the_difference():
    oracle = RewardOracle(lambda prompts, texts: torch.tensor([float(text) for text in texts]))
    prob = oracle.prob(["xx", "x", "x"], ["1", "3", "0"], ["3", "1", "0"])
    assert prob.tolist() == pytest.approx([1 / (1 + math.e**2), 1 / (1 + math.e**-2), 0.5])


def test_listed_rewards_have_exactly_the_scale(finite):
    matrix = logits(payoff(finite, PROMPTS, [RESPONSES] * 3))
    off = ~torch.eye(len(RESPONSES), dtype=torch.bool)
    assert matrix.dtype == torch.float64
    for prompt in matrix:
        assert prompt[off].square().mean().sqrt().item() == pytest.approx(1.5, rel=1e-12)
    assert not torch.allclose(matrix[0], matrix[1])


def test_logits_have_no_cycle(finite):
    matrix = logits(payoff(finite, PROMPTS, [RESPONSES] * 3))
    means = matrix.mean(-1)
    assert torch.allclose(matrix, means[:, :, None] - means[:, None, :], atol=1e-12)


def test_drawn_rewards_of_texts_are_normal_with_the_scale_on_average():
    rewards = make("bt", scale=3.0).rewards(["p"] * 4000, [str(i) for i in range(4000)])
    standard = rewards / (3 / math.sqrt(2))
    assert abs(standard.mean().item()) < 0.05
    assert standard.std().item() == pytest.approx(1, abs=0.04)
    assert (standard.abs() < 1).double().mean().item() == pytest.approx(0.683, abs=0.025)


def test_a_reward_depends_on_seed_and_texts_alone(finite):
    wanted = finite.rewards(["q", "p"], ["abc", "cba"])
    shuffled = make("bt", prompts=["q"], responses=RESPONSES[::-1], seed=3, scale=1.5)
    assert torch.allclose(shuffled.rewards(["q", "p"], ["abc", "cba"]), wanted, rtol=1e-14)
    other = make("bt", prompts=PROMPTS, responses=RESPONSES, seed=4, scale=1.5)
    assert not torch.isclose(other.rewards(["q", "p"], ["abc", "cba"]), wanted).any()


@pytest.mark.slow
def test_another_process_draws_the_same_rewards():
    code = "from oracles import make; print(make('bt', seed=5).rewards(['p', 'p'], ['x', 'y']).tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(make("bt", seed=5).rewards(["p", "p"], ["x", "y"]).tolist())


def test_payoff_reads_each_response_and_not_each_pair(finite):
    assert isinstance(finite, PayoffOracle)
    read = []
    oracle = RewardOracle(lambda prompts, texts: read.append(len(texts)) or finite.rewards(prompts, texts))
    left, right = [RESPONSES[:4]] * 2, [RESPONSES[3:6]] * 2
    matrix = oracle.payoff(PROMPTS[:2], left, right)
    assert matrix.shape == (2, 4, 3)
    assert read == [8, 6]
    assert payoff(oracle, PROMPTS[:2], left).shape == (2, 4, 4)
    assert read == [8, 6, 8]


def test_nothing_is_asked_of_an_empty_batch(finite):
    assert finite.prob([], [], []).shape == (0,)
    assert make("bt").prob([], [], []).dtype == torch.float64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0.0}, "scale must be positive and finite, got 0"),
        ({"scale": math.inf}, "scale must be positive and finite, got inf"),
        ({"reader": ReaderConfig("chat")}, "without a model reads no reader"),
        ({"model": "x/y", "seed": 1}, "with a model reads no seed"),
        ({"responses": ["a"]}, "2 or more distinct responses, got 1"),
        ({"responses": ["a", "b", "a"]}, "got 3, of them 2 distinct"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make("bt", **fields)


def test_a_response_that_is_not_listed_is_named(finite):
    with pytest.raises(ValueError, match="'abcc' is none of the task's 27 responses"):
        finite.prob(["p"], ["abcc"], ["abc"])
