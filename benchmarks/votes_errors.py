"""`python -m benchmarks.votes_errors`: error rate and power of the audit's test, coverage of the intransitive share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit
from scipy.stats import kstest

from envs.votes.statistics.fit_test import fit_test
from envs.votes.statistics.share import excess_and_variance, intransitive_share
from envs.votes.table import Matrix

KINDS = {
    "6 items, 50 a pair": (6, 50, 50, 1.0, 0.0),
    "20 items, 5 a pair": (20, 5, 5, 1.0, 0.0),
    "40 items, 2 on a third": (40, 2, 2, 1 / 3, 0.0),
    "10 items, 1 to 60": (10, 1, 60, 1.0, 0.0),
    "10 items, 20 with ties": (10, 20, 20, 1.0, 0.7),
}
"""Items, least and most verdicts a pair, share of the pairs, Davidson's nu."""
SIZES = "6x50", "10x20", "20x5", "20x50"
"""Items and verdicts a pair."""
SHARES = 0.0, 0.05, 0.1, 0.25, 0.5
"""Shares lam of curl in the logits."""


def main() -> None:
    """Prints the four tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--tables", type=int, default=400, help="simulated tables of each kind (default: 400)")
    parser.add_argument("--draws", type=int, default=199, help="tables of each test (default: 199)")
    parser.add_argument("--only", choices=("errors", "power", "medians", "share"), help="one table (default: all)")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="ITEMSxVERDICTS", help="of shares")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    if options.only in (None, "errors"):
        _errors(options.tables, options.draws, generator)
    if options.only in (None, "power"):
        _power(options.tables, options.draws, generator)
    if options.only in (None, "medians"):
        _medians(options.tables, options.sizes)
    if options.only in (None, "share"):
        _shares(options.tables // 4, options.sizes)


def _errors(tables: int, draws: int, generator: np.random.Generator) -> None:
    print("one score per item is true: p-values")
    for name, (count, least, most, share, nu) in KINDS.items():
        values = []
        for _ in range(tables):
            score = generator.normal(size=count)
            wins, _ = draw(score[:, None] - score, least, most, share, nu, generator)
            values.append(fit_test([""] * count, wins, draws, generator)[0].p_value)
        below, uniform = float((np.array(values) <= 0.05).mean()), float(kstest(values, "uniform").pvalue)
        print(f"  {name:24s} below .05: {below:.3f}   uniform (Kolmogorov-Smirnov): p = {uniform:.3f}", flush=True)


def _power(tables: int, draws: int, generator: np.random.Generator) -> None:
    print("a share lam of curl: power at the 5 % level, 10 items, 20 a pair")
    for scale in (1.0, 1.5, 2.0):
        hits = []
        for _ in range(tables):
            wins, _ = draw(dialled(10, 0.1, scale, generator), 20, 20, 1, 0, generator)
            hits.append(fit_test([""] * 10, wins, draws, generator)[0].p_value <= 0.05)
        print(f"  lam .1, logits of root mean square {scale}: {np.mean(hits):.3f}")


def _medians(tables: int, sizes: Sequence[str]) -> None:
    print("the share: median of the estimate, of the truth, of their difference")
    for size in sizes:
        count, verdicts = map(int, size.split("x"))
        for lam in SHARES:
            generator = np.random.default_rng([count, verdicts, round(100 * lam)])
            logits = np.stack([dialled(count, lam, 1.0, generator) for _ in range(tables)])
            truths = _estimates(1e7 * expit(logits) * (1 - np.eye(count)))
            estimates = _estimates(np.stack([draw(one, verdicts, verdicts, 1, 0, generator)[0] for one in logits]))
            figures = " ".join(f"{np.median(values):.3f}" for values in (estimates, truths, estimates - truths))
            print(f"  {count} items, {verdicts} a pair, lam {lam}: {figures}", flush=True)


def _estimates(wins: Matrix) -> Matrix:
    """Returns [B] estimates of the share of [B, n, n] tables without ties."""
    excess, variance = excess_and_variance(wins, np.zeros_like(wins))
    return np.maximum(excess, 0) / (np.maximum(excess, 0) + variance)


def _shares(tables: int, sizes: Sequence[str]) -> None:
    print("the share: median of the estimate, of the truth, coverage of the 95 % interval")
    for size in sizes:
        count, verdicts = map(int, size.split("x"))
        for lam in SHARES:
            figures = _share(count, verdicts, lam, tables, np.random.default_rng([count, verdicts, round(100 * lam)]))
            print(f"  {count} items, {verdicts} a pair, lam {lam}: {figures}", flush=True)


def draw(
    logits: Matrix, least: int, most: int, share: float, nu: float, generator: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Draws [n, n] wins and ties of Davidson's model with these logits."""
    size = np.triu(generator.integers(least, most + 1, logits.shape), 1)
    size *= generator.random(logits.shape) < share
    tie = nu / (np.exp(logits / 2) + np.exp(-logits / 2) + nu)
    ties = generator.binomial(size, tie)
    won = generator.binomial(size - ties, expit(logits))
    wins = won + np.tril((size - ties - won).T)
    return wins.astype(float), (ties + ties.T).astype(float)


def dialled(count: int, lam: float, scale: float, generator: np.random.Generator) -> Matrix:
    """Returns [n, n] logits of the root mean square `scale` and the share `lam` of curl."""
    score, curl = generator.normal(size=count), generator.normal(size=(count, count))
    flow, curl = score[:, None] - score, curl - curl.T
    mean = curl.mean(1)
    curl -= mean[:, None] - mean
    pairs = np.triu_indices(count, 1)
    flow, curl = (part / np.sqrt((part[pairs] ** 2).mean()) for part in (flow, curl))
    return scale * (math.sqrt(1 - lam) * flow + math.sqrt(lam) * curl)


def _share(count: int, verdicts: int, lam: float, tables: int, generator: np.random.Generator) -> str:
    estimates, truths, covered = [], [], []
    for _ in range(tables):
        logits = dialled(count, lam, 1.0, generator)
        truth = float(_estimates(1e7 * expit(logits)[None] * (1 - np.eye(count)))[0])
        found = intransitive_share(*draw(logits, verdicts, verdicts, 1, 0, generator), seed=0)
        estimates.append(found.value)
        truths.append(truth)
        covered.append(found.low - 1e-3 <= truth <= found.high + 1e-3)
    return f"{np.median(estimates):.3f} {np.median(truths):.3f} {np.mean(covered):.3f}"


if __name__ == "__main__":
    main()
