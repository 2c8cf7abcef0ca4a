"""Measures of sampled responses and of verdicts on them, against values that are known."""

import math

import numpy as np
import pytest

import oracles
from runners.evaluation.measures.diversity import different, distinct
from runners.evaluation.measures.length_control import length_controlled
from runners.evaluation.measures.two_judges import two_judges


def test_equal_lengths_give_the_raw_win_rate():
    prob = np.random.default_rng(0).uniform(size=(20, 3))
    fair = length_controlled(prob, np.zeros((20, 3)), draws=99)
    assert fair.value == pytest.approx(prob.mean(), abs=1e-8)
    assert fair.low < fair.value < fair.high
    assert length_controlled(np.ones((20, 3)), np.zeros((20, 3)), draws=9).value == pytest.approx(1)


def test_the_controlled_rate_is_read_between_a_shorter_and_a_longer_response():
    """Gaps -g and g, won with 1/2 and 4/5: theta is the mean of logits 0 and log 4, so that the rate is 2/3."""
    gap = np.tile([-7.0, 7.0], (500, 1))
    prob = np.tile([0.5, 0.8], (500, 1))
    assert length_controlled(prob, gap, draws=9).value == pytest.approx(2 / 3, abs=1e-4)
    assert length_controlled(1 - prob, -gap, draws=9).value == pytest.approx(1 / 3, abs=1e-4)
    sure = length_controlled(np.tile([0.0, 1.0], (500, 1)), gap, draws=9)  # length alone decides
    assert sure.value == pytest.approx(0.5)


def test_prompts_count_alike_and_unread_pairs_do_not():
    """Two of three pairs of the first prompt are unread, all of the last one's."""
    prob = np.array([[0.9, math.nan, math.nan], [0.1, 0.2, 0.3], [math.nan] * 3])
    gap = np.where(np.isnan(prob), 50.0, 0.0)
    assert length_controlled(prob, gap).value == pytest.approx((0.9 + 0.2) / 2, abs=1e-8)


def test_a_longer_copy_wins_by_length_alone_and_not_at_equal_lengths():
    """The copy's responses are 4 words longer on average, and the judge sees nothing but length."""
    rng = np.random.default_rng(0)
    words = [f"w{i:02d}" for i in range(50)]
    texts, longer = ([" ".join(rng.choice(words, rng.poisson(12) + more)) for _ in range(600)] for more in (1, 5))
    judge = oracles.make("length_bias", lam=1.0)
    prob = judge.prob(["p"] * 600, longer, texts).numpy().reshape(200, 3)
    gap = np.array([len(a) - len(b) for a, b in zip(longer, texts, strict=True)], dtype=float).reshape(200, 3)
    fair = length_controlled(prob, gap, draws=99)
    assert prob.mean() > 0.7
    assert fair.value == pytest.approx(0.5, abs=0.03)
    assert fair.low < 0.5 < fair.high < 0.6


def test_no_controlled_rate_is_made_up_where_one_side_is_always_longer():
    prob, gap = np.full((10, 2), 0.7), np.arange(1.0, 21.0).reshape(10, 2)
    for sign in (1, -1):
        assert length_controlled(prob, sign * gap).value is None
    one = length_controlled(prob[:1], np.array([[-1.0, 1.0]]))
    assert (one.value, one.low) == (pytest.approx(0.7), None)  # one prompt: no interval
    with pytest.raises(ValueError, match=r"must be \[B, n\]"):
        length_controlled(prob, gap[:1])
    with pytest.raises(ValueError, match="none of the verdicts was read"):
        length_controlled(np.full((1, 1), math.nan), np.zeros((1, 1)))


def test_agreement_and_kappa_by_hand():
    """Of 10 pairs both judges name left 4 times, right 3 times, and the first left, the second right 3 times.

    Chance: .7 x .4 + .3 x .6 = .46; kappa (.7 - .46) / .54.
    """
    first = [np.array([0.9] * 4 + [0.1]), np.array([0.2, 0.3, 0.6, 0.7, 0.8])]
    second = [np.array([0.6] * 4 + [0.4]), np.array([0.0, 0.1, 0.1, 0.2, 0.3])]
    found = two_judges(first, second)
    assert (found.pairs, found.agreement) == (10, pytest.approx(0.7))
    assert found.kappa == pytest.approx(0.24 / 0.54)
    assert found.agreement_low < 0.7 < found.agreement_high
    assert found.kappa_low <= 0.24 / 0.54 <= found.kappa_high
    unread = [np.append(row, math.nan) for row in first], [np.append(row, 0.9) for row in second]
    assert two_judges(*unread) == found
    turned = two_judges(first, [1 - row for row in second])
    assert turned.agreement == pytest.approx(0.3)


def test_a_tie_agrees_with_a_tie_alone():
    found = two_judges([np.array([0.5, 0.5, 0.9])], [np.array([0.5, 0.9, 0.9])])
    assert found.agreement == pytest.approx(2 / 3)
    assert (found.agreement_low, found.kappa_low) == (None, None)  # one prompt
    assert found.kappa == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))


def test_judges_without_a_doubt_or_without_a_pair_have_no_kappa():
    same = two_judges([np.ones(2), np.ones(2)], [np.ones(2), np.ones(2)])
    assert (same.agreement, same.kappa, same.kappa_low) == (1, None, None)
    assert same.agreement_low < 1
    assert two_judges([np.full(2, math.nan)], [np.ones(2)]).agreement is None
    with pytest.raises(ValueError, match="must have the same pairs"):
        two_judges([np.ones(2)], [np.ones(3)])


def test_distinct_n_by_hand():
    """a b a, a b: words 2 of 5, pairs ab, ba of 3; c: 1 of 1, no pair."""
    texts = [["a b a", "a b"], ["c"]]
    assert distinct(texts, 1) == pytest.approx((2 / 5 + 1) / 2)
    assert distinct(texts, 2) == pytest.approx(2 / 3)
    assert distinct(texts, 3) == 1
    assert distinct(texts, 4) is None
    assert distinct([["", ""]], 1) is None
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct(texts, 0)


def test_the_share_of_different_responses_by_hand():
    assert different([["a", "a", "b", "a"], ["c", "d", "e", "f"]]) == (0.5 + 1) / 2
    assert different([["a"]]) == 1
    assert different([["", ""]]) == 0.5
    with pytest.raises(ValueError, match="one response or more"):
        different([["a"], []])
