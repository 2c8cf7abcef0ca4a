"""Losses: pure functions from tensors to unreduced tensors, without configuration or logging."""

from agents.losses.pairs import dpo, exo, hinge, ipo, nca, pair_weight, robust_dpo, squared_terms
from agents.losses.self_play import best_and_worst, bradley_terry, log_partition, sppo, win_rate
from agents.losses.surrogates import (
    advantage,
    clipped,
    generalised_advantage,
    group_advantage,
    k3,
    policy_gradient,
    rebel,
    reward_to_go,
)

__all__ = [
    "advantage",
    "best_and_worst",
    "bradley_terry",
    "clipped",
    "dpo",
    "exo",
    "generalised_advantage",
    "group_advantage",
    "hinge",
    "ipo",
    "k3",
    "log_partition",
    "nca",
    "pair_weight",
    "policy_gradient",
    "rebel",
    "reward_to_go",
    "robust_dpo",
    "sppo",
    "squared_terms",
    "win_rate",
]
