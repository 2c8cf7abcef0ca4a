"""Duels as the transitions that Stable-Baselines3 learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.learning.scalars import policy_scalars
from agents.sb3.policy import ALGORITHMS, SB3Policy
from envs.token_duel.boards import phases, response_board
from envs.token_duel.rules import ENDED
from preference_duel.types import Duel

_TAGS = {
    "train/policy_gradient_loss": "loss/policy",
    "train/policy_loss": "loss/policy",
    "train/value_loss": "loss/value",
    "train/kl_divergence_loss": "loss/approx_kl",
    "train/is_line_search_success": "loss/line_search",
    "train/approx_kl": "loss/approx_kl",
    "train/clip_fraction": "loss/clip_fraction",
    "train/explained_variance": "loss/explained_variance",
}


@dataclass(frozen=True)
class Rollout:
    """The tokens of some responses, laid end to end.

    Attributes:
        boards: [M, P + T] what was seen.
        actions: [M] what was drawn.
        masks: [M, V] 1 where a token was legal.
        starts: [M] True at a response's first token.
        ends: [M] True at its last.
        rows: [M] whose token it is.
        after: [M, P + T] what was seen next.
    """

    boards: NDArray[np.int64]
    actions: NDArray[np.int64]
    masks: NDArray[np.int8]
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    rows: NDArray[np.intp]
    after: NDArray[np.int64]


def rollout(policy: SB3Policy, boards: NDArray[np.int64], drawn: NDArray[np.int64]) -> Rollout:
    """Returns the transitions of what `SB3Policy.roll` returned; a player that waits for the other has none."""
    game = policy.game
    tokens = np.where(boards[:, game.width :] == game.rules.fill, game.rules.eos, boards[:, game.width :])
    spoken = phases(response_board(tokens, game.task, game.rules, "a draw"), game.rules)
    live = spoken < ENDED
    start = boards.copy()
    start[:, game.width :] = game.rules.fill
    before = game.prefixes(start, boards[:, game.width :])
    after = np.concatenate([before[:, 1:], boards[:, None]], axis=1)
    last = live & ~np.pad(live[:, 1:], ((0, 0), (0, 1)))
    first = np.zeros_like(live)
    first[:, 0] = True
    rows = np.nonzero(live)[0]
    return Rollout(
        before[live], drawn[live], game.rules.masks[spoken[live]], first[live], last[live], rows, after[live]
    )


def gains(duel: Duel) -> NDArray[np.float64]:
    """Returns [B] the rewards of the left seat: 2P - 1, or 2y - 1."""
    return (2 * duel.prob[:, 0, 0] - 1).double().numpy()


def require_network(policy: Any, algorithm: str) -> SB3Policy:
    """Returns the policy that an agent was given.

    Raises:
        ValueError: if it is no network of this algorithm.
    """
    if not isinstance(policy, SB3Policy) or policy.config.algorithm != algorithm:
        other = policy.config.algorithm if isinstance(policy, SB3Policy) else type(policy).__name__
        raise ValueError(
            f"agent '{algorithm}' trains its own network, got {other}; leave --policy out, or take --policy sb3 "
            f"--policy.algorithm {algorithm} (of {', '.join(ALGORITHMS)})"
        )
    return policy


def drawn_scalars(policy: SB3Policy, start: SB3Policy, duel: Duel) -> dict[str, float]:
    """Returns entropy and KL from the start of the policy that drew, estimated by its draws."""
    with torch.no_grad():
        log_policy, log_start = (one.logprob(duel.prompts, duel.left).cpu() for one in (policy, start))
    return policy_scalars(duel.left_weight, log_policy, log_start, duel.left)


def logged(model: Any, algorithm: str) -> dict[str, float]:
    """Returns what an algorithm logged since the last call, by our tags."""
    tags = {**_TAGS, "train/loss": "loss/policy"} if algorithm == "dqn" else _TAGS
    found = model.logger.name_to_value
    scalars = {tags[name]: float(value) for name, value in found.items() if name in tags}
    if "train/policy_objective" in found:  # TRPO's, which it maximises
        scalars["loss/policy"] = -float(found["train/policy_objective"])
    model.logger.name_to_value.clear()
    return {tag: value for tag, value in scalars.items() if math.isfinite(value)}
