"""The self-play family: win rates against one's own draws, and the regressions towards them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def win_rate(
    prob: Tensor, weight: Tensor | None = None, leave_one_out: bool = False, known: Tensor | None = None
) -> Tensor:
    """Averages each left response's chance over the right player's responses.

    The estimate of P(y beats pi_t | x) in Wu et al. 2024, Algorithm 1 (arXiv:2405.00675), which averages over all K
    draws, y itself among them: E[estimate - 1/2] = (K-1)/K (P(y beats pi_t) - 1/2). `leave_one_out` takes the term
    of y against itself away, which makes the estimate unbiased; it is meant for samples, not for a whole distribution.

    Args:
        prob: [B, K, L] P(left beats right | prompt), in [0, 1].
        weight: [B, L] of the right responses, rows sum to 1; None: 1/L each.
        leave_one_out: drops the diagonal (both seats hold the same draws, K = L) and scales the rest up to 1.
        known: [B, K, L] bool, the pairs that count (`Duel.known`); None: all.

    Returns:
        [B, K] chance of winning, in [0, 1]; 0.5 is a draw, and stands for a response without a pair that counts.

    Raises:
        ValueError: if the shapes do not fit, or there is nothing left to average.
    """
    if prob.ndim != 3:
        raise ValueError(f"prob must be [B, K, L], got {tuple(prob.shape)}")
    batch, left, right = prob.shape
    weight = prob.new_full((batch, right), 1 / right) if weight is None else weight.to(prob)
    if weight.shape != (batch, right):
        raise ValueError(f"weight must be {(batch, right)}, one for each right response, got {tuple(weight.shape)}")
    whole = known is None or bool(known.all())
    if whole and not leave_one_out:
        return (prob @ weight[:, :, None]).squeeze(2)
    if leave_one_out and (left != right or left < 2):
        raise ValueError(
            f"leave_one_out needs the same K >= 2 draws on both sides, got {left} left and {right} right; "
            f"draw more responses per prompt, or use the plain mean"
        )
    others = weight[:, None, :].expand_as(prob)
    if leave_one_out:
        others = others * (1 - torch.eye(left, dtype=prob.dtype, device=prob.device))
    if known is None or whole:
        return (prob * others).sum(2) / others.sum(2)
    others = others * known
    total = others.sum(2)
    return torch.where(total > 0, (prob * others).sum(2) / total.clamp(min=torch.finfo(prob.dtype).tiny), 0.5)


def log_partition(win_rate: Tensor, eta: float, weight: Tensor | None = None) -> Tensor:
    """Returns log Z = log sum_y w(y) exp(eta P(y beats pi_t)), the normaliser of the exponential-weights update.

    Wu et al. 2024, Section 4.1: pi_{t+1}(y) = pi_t(y) exp(eta P(y beats pi_t)) / Z. Exact where the weights are
    pi_t's whole distribution. Of samples it is an estimate from the very win rates that the regression uses,
    leave-one-out if they are; noise in them lifts it (Jensen), by about eta^2/2 times their variance.

    Args:
        win_rate: [B, K] in [0, 1], or another payoff.
        eta: step size, 1/nats, positive.
        weight: [B, K] of the responses, rows sum to 1; None: 1/K each.

    Returns:
        [B] nats, of win rates between 0 and eta.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if win_rate.ndim != 2 or (weight is not None and weight.shape != win_rate.shape):
        came = tuple(win_rate.shape), None if weight is None else tuple(weight.shape)
        raise ValueError(f"win_rate and weight must both be [B, K], got {came[0]} and {came[1]}")
    weight = torch.full_like(win_rate, 1 / win_rate.shape[1]) if weight is None else weight.to(win_rate)
    return torch.logsumexp(eta * win_rate + weight.log(), dim=1)


