"""Rewards of responses that are compared with one another, read off their comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agents import losses

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.types import Duel

Reward = Literal["win_rate", "log_odds"]
"""Win rate less 1/2, or mean log odds, which of probabilities that scores imply are the scores less their mean."""


def reward(duel: Duel, kind: Reward) -> Tensor:
    """Returns [B, K] the reward of each response.

    Raises:
        ValueError: if the seats hold different responses, or log odds are wanted of outcomes.
    """
    _require_list(duel)
    if kind == "win_rate":
        return win_rate(duel) - 0.5
    if duel.feedback == "outcome":
        raise ValueError(
            "reward='log_odds' needs probabilities, and this duel holds outcomes, whose log odds are infinite: "
            "take --run.feedback probability, a file of scores, or reward='win_rate'"
        )
    return mean_log_odds(duel)


def win_rate(duel: Duel) -> Tensor:
    """Returns [B, K] the chance of each response to beat another one of its list, against a whole distribution any.

    Raises:
        ValueError: if the seats hold different responses.
    """
    _require_list(duel)
    if duel.exact:
        return losses.win_rate(duel.prob, duel.right_weight)
    return losses.win_rate(duel.prob, leave_one_out=True, known=duel.known)


def mean_log_odds(duel: Duel) -> Tensor:
    """Returns [B, K] the mean log odds of each response in its list, the 0 against itself included."""
    known, weight = (None, duel.right_weight) if duel.exact else (duel.known, None)
    return losses.mean_log_odds(duel.prob, weight, known)


def _require_list(duel: Duel) -> None:
    if not duel.self_play:
        raise ValueError("a list meets itself, and this duel's seats hold different responses; take an agent of pairs")
