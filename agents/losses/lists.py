"""Losses of K responses to a prompt at once, given how good each one is in its list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents.losses.self_play import win_rate

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 10
"""Responses of a list whose rankings can be summed over: 2^10 subsets."""


def mean_log_odds(prob: Tensor, weight: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Returns the mean log odds of each response in its list: s less its mean if P = sigma(s_i - s_j).

    Args:
        prob: [B, K, K] P(row beats column), clamped to [1e-6, 1 - 1e-6].
        weight: [B, K] of the responses, rows sum to 1; None: 1/K each.
        known: [B, K, K] bool, the pairs that count, see `win_rate`; None: all.

    Returns:
        [B, K] nats.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return win_rate(torch.logit(prob, eps=1e-6), weight, known=known)


def lipo_lambda(score: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """Returns the LambdaLoss of a list (Liu et al. 2024, arXiv:2402.01878).

    sum over label_i > label_j of |2^label_i - 2^label_j| |1/log(1 + k_i) - 1/log(1 + k_j)| log(1 + e^(s_j - s_i)), k
    the rank of a response among the scores, the largest first; scores that agree to 1e-4, such as all before the first
    step, are ranked in their order, so that rounding decides nothing. Ranks carry no gradient.

    Args:
        score: [B, K] s, beta times the log-ratios.
        label: [B, K] how good each response is; the paper's are in [0, 1].
        counted: [B, K] bool, the responses of the list.

    Returns:
        [B] summed over pairs.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(score, label, counted)
    better = _better(label, counted)  # [B, K, K] row before column
    ranked = score.detach().round(decimals=4).masked_fill(~counted, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    discount = 1 / torch.log(2 + order.argsort(dim=1).to(score))
    gain = torch.exp2(label)
    swap = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
    missed = torch.nn.functional.softplus(score[:, None, :] - score[:, :, None])
    return torch.where(better, swap * missed, 0).sum((1, 2))


def plackett_luce(score: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """Returns -log P(the order of the labels), the best drawn first with chances e^s, then the next of the rest.

    Rafailov et al. 2023, arXiv:2305.18290, appendix A.3. Responses of equal labels are each drawn from what is left
    with all of them (Breslow's tied ranks): no order of theirs is made up.

    Args:
        score: [B, K] s, beta times the log-ratios.
        label: [B, K] how good each response is: only their order matters.
        counted: [B, K] bool, the responses of the list.

    Returns:
        [B] nats.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(score, label, counted)
    left = (label[:, None, :] <= label[:, :, None]) & counted[:, None, :]  # [B, K, K] drawn with the row, or after it
    left = left | torch.eye(score.shape[1], dtype=torch.bool, device=score.device)  # rows that do not count: no -inf
    rest = score[:, None, :].masked_fill(~left, -torch.inf).logsumexp(2)
    return torch.where(counted, rest - score, 0).sum(1)


def expected_plackett_luce(score: Tensor, reward: Tensor, counted: Tensor) -> Tensor:
    """Returns the mean of `plackett_luce` over the rankings that Plackett-Luce draws with chances e^reward.

    It is least where the scores are the rewards but for a constant. Of two responses it is DPO's loss at P =
    sigma(reward_1 - reward_2).

    Args:
        score: [B, K] s, beta times the log-ratios.
        reward: [B, K] nats.
        counted: [B, K] bool, the responses of the list.

    Returns:
        [B] nats.

    Raises:
        ValueError: if the shapes differ, or lists are longer than `LONGEST`: it sums over their subsets.
    """
    _require_alike(score, reward, counted)
    size = score.shape[1]
    if size > LONGEST:
        raise ValueError(
            f"Plackett-Luce sums over the subsets of at most {LONGEST} responses, got {size}; build the policy without "
            f"exact, draw fewer responses, or give rankings in place of probabilities"
        )
    bits = 1 << torch.arange(size, device=score.device)
    subsets = (torch.arange(1, 2**size, device=score.device)[:, None] & bits) > 0  # [S, K], the empty one left out
    choice = reward[:, None, :].masked_fill(~subsets, -torch.inf).softmax(2)  # [B, S, K] of being drawn from a subset
    chance = torch.zeros(len(score), len(subsets), dtype=choice.dtype, device=score.device)  # of being what is left
    chance.scatter_(1, (counted * bits).sum(1, keepdim=True) - 1, 1.0)
    for count in range(size, 1, -1):
        (rows,) = (subsets.sum(1) == count).nonzero(as_tuple=True)
        rest = ((rows[:, None] + 1) ^ bits) - 1  # [s, K] the subset without each response of it
        reached = chance[:, rows, None] * choice[:, rows]  # 0 for responses that are not in the subset
        chance = chance.index_add(1, rest.flatten(), reached.flatten(1))
    missed = score[:, None, :].masked_fill(~subsets, -torch.inf).logsumexp(2) - (choice * score[:, None, :]).sum(2)
    return (chance * missed).sum(1)


def pro(mean: Tensor, reward: Tensor, counted: Tensor) -> Tensor:
    """Returns preference ranking optimisation's loss without its likelihood (Song et al. 2023, arXiv:2306.17492).

    sum_k [log(e^(p_k T_k) + sum_{i after k} e^(p_i (R_k - R_i))) - p_k T_k] with T_k = max_{i after k} (R_k - R_i).
    Responses of equal rewards are not compared.

    Args:
        mean: [B, K] p, mean log-probability of a response's tokens, nats.
        reward: [B, K] R.
        counted: [B, K] bool, the responses of the list.

    Returns:
        [B] nats.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(mean, reward, counted)
    after = _better(reward, counted)  # [B, K, K] row before column
    gap = torch.where(after, reward[:, :, None] - reward[:, None, :], 0)
    own = mean * gap.amax(2)
    others = (mean[:, None, :] * gap).masked_fill(~after, -torch.inf)
    total = torch.cat([own[:, :, None], others], 2).logsumexp(2)
    return torch.where(after.any(2), total - own, 0).sum(1)


def rrhf(mean: Tensor, reward: Tensor, counted: Tensor) -> Tensor:
    """Returns the ranking loss of RRHF: sum over R_i < R_j of max(0, p_i - p_j) (Yuan et al. 2023, arXiv:2304.05302).

    Args:
        mean: [B, K] p, mean log-probability of a response's tokens, nats.
        reward: [B, K] R: only its order matters.
        counted: [B, K] bool, the responses of the list.

    Returns:
        [B] nats.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_alike(mean, reward, counted)
    return torch.where(_better(reward, counted), (mean[:, None, :] - mean[:, :, None]).relu(), 0).sum((1, 2))


def of_best(values: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """Returns [B] the values [B, K] of the responses with the best labels; the first of equals."""
    _require_alike(values, label, counted)
    best = label.masked_fill(~counted, -torch.inf).argmax(1, keepdim=True)
    return values.gather(1, best)[:, 0]


def _better(label: Tensor, counted: Tensor) -> Tensor:
    """Returns [B, K, K] whether the row's response has a better label than the column's, both of the list."""
    both = counted[:, :, None] & counted[:, None, :]
    return both & (label[:, :, None] > label[:, None, :])


def _require_alike(score: Tensor, label: Tensor, counted: Tensor) -> None:
    if score.ndim != 2 or not score.shape == label.shape == counted.shape:
        shapes = f"{tuple(score.shape)}, {tuple(label.shape)} and {tuple(counted.shape)}"
        raise ValueError(f"scores, labels and counted must be [B, K] of one shape, got {shapes}")