def sppo(ratio: Tensor, win_rate: Tensor, eta: float, log_z: Tensor | None = None) -> Tensor:
    """Returns the squared distance of each log-ratio from its exponential-weights target.

    Wu et al. 2024, Section 4.2: (log pi/pi_t - (eta P(y beats pi_t) - log Z))^2, and the same with eta/2 for log Z,
    which Algorithm 1 trains with. The two constants differ by at most eta^2/8 (Hoeffding), and the policies that
    minimise the exact expectation by O(eta^3).

    Args:
        ratio: [B, K] log pi(y|x) - log pi_t(y|x), nats summed over tokens; gradients flow through it.
        win_rate: [B, K] P(y beats pi_t | x), in [0, 1]; with `log_z` any payoff.
        eta: step size, 1/nats, positive: the inverse of the KL coefficient.
        log_z: [B] nats, see `log_partition`; None: eta/2.

    Returns:
        [B, K] squared nats, unreduced. Weighting rows by pi_t gives the paper's expectation; the released code keeps
        the best and the worst of K with weight 1/2 each (`best_and_worst`).

    Raises:
        ValueError: if the shapes do not fit.
    """
    if ratio.ndim != 2 or ratio.shape != win_rate.shape:
        raise ValueError(f"ratio and win_rate must both be [B, K], got {tuple(ratio.shape)}, {tuple(win_rate.shape)}")
    if log_z is not None and log_z.shape != ratio.shape[:1]:
        raise ValueError(f"log_z must be [B] = {tuple(ratio.shape[:1])}, got {tuple(log_z.shape)}")
    target = eta * (win_rate - 0.5) if log_z is None else eta * win_rate - log_z[:, None]
    return (ratio - target).square()


def best_and_worst(win_rate: Tensor, counted: Tensor | None = None) -> Tensor:
    """Returns which two responses of each prompt the released SPPO code learns from.

    Args:
        win_rate: [B, K], K >= 2.
        counted: [B, K] bool, the responses to choose from; None: all.

    Returns:
        [B, 2] int64 columns of the highest and of the lowest win rate; the first and the last one where all are equal.

    Raises:
        ValueError: if there are not at least two responses.
    """
    if win_rate.ndim != 2 or win_rate.shape[1] < 2:
        raise ValueError(f"win_rate must be [B, K] with K >= 2, got {tuple(win_rate.shape)}")
    outside = torch.zeros_like(win_rate, dtype=torch.bool) if counted is None else ~counted
    best, worst = (
        win_rate.masked_fill(outside, end).argsort(dim=1, descending=True, stable=True)
        for end in (-torch.inf, torch.inf)
    )
    return torch.stack([best[:, 0], worst[:, -1]], 1)


def bradley_terry(prob: Tensor, weight: Tensor | None = None, clamp: float = 1e-6) -> Tensor:
    """Returns the chances that remain when each response is given one score: sigma(s_k - s_l).

    The released SPPO code reduces PairRM's logits to a score for each response, the mean of its row, before it
    compares them. s is the weighted row mean of logit P: the least-squares fit of the logits by score differences,
    so a Bradley-Terry `prob` comes back unchanged and a symmetric cycle becomes 1/2 everywhere. (The release takes
    M - M', twice the logit of P: the same projection of an oracle at half the temperature.)

    Args:
        prob: [B, K, K] P(left beats right | prompt), both sides the same responses.
        weight: [B, K] of the responses, rows sum to 1; None: 1/K each.
        clamp: probabilities are kept within [clamp, 1 - clamp], so that their logits are finite.

    Returns:
        [B, K, K] in [0, 1].

    Raises:
        ValueError: if `prob` is not square.
    """
    if prob.ndim != 3 or prob.shape[1] != prob.shape[2]:
        raise ValueError(f"prob must be [B, K, K], the same responses on both sides, got {tuple(prob.shape)}")
    logits = torch.logit(prob, eps=clamp)
    scores = win_rate(logits, weight)
    return torch.sigmoid(scores[:, :, None] - scores[:, None, :])
