"""Payoff asks each pair once, outcomes are keyed, and check_oracle detects broken contracts."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from oracles import Key, Stream, check_oracle, outcomes, payoff
from oracles.base import require_prob
from preference_duel.names import UnknownNameError

PROMPTS = ["x", "y"]
TEXTS = [["a", "bb", "ccc"], ["dd", "a", "e"]]


def rule(a, b):
    return 1 / (1 + 2.0 ** (len(b) - len(a)))


class ByLength:
    """Prefers the longer response; remembers every question."""

    antisymmetric = True

    def __init__(self):
        self.questions = []

    def prob(self, prompts, first, second):
        self.questions += zip(prompts, first, second, strict=True)
        return torch.tensor([rule(a, b) for a, b in zip(first, second, strict=True)], dtype=torch.float64)


class FirstWins(ByLength):
    """Adds .1 for whichever is named first."""

    antisymmetric = False

    def prob(self, prompts, first, second):
        return 0.9 * super().prob(prompts, first, second) + 0.1


class ReadsAlone(ByLength):
    def payoff(self, prompts, left, right):
        rows = [[self.prob([x] * len(theirs), [a] * len(theirs), theirs) for a in ours] for x, ours, theirs in
                zip(prompts, left, right, strict=True)]  # fmt: skip
        return torch.stack([torch.stack(row) for row in rows])


class ReadsAloneFirstWins(ReadsAlone, FirstWins):
    """Adds .1 for whichever is named first, by `payoff` too."""


def test_self_play_asks_each_unordered_pair_once():
    oracle = ByLength()
    prob = payoff(oracle, PROMPTS, TEXTS)
    asked = Counter((x, frozenset((a, b))) for x, a, b in oracle.questions)
    wanted = {
        (x, frozenset(pair))
        for x, texts in zip(PROMPTS, TEXTS, strict=True)
        for pair in itertools.combinations(texts, 2)
    }
    assert asked == Counter(wanted)
    assert torch.equal(prob + prob.mT, torch.ones(2, 3, 3).double())
    assert prob[0, 0, 1] == rule("a", "bb")
    assert prob[1, 0, 2] == rule("dd", "e")
    assert torch.equal(prob.diagonal(dim1=1, dim2=2), torch.full((2, 3), 0.5).double())


def test_two_seats_ask_every_pair_once_in_their_order():
    oracle = ByLength()
    prob = payoff(oracle, ["x"], [["a", "bb"]], [["ccc", "a", "dddd"]])
    assert oracle.questions == [("x", a, b) for a in ("a", "bb") for b in ("ccc", "a", "dddd")]
    assert prob.tolist() == [[[rule(a, b) for b in ("ccc", "a", "dddd")] for a in ("a", "bb")]]


def test_only_asked_pairs_are_asked_and_the_rest_is_a_half():
    ask = torch.zeros(2, 3, 3, dtype=torch.bool)
    ask[0, 2, 0] = True  # in self-play the pair (0, 2), whichever half names it
    ask[1, 1, 1] = True  # against itself there is nothing to ask
    oracle = ByLength()
    prob = payoff(oracle, PROMPTS, TEXTS, ask=ask)
    assert oracle.questions == [("x", "a", "ccc")]
    assert prob[0, 2, 0] == 1 - prob[0, 0, 2] == rule("ccc", "a")
    assert (prob != 0.5).sum() == 2
    alone = payoff(ReadsAlone(), PROMPTS, TEXTS, ask=ask)
    assert torch.equal(alone, prob)
    assert ask.sum() == 2, "the caller's mask is left alone"


def test_asking_nothing_gives_halves_without_a_question():
    class Unasked(ByLength):
        def prob(self, prompts, first, second):
            raise AssertionError("nothing was to be asked")

    assert torch.equal(payoff(Unasked(), ["x"], [["a"]]), torch.tensor([[[0.5]]], dtype=torch.float64))


def test_a_position_biased_oracle_is_asked_in_both_orders():
    oracle = FirstWins()
    prob = payoff(oracle, PROMPTS, TEXTS)
    assert Counter(oracle.questions) == Counter(
        (x, a, b) for x, texts in zip(PROMPTS, TEXTS, strict=True) for a, b in itertools.permutations(texts, 2)
    )
    assert torch.allclose(prob + prob.mT, torch.ones(2, 3, 3).double(), atol=1e-15)
    assert prob[0, 0, 1] == pytest.approx(0.9 * rule("a", "bb") + 0.05)
    assert torch.allclose(payoff(ReadsAloneFirstWins(), PROMPTS, TEXTS), prob, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_payoff_reads_alone_or_by_pairs_alike(data):
    prompts = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
    texts = st.text(max_size=6)
    width, opposite = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    left, right = (
        [data.draw(st.lists(texts, min_size=size, max_size=size)) for _ in prompts] for size in (width, opposite)
    )
    assert torch.allclose(payoff(ByLength(), prompts, left, right), payoff(ReadsAlone(), prompts, left, right))
    assert torch.allclose(payoff(ByLength(), prompts, left), payoff(ReadsAlone(), prompts, left))


def test_the_same_key_gives_the_same_verdicts_in_any_batch():
    oracle, count = ByLength(), 64
    key = Key(7, np.arange(count), Stream.VERDICT)
    question = ["x"] * count, ["a"] * count, ["bb"] * count
    together = outcomes(oracle, *question, key)
    assert together.dtype == torch.bool
    assert torch.equal(together, outcomes(oracle, *question, key))
    alone = [outcomes(oracle, ["x"], ["a"], ["bb"], key.at(np.array([i])))[0] for i in reversed(range(count))]
    assert torch.equal(together, torch.stack(alone[::-1]))
    assert not torch.equal(together, outcomes(oracle, *question, Key(8, np.arange(count), Stream.VERDICT)))


def test_verdicts_are_won_as_often_as_the_oracle_says():
    count = 20_000
    won = outcomes(ByLength(), ["x"] * count, ["a"] * count, ["bbb"] * count, Key(0, np.arange(count), Stream.VERDICT))
    assert abs(won.double().mean().item() - 0.2) < 4 * (0.2 * 0.8 / count) ** 0.5


def test_certain_verdicts_are_never_lost():
    count = 1000

    class Certain(ByLength):
        def prob(self, prompts, first, second):
            return torch.tensor([float(a == "good") for a in first])

    key = Key(0, np.arange(count), Stream.VERDICT)
    assert outcomes(Certain(), ["x"] * count, ["good"] * count, ["bad"] * count, key).all()
    assert not outcomes(Certain(), ["x"] * count, ["bad"] * count, ["good"] * count, key).any()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.tensor([float("nan")]), "returned nan"),
        (torch.tensor([1.3]), r"returned 1.3; is it returning logits"),
        (torch.tensor([-0.1]), r"returned -0.1"),
        (torch.tensor(0.5), r"must return shape \(1,\), got \(\)"),
        (torch.tensor([1]), "float32 or float64 tensor, got torch.int64"),
        (np.array([0.5]), "float32 or float64 tensor, got float64"),
        ([0.5], "float32 or float64 tensor, got <class 'list'>"),
    ],
)
def test_what_is_no_probability_is_refused_where_it_is_asked(answer, message):
    class Broken(ByLength):
        def prob(self, prompts, first, second):
            return answer

    with pytest.raises(ValueError, match=message):
        payoff(Broken(), ["x"], [["a", "b"]])
    with pytest.raises(ValueError, match=message):
        outcomes(Broken(), ["x"], ["a"], ["b"], Key(0, np.arange(1)))


def test_answers_must_be_on_the_cpu():
    with pytest.raises(ValueError, match=r"on the CPU, got meta; add \.cpu\(\)"):
        require_prob(torch.empty(2, device="meta"), (2,), "mine")


@pytest.mark.parametrize("oracle", [ByLength(), FirstWins(), ReadsAlone(), ReadsAloneFirstWins()])
def test_check_oracle_passes_on_honest_oracles(oracle):
    check_oracle(oracle, PROMPTS, TEXTS)


class Nan(ByLength):
    def prob(self, prompts, first, second):
        return torch.where(super().prob(prompts, first, second) > 0.6, torch.nan, 0.5)


class Logits(ByLength):
    def prob(self, prompts, first, second):
        return super().prob(prompts, first, second).logit()


class SecretlyBiased(FirstWins):
    antisymmetric = True


class LovesItself(ByLength):
    """Antisymmetric but for a response against itself."""

    def prob(self, prompts, first, second):
        same = torch.tensor([a == b for a, b in zip(first, second, strict=True)])
        return torch.where(same, 0.6, super().prob(prompts, first, second))


class ComparesWithTheBatch(ByLength):
    def prob(self, prompts, first, second):
        logit = super().prob(prompts, first, second).logit()
        return torch.sigmoid(logit / max(map(len, [*first, *second])))


class Draws(ByLength):
    """Answers with verdicts' means instead of probabilities."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def prob(self, prompts, first, second):
        prob = super().prob(prompts, first, second)
        return torch.bernoulli(prob, generator=self.generator)


