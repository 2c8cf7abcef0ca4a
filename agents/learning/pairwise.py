"""One optimiser step on the pairs of a duel: what the agents have in common that regress or classify margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agents import losses
from agents.learning.learner import Batch, Training, require_finite
from preference_duel import distributed
from preference_duel.types import Completion, Duel

MarginLoss = Callable[[Tensor, Tensor], Tensor]
"""Returns a loss [b, K, L] of margins [b, K, L] and the chances [b, K, L] that the first response wins."""


class PairStep(NamedTuple):
    """What a step was.

    Attributes:
        loss: before the step.
        grad_norm: see `Optimiser.step`.
        log_policy: [B, K] (self-play) or [B, K + L] nats, before the step.
    """

    loss: float
    grad_norm: float
    log_policy: Tensor


def responses_of(duel: Duel) -> list[list[Completion]]:
    """Returns what both seats hold, [B][K] in self-play, else [B][K + L] the left ones first."""
    if duel.self_play:
        return [list(row) for row in duel.left]
    return [[*left, *right] for left, right in zip(duel.left, duel.right, strict=True)]


def pair_step(
    training: Training,
    duel: Duel,
    anchor: Tensor,
    loss: MarginLoss,
    *,
    squares: bool = False,
    length_normalised: bool = False,
    extra: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> PairStep:
    """Takes one optimiser step on the mean loss over a duel's pairs.

    Args:
        training: of the policy.
        duel: of any two seats.
        anchor: [B, K] (self-play) or [B, K + L] nats: what log-ratios are taken against, of `responses_of(duel)`.
        loss: of margins and chances.
        squares: whether the loss is a sum of squares of the margins' distances, which lbfgs can make use of; self-play
            alone.
        length_normalised: whether log-ratios are divided by the responses' tokens.
        extra: returns [b] what is added to each prompt's loss, of log-ratios [b, K (+ L)] and weights [b, K, L].

    Raises:
        ValueError: if the duel has no asked pair, or the policy could not have drawn a response.
    """
    responses, count = responses_of(duel), len(duel.left[0])
    weight = losses.pair_weight(duel.left_weight, duel.right_weight, duel.asked, duel.exact)
    values = {"anchor": anchor, "prob": duel.prob, "weight": weight, "length": _lengths(responses)}
    before = torch.full_like(anchor, torch.nan)

    def ratio(part: Batch) -> Tensor:
        log_policy = training.policy.logprob(part.prompts, part.responses)
        rows = list(part.rows)
        before[rows] = torch.where(before[rows].isnan(), log_policy.detach(), before[rows])
        found = require_finite(log_policy - part["anchor"])
        return found / part["length"] if length_normalised else found

    def mean_loss(part: Batch) -> Tensor:
        found = ratio(part)
        margin = losses.margins(found) if duel.self_play else losses.margins(found[:, :count], found[:, count:])
        mean = (part["weight"] * loss(margin, part["prob"])).sum((1, 2))
        return mean if extra is None else mean + extra(found, part["weight"])

    def terms(part: Batch) -> Tensor:
        return losses.squared_terms(ratio(part), part["weight"])

    batch = Batch(duel.prompts, responses, {name: value.to(anchor) for name, value in values.items()})
    found = training.fit(batch, mean_loss, terms if squares and duel.self_play else None)
    return PairStep(*found, distributed.largest(before.nan_to_num(nan=-torch.inf)))


def _lengths(responses: Sequence[Sequence[Completion]]) -> Tensor:
    """Returns [B, K] the tokens of each response, at least 1."""
    return torch.tensor([[max(1, len(y.tokens or ())) for y in row] for row in responses])
