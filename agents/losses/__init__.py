"""Losses: pure functions from tensors to unreduced tensors, without configuration or logging."""

from agents.losses.pairs import dpo, ipo, margins, pair_weight, squared_terms
from agents.losses.policy_gradient import policy_gradient, reward_to_go
from agents.losses.self_play import best_and_worst, bradley_terry, log_partition, sppo, win_rate

__all__ = [
    "best_and_worst",
    "bradley_terry",
    "dpo",
    "ipo",
    "log_partition",
    "margins",
    "pair_weight",
    "policy_gradient",
    "reward_to_go",
    "sppo",
    "squared_terms",
    "win_rate",
]