class Transposed(ReadsAlone):
    def payoff(self, prompts, left, right):
        return 1 - super().payoff(prompts, left, right)


class SlipsLater(ReadsAlone):
    """Wrong but in the first row."""

    def payoff(self, prompts, left, right):
        prob = super().payoff(prompts, left, right)
        prob[:, 1:] = 1 - prob[:, 1:]
        return prob


class RanksTheRows(ReadsAlone):
    """Right for all rows together, wrong for some of them."""

    def payoff(self, prompts, left, right):
        prob = super().payoff(prompts, left, right)
        return prob if len(left[0]) > 1 else 1 - prob


class OneShort(ByLength):
    def prob(self, prompts, first, second):
        return super().prob(prompts, first, second)[:-1]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Nan, "Nan returned nan"),
        (Logits, r"must lie in \[0, 1\].*logits"),
        (SecretlyBiased, r"prob\(a, b\) \+ prob\(b, a\) must be 1.*; \('x', 'a', 'a'\)"),
        (LovesItself, r"prob\(b, a\) must be 1, so prob\(a, a\) 1/2; \('x', 'a', 'a'\) got 0.6 and 0.6"),
        (ComparesWithTheBatch, r"must not depend on the rest of the batch; \('x', 'a', 'bb'\)"),
        (Draws, "the same question must get the same answer twice"),
        (Transposed, "payoff must agree with prob"),
        (RanksTheRows, "payoff must agree with prob"),
        (SlipsLater, "payoff must agree with prob"),
        (OneShort, r"must return shape \(18,\), got \(17,\)"),
    ],
)
def test_check_oracle_names_the_broken_promise(broken, message):
    with pytest.raises(ValueError, match=message):
        check_oracle(broken(), PROMPTS, TEXTS)


def test_check_oracle_needs_pairs():
    with pytest.raises(ValueError, match="at least 2, for each of the 2 prompts"):
        check_oracle(ByLength(), PROMPTS, [["a"], ["b"]])


def test_an_unknown_oracle_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown oracle 'cylic'; did you mean 'cyclic'"):
        oracles.make("cylic")
    with pytest.raises(UnknownNameError, match="no field 'lambda'; did you mean 'lam'"):
        oracles.make("cyclic", **{"lambda": 0.5})
