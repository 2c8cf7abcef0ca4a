"""Rewards inside a group: which pairs of one prompt's responses meet, and what their comparisons are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FixedSchedule = Literal["all_pairs", "circular", "chunks", "anchor"]
"""Pairs that depend on the size of the group alone: all; each response and its two neighbours on a ring; all inside
chunks of four; each against the first response."""
Aggregate = Literal["win_rate", "scores", "bt"]
CHUNK = 4
"""Responses of a chunk: tinker_cookbook's `matchup_group_size`."""
PRIOR = 0.5
"""Comparisons that each response of a Bradley-Terry fit has drawn against one of score 0."""


def scheduled_pairs(schedule: FixedSchedule, count: int) -> Tensor:
    """Returns which pairs of a group meet.

    Args:
        schedule: `chunks` takes consecutive responses; a last chunk of one response joins the one before.
        count: K responses, at least 2.

    Returns:
        [K, K] bool, symmetric, without the diagonal.

    Raises:
        ValueError: if the group is too small or the schedule unknown.
    """
    if count < 2:
        raise ValueError(f"a group needs at least 2 responses to compare, got {count}")
    index = torch.arange(count)
    if schedule == "all_pairs":
        meet = torch.ones(count, count, dtype=torch.bool)
    elif schedule == "circular":
        meet = index[:, None] == (index + 1) % count
    elif schedule == "chunks":
        chunk = index // CHUNK
        if count % CHUNK == 1:
            chunk[-1] = chunk[-2]
        meet = chunk[:, None] == chunk
    elif schedule == "anchor":
        meet = (index == 0).expand(count, count)
    else:
        raise ValueError(f"schedule must be one of {get_args(FixedSchedule)}, got {schedule!r}")
    return (meet | meet.T) & ~torch.eye(count, dtype=torch.bool)


def meetings(schedule: FixedSchedule, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """Returns the scheduled pairs of groups, and the pairs of equal texts, which tie, [B, K, K] bool each."""
    numbers: dict[str, int] = {}
    numbered = torch.tensor([[numbers.setdefault(text, len(numbers)) for text in row] for row in texts])  # [B, K]
    equal = numbered[:, :, None] == numbered[:, None, :]
    return scheduled_pairs(schedule, len(texts[0])).expand_as(equal), equal


def aggregate(
    prob: Tensor,
    compared: Tensor,
    method: Aggregate = "win_rate",
    *,
    leave_one_out: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Reduces the comparisons of each group to a reward for each response.

    Args:
        prob: [B, K, K] P(row beats column), or the mean of outcomes, in [0, 1]; ignored where not compared.
        compared: [B, K, K] bool, symmetric: the comparisons that count.
        method: `win_rate` is the mean of P; `scores` the mean of `genrm_score`; `bt` the Bradley-Terry score in nats
            that makes the comparisons likeliest (see `bradley_terry_scores`).
        leave_one_out: False counts each response's tie with itself in the mean.
        weight: [B, K] of the opponents, whose means then are weighted; None: 1 each. Unknown to `bt`.

    Returns:
        [B, K] float64.

    Raises:
        ValueError: if the shapes do not fit, the method is unknown, or a response has no comparison.
    """
    if prob.ndim != 3 or prob.shape[1] != prob.shape[2] or compared.shape != prob.shape:
        raise ValueError(
            f"prob and compared must both be [B, K, K], got {tuple(prob.shape)} and {tuple(compared.shape)}"
        )
    alone = (~compared.any(2)).nonzero()
    if len(alone):
        row, response = alone[0].tolist()
        raise ValueError(f"response {response} of prompt {row} has no answered comparison, hence no reward")
    prob = torch.where(compared, prob.double(), 0.5)
    if method == "bt":
        if weight is not None:
            raise ValueError("method='bt' fits one score to each response; weights are for the other methods")
        return bradley_terry_scores(prob, compared)
    if method not in get_args(Aggregate):
        raise ValueError(f"method must be one of {get_args(Aggregate)}, got {method!r}")
    value = prob if method == "win_rate" else genrm_score(prob)
    counted = compared if leave_one_out else compared | torch.eye(prob.shape[1], dtype=torch.bool)
    share = counted.double() if weight is None else counted * weight.double()[:, None, :]
    return (share * value).sum(2) / share.sum(2)


def genrm_score(prob: Tensor) -> Tensor:
    """Returns the score that NeMo-Gym's `simple_tiebreaker` gives the first response of a pair, from P alone.

    Its judge writes a score of 1 to 5 for either response, and a ranking of 1 (the first is much better) to 6 that
    decides between equal scores: they move apart by 3.5 - ranking. Here the scores are 1 + 4P and 5 - 4P, the ranking
    is 6 - 5P, each rounded to the nearest integer (halves to the even one, so that the scores of a pair sum to 6), and
    P = 1/2 moves nothing. Equal scores are 3 and 3, .375 <= P <= .625, and become 3.5 and 2.5: the score takes the
    values 1, 2, 2.5, 3, 3.5, 4 and 5, and certain outcomes 1 and 5.

    Args:
        prob: [...] P(first beats second), in [0, 1].
    """
    score = (1 + 4 * prob).round()
    return torch.where(score == 3, 3 + (prob - 0.5).sign() / 2, score)


def bradley_terry_scores(prob: Tensor, compared: Tensor) -> Tensor:
    """Returns the scores s that make comparisons with chances sigma(s_i - s_j) likeliest, in nats.

    Each response has also drawn `PRIOR` comparisons against one of score 0: the scores stay finite for certain wins,
    are 0 on average (in sigma), and exist in groups whose comparisons fall into several parts.

    Args:
        prob: [B, K, K] P(row beats column), rows and columns complementary.
        compared: [B, K, K] bool, symmetric.

    Returns:
        [B, K] float64, where the gradient of the log-likelihood is below 1e-10.

    Raises:
        ArithmeticError: if Newton's method does not get there.
    """
    score = prob.new_zeros(prob.shape[:2])
    for _ in range(200):
        chance = torch.sigmoid(score[:, :, None] - score[:, None, :])
        own = torch.sigmoid(score)
        gradient = (compared * (prob - chance)).sum(2) - PRIOR * (own - 0.5)  # [B, K]
        if gradient.abs().max() < 1e-10:
            return score
        curvature = compared * chance * (1 - chance)
        hessian = torch.diag_embed(curvature.sum(2) + PRIOR * own * (1 - own)) - curvature
        step = torch.linalg.solve(hessian, gradient)
        score = score + step / step.abs().amax(1, keepdim=True).clamp(min=1)  # at most a nat
    raise ArithmeticError(f"the Bradley-Terry fit of a group of {prob.shape[1]} did not converge")
