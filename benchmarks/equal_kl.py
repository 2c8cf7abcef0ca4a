"""Exploitability of where preference losses end, at equal KL: `python -m benchmarks.equal_kl [--picture FILE.png]`.

Games of 17 responses whose curl ratio is `lam`, as in benchmarks/matched_kl.py: each loss ends at a policy that its
coefficient sets, and that is chosen such that all spend the KL that the regularised Nash policy spends, or as much as
they can. On a whole distribution, with pairs and single responses drawn by the start, the policies are known. With R
the best Bradley-Terry reward and W the win rate against the start:

dpo              start e^(R / beta); rlhf, xpo, gpo with the logistic or Savage loss, cpo from an even start
f_dpo            the inverse slope of its divergence, of the same R
ipo              start e^(W / beta); gpo squared, dro, and one step of dno, rebel, sppo
bco              start e^(logit(W) / beta); bco_unpaired is near it
spin             start W^(1 / lam), one step; nca is near it
plackett_luce    start e^(L / beta), L the mean log odds against the start; one step of gpm_po
d2o              start e^(logit(S / (1 - W)) / beta), the logits' mean over the start 0
kimi             start e^u, u + k e^u = (W - mean W) / tau, one step, which spends no more than start (W - mean W)+ / Z
npo              start (retain W - 2 (1 - W) sigmoid(beta r)) / Z, r the log-ratio, beta .1; its retain is chosen
one response     the one that wins most; apo, lipo, pro, rrhf, and kto as beta falls, at a KL of their own
regularised Nash inpo, ipo online, nash_ema, mnpo, oelhf

slic, simpo and orpo have no coefficient of a divergence from the start; dpop, discopop and beta_dpo end where their
pages say. Printed, and drawn with --picture: the mean exploitability and its standard error.
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
"""pi/ref of scores x - c, increasing in x; scores are rewards / beta."""

CURVES = (
    "start",
    "dpo",
    "f_dpo forward_kl",
    "f_dpo js",
    "ipo",
    "bco",
    "spin",
    "plackett_luce",
    "d2o",
    "kimi",
    "npo",
    "one response",
    "regularised Nash",
)


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


def kimi(start: Tensor, label: Tensor, tau: float) -> Tensor:
    """Returns start e^u, u + k e^u = (label - mean label) / tau, with the k at which it sums to 1."""
    advantage = (label - start @ label) / tau

    def log_ratio(k: float) -> Tensor:
        low, high = torch.full_like(start, -1e4), advantage.clamp(min=0) + 1
        for _ in range(80):
            middle = (low + high) / 2
            above = middle + k * middle.exp() > advantage
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return high

    def log_sum(log_k: float) -> float:
        return torch.logsumexp(start.log() + log_ratio(float(np.exp(log_k))), 0).item()

    most = 1.0
    while log_sum(most) > 0:
        most += 2
    return start * log_ratio(float(np.exp(root_scalar(log_sum, bracket=(-30, most), xtol=1e-12).root))).exp()


def npo(start: Tensor, label: Tensor, retain: float, beta: float = 0.1) -> Tensor:
    """Returns start e^r, e^r in proportion to retain label - 2 (1 - label) sigmoid(beta r), where that is positive."""

    def log_ratio(log_c: float) -> Tensor:
        low, high = torch.full_like(start, -60.0), torch.full_like(start, 60.0)
        for _ in range(60):
            middle = (low + high) / 2
            wanted = float(np.exp(log_c)) * (retain * label - 2 * (1 - label) * torch.sigmoid(beta * middle))
            low, high = (
                torch.where(middle.exp() > wanted, low, middle),
                torch.where(middle.exp() > wanted, middle, high),
            )
        return high

    log_c = root_scalar(lambda c: (start @ log_ratio(c).exp()).item() - 1, bracket=(-12, 12), xtol=1e-10).root
    return start * log_ratio(log_c).exp()


def d2o_score(start: Tensor, label: Tensor) -> Tensor:
    """Returns logit(S / (1 - label)) with the S at which its mean over the start is 0."""
    share = (1 - label).min() / (1 - label)  # of S = sigmoid(x) min(1 - label), 1 for the one most liked

    def score(x: float) -> Tensor:
        most = torch.tensor(x, dtype=share.dtype)
        return torch.where(share == 1, most, torch.logit(share * torch.sigmoid(most)))

    return score(root_scalar(lambda x: (start @ score(x)).item(), bracket=(-50, 1e5)).root)


def spending(policy: Callable[[float], Tensor], start: Tensor, budget: float, least: float = -9.0) -> Tensor:
    """Returns the policy of a coefficient > 0 that spends the KL budget, or the nearest it comes to; less for more.

    Args:
        policy: of the coefficient.
        start: [N].
        budget: nats.
        least: log of the least coefficient.
    """

    def left(log_coefficient: float) -> float:
        return kl_divergence(policy(float(np.exp(log_coefficient))), start).item() - budget

    if left(least) <= 0:
        return policy(float(np.exp(least)))
    return policy(float(np.exp(root_scalar(left, bracket=(least, 9), xtol=1e-6).root)))


def measure(lam: float, seed: int, *, count: int = 17, scale: float = 2.0, tau: float = 0.05) -> list[float]:
    """Returns the exploitability of CURVES on one game, see `matched_kl.measure`."""
    payoff = torch.sigmoid(cyclic_logits("disc", lam, scale, count, hash_seed("matched", seed)))
    uniform = Key(hash_seed("start", seed), 0, Stream.INIT).uniform(k=np.arange(count))
    start = torch.softmax(torch.special.ndtri(torch.from_numpy(uniform)), 0)
    nash = regularised_nash(payoff, start, tau).policy
    budget = kl_divergence(nash, start).item()
    reward, wins = bradley_terry_fit(payoff, start), payoff @ start
    best = torch.zeros_like(start)
    best[wins.argmax()] = 1
    least = float(torch.log(2 * ((1 - wins) / wins).min())) - 0.1  # log of a retain with which nothing is liked
    policies = (
        start,
        tilted(start, reward, budget),
        spending(lambda beta: held(start, reward, beta, forward_kl, 0.0), start, budget),
        spending(lambda beta: held(start, reward, beta, jensen_shannon, float(np.log(2))), start, budget),
        tilted(start, wins, budget),
        tilted(start, wins.logit(), budget),
        tilted(start, wins.log(), budget),
        tilted(start, payoff.logit() @ start, budget),
        tilted(start, d2o_score(start, wins), budget),
        spending(lambda tau: kimi(start, wins, tau), start, budget),
        spending(lambda retain: npo(start, wins, retain), start, budget, least),
        best,
        nash,
    )
    return [exploitability(payoff, policy).item() for policy in policies]


def draw(lams: list[float], means: np.ndarray, errors: np.ndarray, path: Path) -> None:
    """Draws a curve with its standard error for each of CURVES; means and errors are [lam, curve]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    styles = {"start": ("--", "grey", 1.0), "one response": (":", "grey", 1.0), "regularised Nash": ("-", "black", 2.0)}
    for i, name in enumerate(CURVES):
        style, colour, width = styles.get(name, ("-", f"C{(i - 1) % 10}", 1.0))
        axes.errorbar(lams, means[:, i], errors[:, i], label=name, capsize=2, ls=style, lw=width, color=colour)
    axes.set(xlabel="share of cycles, lam", ylabel="exploitability at equal KL", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right upper")
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
    lams = [f"lam {lam:g}" for lam in found.lam]
    table = Table("loss", *lams, title=f"{found.games} games of 17 responses each, mean and standard error")
    for i, name in enumerate(CURVES):
        table.add_row(name, *(f"{m:.3f} ± {e:.3f}" for m, e in zip(means[:, i], errors[:, i], strict=True)))
    Console(width=140).print(table)
    print(machine())
    if found.picture is not None:
        draw(found.lam, means, errors, found.picture)


if __name__ == "__main__":
    main()
