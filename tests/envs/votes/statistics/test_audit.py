"""The audit of a table of votes: error rates, power, and what its parts say of tables whose answer is known."""

import json

import numpy as np
import pytest
from scipy.stats import kstest

from envs.votes.statistics.audit import audit
from envs.votes.statistics.fit_test import fit_test, fit_test_within_prompts
from envs.votes.table import VoteTable
from tests.envs.votes.statistics.test_vote_models import dialled, sigmoid_of, table_of

KINDS = {"dense": (6, 50, 1.0), "five a pair": (10, 5, 1.0), "sparse": (15, 2, 1 / 3)}


def rows(
    first: np.ndarray,
    second: np.ndarray,
    won: np.ndarray,
    count: int,
    prompts: np.ndarray | None = None,
    annotators: np.ndarray | None = None,
) -> VoteTable:
    return VoteTable([f"item {k}" for k in range(count)], first, second, won.astype(float), annotators, prompts)


@pytest.mark.parametrize(
    "kind", [kind if kind == "dense" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_p_values_are_uniform_under_one_score_per_item(kind: str) -> None:
    count, verdicts, share = KINDS[kind]
    generator = np.random.default_rng(0)
    values = []
    for _ in range(40):
        wins = table_of(sigmoid_of(generator.normal(size=count)), verdicts, generator)
        kept = np.triu(generator.random(wins.shape) < share)
        values.append(fit_test([""] * count, wins * (kept | kept.T), 49, generator)[0].p_value)
    assert kstest(values, "uniform").pvalue > 0.01
    assert np.mean(np.array(values) <= 0.05) <= 0.15


@pytest.mark.slow
def test_a_tenth_of_curl_is_found_most_often() -> None:
    generator = np.random.default_rng(1)
    found = []
    for _ in range(20):
        wins = table_of(dialled(10, 0.1, generator, 1.5), 20, generator)
        found.append(fit_test([""] * 10, wins, 99, generator)[0].p_value <= 0.05)
    assert np.mean(found) >= 0.7


def test_ties_of_some_pairs_alone_are_no_misfit() -> None:
    """Half of the verdicts of one pair are ties, none of the others: the decided ones still follow one score each."""
    generator = np.random.default_rng(2)
    values = []
    for _ in range(40):
        wins = table_of(sigmoid_of(generator.normal(size=6)), 40, generator)
        wins[0, 1:3] = np.rint(wins[0, 1:3] / 2)
        values.append(fit_test([""] * 6, wins, 49, generator)[0].p_value)
    assert np.mean(np.array(values) <= 0.05) <= 0.15


def test_strengths_that_differ_between_prompts_are_told_from_cycles() -> None:
    generator = np.random.default_rng(3)
    score = generator.normal(scale=1.5, size=(6, 8))  # [prompts, items]
    prompts = generator.choice(6, 6000, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    first = generator.integers(0, 8, 6000)
    second = (first + 1 + (prompts + generator.integers(0, 3, 6000)) % 7) % 8
    chance = 1 / (1 + np.exp(score[prompts, second] - score[prompts, first]))
    table = rows(first, second, generator.random(6000) < chance, 8, prompts=prompts)
    whole, _ = fit_test(table.items, table.tally()[0], 99, generator)
    within = fit_test_within_prompts(table, 99, generator)
    assert whole.p_value <= 0.02
    assert within is not None
    assert within.p_value > 0.05


@pytest.fixture(scope="module")
def cycle() -> VoteTable:
    """Three items in a cycle of .7 above a fourth; the first shown has the advantage of .1; a tenth are ties."""
    generator = np.random.default_rng(4)
    chance = np.array([[0.5, 0.7, 0.3, 0.9], [0.3, 0.5, 0.7, 0.9], [0.7, 0.3, 0.5, 0.9], [0.1, 0.1, 0.1, 0.5]])
    first = generator.integers(0, 4, 3000)
    second = (first + generator.integers(1, 4, 3000)) % 4
    won = (generator.random(3000) < (chance[first, second] + 0.1).clip(0, 1)).astype(float)
    won[generator.random(3000) < 0.1] = 0.5
    return rows(first, second, won, 4, annotators=generator.integers(0, 9, 3000))


def test_a_cycle_is_found_and_named(cycle: VoteTable) -> None:
    found = audit(cycle, draws=99)
    assert found.fit.p_value == pytest.approx(0.01)
    assert found.fit.freedom == 3
    assert found.share.low > 0.1
    assert found.triads.seen == 1
    assert {name for *names, _ in found.triads.sure for name in names} == {"item 0", "item 1", "item 2"}
    assert found.top.tolist() == [True, True, True, False]
    assert found.top_frequency[3] == 0
    assert found.lottery.value[3] < 1e-6
    assert (found.lottery.low <= found.lottery.value + 1e-9).all()
    assert (found.bradley_terry.low < found.bradley_terry.value).all()
    assert found.order.low < found.order.first_wins < found.order.high
    assert found.order.low > 0.53
    assert found.tie_share == pytest.approx(0.1, abs=0.02)
    assert 0.05 < found.nu < 0.4
    assert found.agreement is not None
    assert found.agreement.count == 9
    assert found.agreement.triads == 36


def test_the_audit_is_json_and_the_same_again(cycle: VoteTable) -> None:
    one, two = (json.dumps(audit(cycle, draws=19, seed=3).as_dict(), allow_nan=False) for _ in range(2))
    assert one == two
    said = json.loads(one)
    assert set(said) >= {"items", "verdicts", "fit", "share", "triads", "rankings", "order", "ties"}
    assert set(said["rankings"]["lottery"]) == set(said["items"])


def test_comparisons_without_a_cycle_test_nothing() -> None:
    first, second = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 2, 2, 1])
    found = audit(rows(first, second, np.array([1, 0, 1, 1, 0]), 3), draws=9)
    assert found.fit.freedom == 0
    assert found.fit.p_value == 1
    assert found.share.low == 0


@pytest.mark.parametrize("outcome", [1.0, 0.5])
def test_degenerate_tables_have_finite_rankings(outcome: float) -> None:
    first, second = np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4])
    found = audit(rows(first, second, np.full(4, outcome), 5), draws=9)
    for ranking in (found.bradley_terry, found.copeland, found.lottery):
        assert np.isfinite(ranking.value).all()
    assert found.scores.component.max() == 1


def test_an_empty_table_is_refused() -> None:
    empty = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="no verdicts"):
        audit(rows(empty, empty, empty, 2))
