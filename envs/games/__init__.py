"""Exact metrics, solvers and rankings of preference games with finitely many responses, in float64."""

from envs.games.intransitivity import Intransitivity, bradley_terry_caveats, bradley_terry_fit, intransitivity
from envs.games.max_entropy import maximum_entropy_winner
from envs.games.metrics import (
    best_response,
    duality_gap,
    exploitability,
    kl_divergence,
    payoff_matrix,
    regularised_exploitability,
)
from envs.games.rankings import alpha_rank, cross_play, elo, nash_average
from envs.games.regret import borda_regret, copeland_regret, queries_to, von_neumann_regret
from envs.games.regularised_nash import NotConvergedError, Solution, regularised_nash
from envs.games.saddle import regularised_saddle
from envs.games.soft_values import soft_values
from envs.games.von_neumann import von_neumann_winner

__all__ = [
    "Intransitivity",
    "NotConvergedError",
    "Solution",
    "alpha_rank",
    "best_response",
    "borda_regret",
    "bradley_terry_caveats",
    "bradley_terry_fit",
    "copeland_regret",
    "cross_play",
    "duality_gap",
    "elo",
    "exploitability",
    "intransitivity",
    "kl_divergence",
    "maximum_entropy_winner",
    "nash_average",
    "payoff_matrix",
    "queries_to",
    "regularised_exploitability",
    "regularised_nash",
    "regularised_saddle",
    "soft_values",
    "von_neumann_regret",
    "von_neumann_winner",
]
