"""The measures of intransitivity on games whose numbers are known, and what must not change them."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from envs.games import NotConvergedError, bradley_terry_caveats, bradley_terry_fit, elo, intransitivity
from oracles.cyclic import cyclic_logits
from tests.conftest import with_a_fast_few
from tests.envs.games.matrices import COMAL, ROCK, random_game

games = st.builds(
    lambda *drawn: random_game(*drawn)[0], st.integers(2, 9), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0])
)
LADDER = torch.tensor([[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]], dtype=torch.float64)


def test_comal_3_by_hand():
    measures = intransitivity(COMAL)
    residual = math.log(9) - (math.log(9) - math.log(4)) / 3
    assert measures.curl_ratio.item() == pytest.approx(3 * residual**2 / (2 * math.log(9) ** 2 + math.log(4) ** 2))
    assert measures.cyclic_triads.item() == 1
    assert measures.pure.item() == pytest.approx(0.3)


@pytest.mark.parametrize("shape", ["disc", "circulant", "random"])
@pytest.mark.parametrize("count", [3, 17, 65, 1023])
@pytest.mark.parametrize("lam", with_a_fast_few([0.25, 0.0, 0.75, 1.0], 4))
def test_the_curl_ratio_of_the_cyclic_oracle_is_its_knob(shape, count, lam):
    payoff = torch.sigmoid(cyclic_logits(shape, lam, 2.0, count, 5))
    assert intransitivity(payoff).curl_ratio.item() == pytest.approx(lam, abs=1e-10)


@settings(max_examples=75, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_a_bradley_terry_game_has_nothing_intransitive(n, seed):
    reward = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    payoff = torch.sigmoid(reward[:, None] - reward[None, :])
    measures = intransitivity(payoff)
    assert max(measures.curl_ratio, measures.cyclic_triads, measures.bt_excess, measures.pure) < 1e-11
    assert torch.allclose(bradley_terry_fit(payoff), reward - reward.mean(), atol=1e-5)


@settings(max_examples=75, deadline=None)
@given(games, st.booleans())
def test_triads_are_what_counting_finds(payoff, ties):
    if ties:
        payoff = ((payoff - 0.5).sign() * (payoff - 0.5).abs().gt(0.3)) * 0.4 + 0.5
    beats = payoff > 0.5
    count = sum(
        bool((beats[i, j] & beats[j, k] & beats[k, i]) | (beats[i, k] & beats[k, j] & beats[j, i]))
        for i, j, k in combinations(range(len(payoff)), 3)
    )
    share = count / max(math.comb(len(payoff), 3), 1)
    assert intransitivity(payoff).cyclic_triads.item() == pytest.approx(share)


@settings(max_examples=50, deadline=None)
@given(games, st.integers(0, 10**6))
def test_the_excess_is_the_least_over_all_rewards(payoff, seed):
    n = len(payoff)
    weights = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    weights /= weights.sum()
    upper = torch.triu_indices(n, n, 1)
    pair = (weights[:, None] * weights)[upper[0], upper[1]]
    p = payoff[upper[0], upper[1]]

    def divergence(reward):
        r = torch.from_numpy(reward)
        q = torch.sigmoid(r[upper[0]] - r[upper[1]]).clamp(1e-300, 1 - 1e-16)
        terms = p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())
        return float((pair * terms).sum() / pair.sum())

    least = minimize(divergence, torch.zeros(n, dtype=torch.float64).numpy(), method="BFGS", tol=1e-9).fun
    assert intransitivity(payoff, weights).bt_excess.item() == pytest.approx(least, abs=1e-7)


@settings(max_examples=75, deadline=None)
@given(games, st.randoms(use_true_random=False))
def test_names_and_sides_do_not_matter(payoff, random):
    order = random.sample(range(len(payoff)), len(payoff))
    measures, renamed, turned = (intransitivity(game) for game in (payoff, payoff[order][:, order], payoff.mT))
    for name in ("curl_ratio", "cyclic_triads", "bt_excess", "pure"):
        assert getattr(renamed, name).item() == pytest.approx(getattr(measures, name).item(), abs=1e-9)
        if name != "pure":
            assert getattr(turned, name).item() == pytest.approx(getattr(measures, name).item(), abs=1e-9)
    assert torch.allclose(bradley_terry_fit(payoff.mT), -bradley_terry_fit(payoff), atol=1e-4)


@settings(max_examples=75, deadline=None)
@given(games)
def test_a_copy_counts_as_half_under_its_weights(payoff):
    n = len(payoff)
    twice = [*range(n), 0]
    # A pair of copies is a tie that any reward explains, so that only the pairs' total weight changes.
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    split = weights[twice].clone()
    split[[0, -1]] /= 2
    one, two = intransitivity(payoff, weights), intransitivity(payoff[twice][:, twice], split)
    assert two.curl_ratio.item() == pytest.approx(one.curl_ratio.item(), abs=1e-9)
    share = (1 - 1 / n) / (1 - 1 / n + 1 / (2 * n**2))
    assert two.bt_excess.item() == pytest.approx(one.bt_excess.item() * share, abs=1e-9)


def test_certain_preferences_have_infinite_logits_and_finite_numbers():
    measures = intransitivity(ROCK)
    assert measures.curl_ratio.item() == pytest.approx(1)
    assert measures.cyclic_triads.item() == 1
    assert measures.bt_excess.item() == pytest.approx(math.log(2))
    assert measures.pure.item() == pytest.approx(0.5)
    ladder = torch.triu(torch.ones(4, 4, dtype=torch.float64), 1) + torch.eye(4, dtype=torch.float64) / 2
    assert intransitivity(ladder).bt_excess.item() < 1e-10
    with pytest.warns(UserWarning, match="some responses always lose to others .P is 0 or 1.: no finite Bradley-Terry"):
        assert (bradley_terry_fit(ladder).diff() < -5).all()


def test_the_curl_ratio_of_certain_preferences_is_the_limit_of_nearly_certain_ones():
    for sure in (ROCK, LADDER, torch.tensor([[0.5, 1.0, 0.7], [0.0, 0.5, 0.6], [0.3, 0.4, 0.5]])):
        logits = torch.logit(sure.double()).clamp(-1e6, 1e6)
        reward = logits.mean(1)
        curl = (logits - reward[:, None] + reward).square().sum() / logits.square().sum()
        assert intransitivity(sure).curl_ratio.item() == pytest.approx(curl.item(), abs=1e-5)
    assert intransitivity(LADDER).curl_ratio.item() == pytest.approx(1 / 9), "3 gaps of 1/3 over 3 logits of 1"


def test_a_single_response_has_no_pairs_and_finite_numbers():
    alone = torch.full((1, 1), 0.5)
    measures = intransitivity(alone)
    assert (measures.curl_ratio, measures.cyclic_triads, measures.bt_excess, measures.pure) == (0, 0, 0, 0)
    assert bradley_terry_fit(alone).tolist() == bradley_terry_fit(alone, pairs=torch.zeros(1, 1)).tolist() == [0]
    assert elo(alone).tolist() == [0]
    assert bradley_terry_caveats(alone) == ()
    with pytest.warns(UserWarning, match="never compared"):
        assert bradley_terry_fit(COMAL, torch.tensor([1.0, 0.0, 0.0])).tolist() == [0, 0, 0]


def test_what_is_not_finite_is_said_in_words():
    assert bradley_terry_caveats(COMAL) == bradley_terry_caveats(ROCK) == ()
    sure, apart = "some responses always lose", "some responses were never compared"
    assert [text[: len(sure)] for text in bradley_terry_caveats(torch.stack([LADDER, COMAL, LADDER]))] == [sure]
    islands = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).double()
    even = torch.full((4, 4), 0.5, dtype=torch.float64)
    even[0, 1], even[1, 0] = 0.8, 0.2
    assert [text[: len(apart)] for text in bradley_terry_caveats(even, pairs=islands)] == [apart]
    with pytest.warns(UserWarning, match=apart):
        fit = bradley_terry_fit(even, pairs=islands)
    assert fit.tolist() == pytest.approx([math.log(4) / 2, -math.log(4) / 2, 0, 0], abs=1e-6)
    even[0, 1], even[1, 0] = 1.0, 0.0
    assert len(bradley_terry_caveats(even, pairs=islands)) == 2
    chain = torch.diag(torch.ones(3), 1).double()
    assert bradley_terry_caveats(torch.full((4, 4), 0.5), pairs=chain + chain.mT) == (), "all met through others"


def test_elo_of_a_sure_ranking_is_finite_and_warned_of():
    with pytest.warns(UserWarning, match="as of Elo ratings, is where the fit stopped, not data"):
        ratings = elo(LADDER)
    assert ratings.isfinite().all()
    assert (ratings.diff() < -1000).all()


def test_a_batch_holds_the_numbers_of_its_games():
    batch = torch.stack([random_game(5, seed)[0] for seed in range(6)]).reshape(2, 3, 5, 5)
    measures = intransitivity(batch)
    assert measures.curl_ratio.shape == (2, 3)
    assert measures.bt_excess[1, 2].item() == pytest.approx(intransitivity(batch[1, 2]).bt_excess.item())
    two = intransitivity(torch.full((2, 2), 0.5))
    assert (two.curl_ratio.item(), two.cyclic_triads.item(), two.pure.item()) == (0, 0, 0)


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights must be \[..., 3\]"):
        intransitivity(COMAL, torch.tensor([0.5, 0.5]))


def test_games_of_a_batch_are_fitted_as_if_each_were_alone():
    ladder = torch.sigmoid(torch.tensor([0.0, 3.0, 9.0])[:, None] - torch.tensor([0.0, 3.0, 9.0])).double()
    games, pairs = torch.stack([COMAL, ladder]), torch.rand(2, 3, 3, dtype=torch.float64).add(1)
    pairs = pairs + pairs.mT
    together = bradley_terry_fit(games, pairs=pairs)
    for game, weight, fit in zip(games, pairs, together, strict=True):
        torch.testing.assert_close(fit, bradley_terry_fit(game, pairs=weight), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bradley_terry_fit(games[None]), bradley_terry_fit(games)[None])


def test_pairs_that_never_met_have_no_fit():
    with pytest.raises(NotConvergedError, match="no pair of responses was compared"):
        bradley_terry_fit(COMAL, pairs=torch.zeros(3, 3, dtype=torch.float64))
