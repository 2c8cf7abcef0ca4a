"""Pairs out of a reference set's distribution are left unread, and no more of the others than the level says."""

import json
import re

import pytest
import torch
from scipy.stats import chi2, kstest

import oracles
from oracles import check_oracle
from oracles.base import ask_pairs
from oracles.readers.out_of_distribution import AbstainingOracle, Gaussian, OutOfDistribution
from preference_duel.types import Unanswered
from tests.paths import ROOT

TINY = str(ROOT / "agents" / "checkpoints" / "tiny")


def normal(count, size=5, seed=0):
    """Correlated Gaussian rows."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mix + 3


def test_squared_distances_of_new_gaussian_rows_are_chi_square():
    known = Gaussian(normal(20_000), components=32)
    assert kstest(known.distance(normal(2000, seed=2)).numpy(), chi2(5).cdf).pvalue > 0.01
    shifted = normal(2000, seed=2) * torch.tensor([1.2, 1, 1, 1, 1])
    assert kstest(known.distance(shifted).numpy(), chi2(5).cdf).pvalue < 0.01


def test_p_values_are_uniform_for_a_small_reference_too():
    """20 rows of 5 features: chi-square would call a quarter of them far that the level calls near."""
    fresh = [Gaussian(normal(20, seed=seed), 5).p_value(normal(20, seed=5000 + seed)) for seed in range(200)]
    assert kstest([row[0].item() for row in fresh], "uniform").pvalue > 0.01
    assert (torch.cat(fresh) < 0.05).double().mean().item() == pytest.approx(0.05, abs=0.012)


def test_constant_features_are_left_out():
    flat = torch.cat([normal(50), torch.ones(50, 2, dtype=torch.float64)], dim=1)
    assert torch.allclose(Gaussian(flat, 32).distance(flat), Gaussian(normal(50), 32).distance(normal(50)))
    assert Gaussian(flat, 2).size == 2


def test_a_reference_of_one_state_is_refused():
    with pytest.raises(ValueError, match="states of the reference are the same"):
        Gaussian(torch.ones(8, 3), 2)


def test_pairs_of_strange_responses_are_unread_and_not_asked_about():
    asked = []

    class Judge:
        antisymmetric = True

        def prob(self, prompts, first, second):
            asked.extend(zip(first, second, strict=True))
            return torch.full((len(prompts),), 0.7)

    rows = dict(zip("abcdefgh", normal(8), strict=True)) | {"far": torch.full((5,), 99.0, dtype=torch.float64)}

    def read(prompts, responses):
        return torch.stack([rows[text] for text in responses])

    oracle = AbstainingOracle(Judge(), read, Gaussian(normal(100), 5), 0.001, lambda: None)
    prob = oracle.prob(["p"] * 3, ["a", "far", "c"], ["b", "a", "far"])
    assert prob.isnan().tolist() == [False, True, True]
    assert asked == [("a", "b")]
    assert prob[0].item() == pytest.approx(0.7)
    with pytest.raises(Unanswered, match="left 1 of 1 pairs unread"):
        ask_pairs(oracle, ["p"], ["a"], ["far"])
    with pytest.raises(ValueError, match=r"a lower ood\.level"):
        oracle.prob(["p"] * 20, ["far"] * 20, ["a"] * 20)


@pytest.mark.slow
def test_a_models_states_tell_strange_answers(tmp_path):
    """The reference has the shipped policy's kind of sentences; letters and code are out of it."""
    topics = "tomatoes", "coffee", "bread", "sleep", "rice", "tea", "soup", "roses", "the bus", "the bath"
    advice = "Water the {} every 2 days.", "Keep {} warm.", "Try {} at night.", "Wash {}, then rest.", "I like {}!"
    ask = "Tell me about {}.", "How do I start with {}?", "I need help with {}."
    rows = [{"prompt": q.format(topic), "response": a.format(topic)} for topic in topics for a in advice for q in ask]
    file = tmp_path / "reference.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    oracle = oracles.make("bt+ood", ood=OutOfDistribution(TINY, str(file)))
    prompts, responses = [row["prompt"] for row in rows[:30]], [row["response"] for row in rows[:30]]
    check_oracle(oracle, prompts[:1], [[responses[0], responses[3]]])
    assert oracle.prob(prompts, responses, responses[::-1]).isnan().double().mean() < 0.1
    strange = ["x!z ?qx zz?", "def f(x): return x + 1"]
    assert oracle.prob(prompts[:2], responses[:2], strange).isnan().all()


@pytest.mark.parametrize(
    ("fields", "line", "message"),
    [
        ({"model": ""}, "", "needs a model and a reference"),
        ({"model": TINY, "level": 1.0}, "", "level must"),
        ({"model": TINY}, '{"prompt": "p"}', 'reference.jsonl:1: expected {"prompt": ..., "response": TEXT}'),
        ({"model": TINY}, '{"prompt": "p", "response": "r"}', "has 1 responses, too few for 32 components"),
    ],
)
def test_what_is_missing_is_named(fields, line, message, tmp_path):
    file = tmp_path / "reference.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match=re.escape(message)):
        oracles.make("bt+ood", ood=OutOfDistribution(reference=str(file), **fields))
