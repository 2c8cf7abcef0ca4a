"""Exploitability of the losses of pairs at equal KL: `python -m benchmarks.equal_kl [--picture FILE.png]`.

Games of 17 responses whose curl ratio is `lam`, as in benchmarks/matched_kl.py: each loss ends at a policy that its
beta sets, and beta is chosen such that all spend the KL that the regularised Nash policy spends. On a whole
distribution the policies are known: `dpo` tilts the start by e^(R / beta), R the best Bradley-Terry reward, `f_dpo` by
its divergence's inverse slope of the same R, `gpo` squared (IPO) by e^(W / beta), W the win rate against the start.
Printed, and drawn with --picture: the mean exploitability and its standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import root_scalar
from torch import Tensor

from benchmarks.matched_kl import tilted
from benchmarks.timing import machine
from envs.games import bradley_terry_fit, exploitability, kl_divergence, regularised_nash
from oracles.cyclic import cyclic_logits
from preference_duel.keyed_random import Key, Stream, hash_seed

Ratio = Callable[[Tensor], Tensor]
"""pi/ref of rewards (R - c) / beta."""

CURVES = "start", "dpo", "f_dpo forward_kl", "f_dpo js", "gpo squared", "regularised Nash"


def forward_kl(scaled: Tensor) -> Tensor:
    """Returns pi/ref = -1 / x, of x below 0."""
    return -1 / scaled


def jensen_shannon(scaled: Tensor) -> Tensor:
    """Returns pi/ref = e^x / (2 - e^x), of x below log 2."""
    return scaled.exp() / (2 - scaled.exp())


def held(start: Tensor, reward: Tensor, beta: float, ratio: Ratio, limit: float) -> Tensor:
    """Returns the policy start ratio((reward - c) / beta), with the c at which it sums to 1.

    Args:
        start: [N].
        reward: [N].
        beta: coefficient of the divergence, positive.
        ratio: its inverse slope, increasing.
        limit: what its argument stays below.
    """
    low = reward.max().item() / beta - limit  # of c / beta
    step = 1.0
    while (start * ratio(reward / beta - low - step)).sum() > 1:
        step *= 2
    high = low + step
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (start * ratio(reward / beta - middle)).sum() > 1 else (low, middle)
    policy = start * ratio(reward / beta - high)
    return policy / policy.sum()


def held_at(start: Tensor, reward: Tensor, budget: float, ratio: Ratio, limit: float) -> Tensor:
    """Returns `held` with the beta that spends the KL budget."""

    def left(log_beta: float) -> float:
        return kl_divergence(held(start, reward, float(np.exp(log_beta)), ratio, limit), start).item() - budget

    return held(start, reward, float(np.exp(root_scalar(left, bracket=(-9, 9), xtol=1e-6).root)), ratio, limit)


def measure(lam: float, seed: int, *, count: int = 17, scale: float = 2.0, tau: float = 0.05) -> list[float]:
    """Returns the exploitability of CURVES on one game, see `matched_kl.measure`."""
    payoff = torch.sigmoid(cyclic_logits("disc", lam, scale, count, hash_seed("matched", seed)))
    uniform = Key(hash_seed("start", seed), 0, Stream.INIT).uniform(k=np.arange(count))
    start = torch.softmax(torch.special.ndtri(torch.from_numpy(uniform)), 0)
    nash = regularised_nash(payoff, start, tau).policy
    budget = kl_divergence(nash, start).item()
    reward = bradley_terry_fit(payoff, start)
    policies = (
        start,
        tilted(start, reward, budget),
        held_at(start, reward, budget, forward_kl, 0.0),
        held_at(start, reward, budget, jensen_shannon, float(np.log(2))),
        tilted(start, payoff @ start, budget),
        nash,
    )
    return [exploitability(payoff, policy).item() for policy in policies]


def draw(lams: list[float], means: np.ndarray, errors: np.ndarray, path: Path) -> None:
    """Draws a curve with its standard error for each of CURVES; means and errors are [lam, curve]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(CURVES):
        style = "--" if name == "start" else "-"
        axes.errorbar(lams, means[:, i], errors[:, i], label=name, capsize=2, linestyle=style)
    axes.set(xlabel="share of cycles, lam", ylabel="exploitability at equal KL", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints the table, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=24, help="games for each lam (default: 24)")
    parser.add_argument("--lam", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--picture", type=Path, help="where to draw the curves, FILE.png")
    found = parser.parse_args()
    numbers = np.array([[measure(lam, seed) for seed in range(found.games)] for lam in found.lam])
    means, errors = numbers.mean(1), numbers.std(1, ddof=1) / np.sqrt(found.games)
    table = Table("lam", *CURVES, title=f"{found.games} games of 17 responses each, mean and standard error")
    for lam, mean, error in zip(found.lam, means, errors, strict=True):
        table.add_row(f"{lam:g}", *(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)))
    Console(width=140).print(table)
    print(machine())
    if found.picture is not None:
        draw(found.lam, means, errors, found.picture)


if __name__ == "__main__":
    main()
