"""Rewards inside a group by hand, each question asked once, and nothing scored that was not answered."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from oracles.group_rewards import group_rewards
from oracles.table import TableOracle
from preference_duel import groups
from preference_duel.keyed_random import Key

TEXTS = ["a", "b", "c", "d"]
PAYOFF = torch.tensor(
    [[0.5, 0.9, 0.2, 0.6], [0.1, 0.5, 0.7, 0.8], [0.8, 0.3, 0.5, 0.7], [0.4, 0.2, 0.3, 0.5]], dtype=torch.float64
)
# The ring is a-b-c-d; swiss plays a-b and c-d, then a-c (.9 and .7) and b-d (.1 and .3).
WIN_RATES = {
    "all_pairs": [1.7 / 3, 1.6 / 3, 1.8 / 3, 0.9 / 3],
    "circular": [0.75, 0.4, 0.5, 0.35],
    "chunks": [1.7 / 3, 1.6 / 3, 1.8 / 3, 0.9 / 3],
    "anchor": [1.7 / 3, 0.1, 0.8, 0.4],
    "swiss": [0.55, 0.45, 0.75, 0.25],
}
# 1 + 4P rounded, and 3.5 for the .6: a 5, 2, 3.5 against b, c, d; b 1, 4, 4; c 4, 2, 4; d 2.5, 2, 2.
SCORES = {
    "all_pairs": [10.5 / 3, 9 / 3, 10 / 3, 6.5 / 3],
    "circular": [8.5 / 2, 5 / 2, 6 / 2, 4.5 / 2],
    "chunks": [10.5 / 3, 9 / 3, 10 / 3, 6.5 / 3],
    "anchor": [10.5 / 3, 1, 4, 2.5],
    "swiss": [7 / 2, 5 / 2, 8 / 2, 4 / 2],
}
QUERIES = {"all_pairs": 6, "circular": 4, "chunks": 6, "anchor": 3, "swiss": 4}


class Counting:
    """Looks P up and remembers every question; `bias` favours the first response, `silent` pairs get NaN."""

    def __init__(self, payoff=PAYOFF, bias=0.0, silent=()):
        self.payoff, self.bias, self.silent = payoff, bias, silent
        self.antisymmetric, self.leaves_unread = bias == 0, bool(silent)
        self.questions = []

    def prob(self, prompts, first, second):
        asked = list(zip(prompts, first, second, strict=True))
        self.questions += asked
        answers = [self.payoff[TEXTS.index(a), TEXTS.index(b)] * (1 - self.bias) + self.bias for _, a, b in asked]
        silent = [a + b in self.silent for _, a, b in asked]
        return torch.where(torch.tensor(silent), torch.nan, torch.stack(answers))


@pytest.mark.parametrize("schedule", WIN_RATES)
def test_win_rates_and_scores_by_hand(schedule):
    for aggregate, expected in (("win_rate", WIN_RATES), ("scores", SCORES)):
        oracle = Counting()
        result = group_rewards(oracle, ["x"], [TEXTS], schedule=schedule, aggregate=aggregate)
        assert result.rewards[0].tolist() == pytest.approx(expected[schedule])
        assert result.queries == len(oracle.questions) == len(result.pairs) == QUERIES[schedule]
        assert set(Counter(map(frozenset, oracle.questions)).values()) == {1}


@pytest.mark.parametrize("schedule", WIN_RATES)
def test_bradley_terry_scores_are_the_likeliest(schedule):
    result = group_rewards(Counting(), ["x"], [TEXTS], schedule=schedule, aggregate="bt")

    def loss(scores):
        scores = torch.from_numpy(scores)
        draws = groups.PRIOR * (torch.nn.functional.softplus(scores) - scores / 2).sum()
        for _, i, j in result.pairs:
            draws += torch.nn.functional.softplus(scores[i] - scores[j]) - PAYOFF[i, j] * (scores[i] - scores[j])
        return float(draws)

    assert result.rewards[0].tolist() == pytest.approx(minimize(loss, [0.0] * 4, tol=1e-12).x, abs=1e-5)


def test_bradley_terry_scores_by_hand():
    # At s = (log 2, -log 2) the gradient is p - 4/5 - 1/2 (2/3 - 1/2).
    p = 0.8 + 0.5 / 6
    prob = torch.tensor([[[0.5, p], [1 - p, 0.5]]], dtype=torch.float64)
    scores = groups.aggregate(prob, groups.scheduled_pairs("circular", 2)[None], "bt")
    assert scores[0].tolist() == pytest.approx([torch.tensor(2.0).log().item(), -torch.tensor(2.0).log().item()])


def test_certain_outcomes_have_finite_scores_and_a_cycle_has_none():
    wins = torch.ones(16, 16, dtype=torch.float64).triu(1)
    for schedule in ("all_pairs", "circular", "chunks", "anchor"):
        scores = groups.aggregate(wins[None], groups.scheduled_pairs(schedule, 16)[None], "bt")
        assert scores.isfinite().all()
        assert scores.abs().max() < 8
    rps = torch.tensor([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    assert groups.aggregate(rps[None], groups.scheduled_pairs("all_pairs", 3)[None], "bt").abs().max() < 1e-9


def test_a_tie_with_oneself_may_count():
    result = group_rewards(Counting(), ["x"], [TEXTS], leave_one_out=False)
    assert result.rewards[0].tolist() == pytest.approx([2.2 / 4, 2.1 / 4, 2.3 / 4, 1.4 / 4])
    result = group_rewards(Counting(), ["x"], [TEXTS], leave_one_out=False, aggregate="scores", schedule="circular")
    assert result.rewards[0].tolist() == pytest.approx([11.5 / 3, 8 / 3, 9 / 3, 7.5 / 3])


def test_a_ring_of_two_is_one_pair_and_one_of_three_is_all_pairs():
    assert group_rewards(oracle := Counting(), ["x"], [["a", "b"]], schedule="circular").queries == 1
    assert len(oracle.questions) == 1
    three = [groups.scheduled_pairs(schedule, 3) for schedule in ("circular", "all_pairs")]
    assert torch.equal(*three)


@pytest.mark.parametrize(("count", "sizes"), [(4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5]), (16, [4] * 4)])
def test_chunks_are_fours_and_none_is_left_alone(count, sizes):
    meet = groups.scheduled_pairs("chunks", count) | torch.eye(count, dtype=torch.bool)
    assert meet.sum(1).tolist() == [size for size in sizes for _ in range(size)]


def test_both_orders_are_asked_of_a_biased_oracle():
    oracle = Counting(bias=0.25)
    result = group_rewards(oracle, ["x"], [TEXTS], schedule="circular")
    # (P (1 - e) + e + 1 - (1 - P) (1 - e) - e) / 2 = (1 - e) P + e / 2
    assert result.rewards[0].tolist() == pytest.approx([0.75 * p + 0.125 for p in WIN_RATES["circular"]])
    assert result.queries == len(oracle.questions) == len(set(oracle.questions)) == 8


def test_equal_texts_tie_unasked_and_each_question_is_asked_once():
    oracle = Counting()
    result = group_rewards(oracle, ["x", "y"], [["a", "b", "a"], ["b", "b", "b"]])
    assert [(p, *sorted((a, b))) for p, a, b in oracle.questions] == [("x", "a", "b")]
    assert result.rewards.tolist() == [pytest.approx([0.7, 0.1, 0.7]), [0.5, 0.5, 0.5]]
    assert len(result.pairs) == 6
    assert result.queries == 1


def test_an_unanswered_pair_is_dropped_and_never_scored():
    result = group_rewards(Counting(silent={"ab"}), ["x"], [TEXTS])
    assert result.rewards[0].tolist() == pytest.approx([0.4, 0.75, 0.6, 0.3])
    assert result.unanswered == ((0, 0, 1),)
    with pytest.raises(ValueError, match="response 1 of prompt 0 has no answered comparison"):
        group_rewards(Counting(silent={"ab"}), ["x"], [TEXTS], schedule="anchor")
    one_order = Counting(bias=0.25, silent={"ba"})
    assert group_rewards(one_order, ["x"], [TEXTS]).unanswered == ((0, 0, 1),)


def test_a_key_draws_outcomes_whose_mean_is_the_win_rate():
    oracle = TableOracle(PAYOFF, ["x"], TEXTS)
    prompts, completions = ["x"] * 4000, [TEXTS] * 4000
    result = group_rewards(oracle, prompts, completions, schedule="circular", key=Key(3))
    assert set(result.rewards.unique().tolist()) == {0, 0.5, 1}
    assert result.rewards.mean(0).tolist() == pytest.approx(WIN_RATES["circular"], abs=0.02)
    alone = group_rewards(oracle, ["x"], [TEXTS], schedule="circular", key=Key(3, 7))
    assert torch.equal(alone.rewards[0], result.rewards[7])


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(5)), seed=st.integers(0, 10**6), aggregate=st.sampled_from(["win_rate", "scores", "bt"])
)
def test_permuting_completions_permutes_all_pairs_rewards(order, seed, aggregate):
    half = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).triu(1)
    payoff = half + (1 - half.T).tril(-1)
    payoff.fill_diagonal_(0.5)
    texts = list("vwxyz")
    oracle = TableOracle(payoff, ["x"], texts)
    rewards = group_rewards(oracle, ["x"], [texts], aggregate=aggregate).rewards[0]
    permuted = group_rewards(oracle, ["x"], [[texts[i] for i in order]], aggregate=aggregate).rewards[0]
    torch.testing.assert_close(permuted, rewards[list(order)], atol=1e-9, rtol=0)


@given(p=st.floats(0, 1))
def test_scores_of_a_pair_sum_to_six(p):
    pair = groups.genrm_score(torch.tensor([p, 1 - p], dtype=torch.float64))
    assert pair.sum() == 6
    assert set(pair.tolist()) <= {1, 2, 2.5, 3, 3.5, 4, 5}


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_swiss_rounds_have_disjoint_pairs_that_never_meet_again(count, seed):
    texts = [str(i) for i in range(count)]
    half = torch.rand(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).triu(1)
    payoff = half + (1 - half.T).tril(-1)
    payoff.fill_diagonal_(0.5)
    oracle = TableOracle(payoff, ["x"], texts)
    result = group_rewards(oracle, ["x"], [texts], schedule="swiss")
    rounds = math.ceil(math.log2(count))
    assert len(set(result.pairs)) == len(result.pairs) <= rounds * (count // 2)
    assert {i for _, *pair in result.pairs for i in pair} == set(range(count))
    assert [i for _, *pair in result.pairs[: count // 2] for i in pair] == list(range(count - count % 2))


@pytest.mark.parametrize(
    ("completions", "options", "message"),
    [
        ([["a"]], {}, "at least 2, for each of the 1 prompts"),
        ([["a", "b"], ["c", "d"]], {}, "got 2 groups"),
        ([["a", "b"]], {"schedule": "ring"}, "schedule must be one of"),
        ([["a", "b"]], {"aggregate": "sum"}, "method must be one of"),
    ],
)
def test_what_cannot_be_rewarded_is_refused(completions, options, message):
    with pytest.raises(ValueError, match=message):
        group_rewards(Counting(), ["x"], completions, **options)


def test_groups_of_unequal_size_and_answers_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"groups of \[2, 3\]"):
        group_rewards(Counting(), ["x", "y"], [["a", "b"], ["a", "b", "c"]])
    with pytest.raises(ValueError, match="is it returning logits"):
        group_rewards(Counting(payoff=PAYOFF * 4), ["x"], [TEXTS])
    assert group_rewards(Counting(), [], []).queries == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must both be"):
        groups.aggregate(PAYOFF, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="weights are for the other methods"):
        groups.aggregate(PAYOFF[None], groups.scheduled_pairs("all_pairs", 4)[None], "bt", weight=torch.ones(1, 4))
    with pytest.raises(ValueError, match="at least 2 responses"):
        groups.scheduled_pairs("all_pairs", 1)


def test_weights_of_opponents_weigh_the_mean():
    compared = torch.ones(1, 4, 4, dtype=torch.bool)
    weight = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    rewards = groups.aggregate(PAYOFF[None], compared, weight=weight)
    assert torch.allclose(rewards[0], PAYOFF @ weight[0])
