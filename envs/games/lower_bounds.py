"""Lower bounds of exploitability from samples: an adversary is chosen on one half of them and measured on the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Bound:
    """A lower bound of the exploitability with its 95 % interval; all three are at least 0, which always holds."""

    value: float
    low: float
    high: float


def best_of_pool(wins: Tensor) -> Tensor:
    """Returns what the best response of a pool wins against a policy, beyond a draw, unbiased by the choice.

    The samples of the policy are split into two halves. The response that wins most against one half is measured on the
    other, and the other way round; the mean of both is returned. Its expectation is at most the exploitability
    max_y P(y beats policy) - 1/2, however large the pool is; the same samples for both would lift it above.

    Args:
        wins: [B, M, N] P(pool response m beats sample n of the policy | prompt), N at least 2; NaN: unread, left out.

    Returns:
        [B, N] the chosen response's win over each sample, less 1/2; a prompt's bound is the mean of its row.

    Raises:
        ValueError: if the shape is another.
    """
    if wins.ndim != 3 or wins.shape[1] < 1 or wins.shape[2] < 2:
        raise ValueError(f"wins must be [B, M >= 1, N >= 2] with N samples of the policy, got {tuple(wins.shape)}")
    halves = wins.tensor_split(2, dim=2)
    chosen = [half.nanmean(2).nan_to_num(nan=-1.0).argmax(1) for half in halves]
    rows = torch.arange(len(wins), device=wins.device)
    return torch.cat([half[rows, other] for half, other in zip(halves, reversed(chosen), strict=True)], dim=1) - 0.5


def best_of_n(wins: Tensor, n: int) -> Tensor:
    """Returns what the best of n samples of a sampler wins against a policy, beyond a draw: `best_of_pool` in blocks.

    Args:
        wins: [B, M, N] P(sample m beats sample n of the policy | prompt), M at least n; the mean over
            M // n blocks of n.
        n: samples among which the best is taken.

    Returns:
        [B, N] as `best_of_pool`.

    Raises:
        ValueError: if there are fewer than n samples.
    """
    if not 1 <= n <= wins.shape[1]:
        raise ValueError(f"n must lie between 1 and the {wins.shape[1]} samples, got {n}")
    blocks = wins[:, : wins.shape[1] // n * n].unflatten(1, (-1, n))  # [B, M // n, n, N]
    return torch.stack([best_of_pool(block) for block in blocks.unbind(1)]).nanmean(0)


def best_of_n_kl(n: int) -> float:
    """Returns log n - (n - 1)/n, the most KL in nats of best-of-n from its sampler (Beirami et al. 2024, Theorem 1)."""
    return math.log(n) - (n - 1) / n


def bound(gains: Tensor, fixed_prompts: bool = False, halves: bool = False) -> Bound:
    """Averages the gains of an adversary, with Student's interval.

    Args:
        gains: [B, N] what it wins against each of N samples of the policy beyond a draw; NaN: unread, left out, and a
            prompt with fewer than two others with it.
        fixed_prompts: whether the prompts are all that there are, so that the samples alone vary, given the adversary's
            choice. False: the prompts are a sample too, and the interval is over their means. One prompt is fixed.
        halves: whether the gains are those of `best_of_pool`. Each half measures what was chosen on the other, so that
            both rise and fall together; of fixed prompts the mean then varies like that of one half.

    Raises:
        ValueError: if there is a single number.
    """
    values, samples = gains.double(), (~gains.isnan()).sum(1)  # [B, N], [B]
    enough = samples >= min(2, gains.shape[1])
    values, samples, prompts = values[enough], samples[enough], int(enough.sum())
    if samples.sum() < 2:
        raise ValueError("a single number has no interval; take several prompts or several samples")
    means = values.nanmean(1)
    if fixed_prompts or prompts == 1:
        spread = (values - means[:, None]).square().nansum(1) / (samples - 1)
        variance = spread / samples * (2 if halves else 1)
        error, freedom = variance.sum().sqrt().item() / prompts, int(samples.min()) - 1
    else:
        error, freedom = means.std().item() / prompts**0.5, prompts - 1
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    mean = means.mean().item()
    return Bound(*(min(max(value, 0.0), 0.5) for value in (mean, mean - half, mean + half)))
