"""The same numbers as OpenSpiel and nashpy on random games; installed with the extra `peers`."""

import numpy as np
import pytest
import torch

from envs.games import alpha_rank, duality_gap, exploitability, nash_average, von_neumann_winner


def random_game(n, seed):
    logits = np.random.default_rng(seed).normal(size=(n, n))
    return torch.from_numpy(1 / (1 + np.exp(logits.T - logits)))


def openspiel_game(payoff):
    pyspiel = pytest.importorskip("pyspiel")
    advantage = (payoff - 0.5).numpy()
    return pyspiel.convert_to_turn_based(pyspiel.create_matrix_game(advantage, -advantage))


@pytest.mark.parametrize("seed", range(20))
def test_exploitability_is_openspiels(seed):
    measure = pytest.importorskip("open_spiel.python.algorithms.exploitability")
    policy = pytest.importorskip("open_spiel.python.policy")
    payoff = random_game(2 + seed % 7, seed)
    generator = torch.Generator().manual_seed(seed)
    mine = torch.randn(len(payoff), dtype=torch.float64, generator=generator).softmax(0)
    game = openspiel_game(payoff)
    both = policy.TabularPolicy(game)
    both.action_probability_array[:] = mine.numpy()
    assert exploitability(payoff, mine).item() == pytest.approx(measure.exploitability(game, both), abs=1e-12)
    assert duality_gap(payoff, mine).item() == pytest.approx(measure.nash_conv(game, both), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("seed", range(10))
def test_alpha_rank_is_openspiels(seed, alpha):
    peer = pytest.importorskip("open_spiel.python.egt.alpharank")
    payoff = random_game(2 + seed % 7, seed)
    _, _, theirs, _, _ = peer.compute([payoff.numpy()], m=20, alpha=alpha, use_local_selection_model=True)
    assert alpha_rank(payoff, alpha=alpha, population=20).tolist() == pytest.approx(theirs.tolist(), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_nash_averaging_is_openspiels(seed):
    peer = pytest.importorskip("open_spiel.python.algorithms.nash_averaging")
    pytest.importorskip("cvxpy")
    payoff = random_game(2 + seed % 7, seed)
    advantage = payoff.numpy() - 0.5
    advantage = np.triu(advantage, 1) - np.triu(advantage, 1).T
    theirs = np.ravel(peer._max_entropy_symmetric_nash(advantage))
    assert nash_average(payoff).tolist() == pytest.approx(theirs.tolist(), abs=1e-4)


def attempts(algorithm):
    """What one of nashpy's algorithms yields before it fails, which depends on the processor's last bits."""
    try:
        yield from algorithm()
    except Exception as error:  # each has its own
        print(error)


@pytest.mark.filterwarnings("ignore")  # of nashpy, on what it cannot solve
@pytest.mark.parametrize("seed", range(10))
def test_the_von_neumann_winner_is_among_nashpys_equilibria(seed):
    nashpy = pytest.importorskip("nashpy")
    payoff = random_game(3 + seed % 4, seed)
    advantage = (payoff - 0.5).numpy()
    winner = von_neumann_winner(payoff).policy.numpy()
    assert (advantage @ winner).max() < 1e-9, "no response gains against it"
    game = nashpy.Game(advantage, -advantage)
    algorithms = (
        game.support_enumeration,
        game.vertex_enumeration,
        game.lemke_howson_enumeration,
        lambda: [game.linear_program()],
    )
    equilibria = [first for algorithm in algorithms for first, _ in attempts(algorithm) if first.shape == winner.shape]
    assert min(np.abs(first - winner).max() for first in equilibria if np.isfinite(first).all()) < 1e-7
