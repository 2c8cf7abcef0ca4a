"""Worth of OELHF's enhancer: `python -m benchmarks.exploration`.

Two games of one prompt, verdicts are single outcomes, the main agent plays the exact regularised Nash policy of what
the duels so far say. "small": 6 responses, tau .2, all of them common: the gap falls like 1/queries whoever explores.
"hard": 32 responses, tau .01, and a start that all but leaves out the responses that the winner plays. Printed: the
mean regularised gap (twice the regularised exploitability) after so many queries, and its standard error over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.ipo import IPOConfig
from agents.oelhf import OELHF, OELHFConfig
from agents.policies.tabular import TabularPolicy
from agents.preference_models.enhancers import EnhancerName
from benchmarks.timing import machine
from envs.arena import DuelArena
from envs.games import regularised_exploitability, von_neumann_winner
from envs.tasks.finite import finite_task
from oracles.cyclic import cyclic_logits
from oracles.table import TableOracle

ENHANCERS: tuple[EnhancerName, ...] = ("none", "tournament", "optimistic", "uniform")
BATCH = 32
"""Duels per iteration."""
TAUS = {"small": 0.2, "hard": 0.01}
UPDATES = {"small": (2, 4, 8, 16, 32, 64), "hard": (4, 8, 16, 32, 64)}


def setting(name: str) -> tuple[Tensor, Tensor]:
    """Returns the payoff [N, N] and the start [N] of "small" or "hard"."""
    count, lam, scale = {"small": (6, 0.5, 1.5), "hard": (32, 0.3, 2.5)}[name]
    payoff = torch.sigmoid(cyclic_logits("disc", lam, scale, count, 11))
    noise = 0.5 * torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    if name == "hard":
        noise -= 6.0 * (von_neumann_winner(payoff).policy > 1e-9)
    return payoff, torch.softmax(noise, 0)


def gaps(name: str, enhancer: EnhancerName, seed: int, last: int) -> list[float]:
    """Plays one seed; returns the regularised gap after each of UPDATES up to `last`."""
    torch.set_num_threads(1)
    payoff, start = setting(name)
    tau, responses = TAUS[name], [f"y{i}" for i in range(len(start))]
    task = finite_task(name, ["x"], responses, responses)
    config = OELHFConfig(enhancer=enhancer, responses=BATCH, ipo=IPOConfig(tau=tau, average=False))
    policy = TabularPolicy(task, start)
    agent = OELHF(config, policy, seed)
    arena = DuelArena(task, TableOracle(payoff, ["x"], responses), None, "outcome", seed=seed)
    found = []
    for update in range(1, last + 1):
        agent.update(arena.play(agent.propose(arena.reset())))
        if update in UPDATES[name]:
            with torch.no_grad():
                law = policy.log_probs(["x"])[0].exp()
            found.append(2 * regularised_exploitability(payoff, law, start, tau).item())
    return found


def slope(name: str, found: NDArray[np.float64], draws: int = 2000) -> tuple[float, float, float]:
    """Returns the slope of log mean gap against log queries, and its bootstrap 95 % interval over seeds.

    Args:
        name: of the setting.
        found: [seeds, updates] gaps; the last decade of queries counts.
        draws: of the bootstrap.
    """
    queries = BATCH * np.array(UPDATES[name])
    late = queries * 20 > queries[-1]

    def fit(values: NDArray[np.float64]) -> float:
        return float(np.polyfit(np.log(queries[late]), np.log(values.mean(0)[late]), 1)[0])

    index = np.random.default_rng(0).integers(len(found), size=(draws, len(found)))
    low, high = np.quantile([fit(found[rows]) for rows in index], (0.025, 0.975))
    return fit(found), float(low), float(high)


def measure(
    name: str, enhancer: EnhancerName, seeds: Sequence[int], processes: int, last: int | None = None
) -> NDArray[np.float64]:
    """Returns [seeds, updates] gaps; seeds are shared by enhancers, so that differences can be paired."""
    with get_context("spawn").Pool(processes) as pool:
        return np.array(pool.starmap(gaps, [(name, enhancer, seed, last or UPDATES[name][-1]) for seed in seeds]))


def interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval of a mean over seeds."""
    index = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[index].mean(1), (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    found = parser.parse_args()
    console = Console(width=150)
    for name, tau in TAUS.items():
        payoff, start = setting(name)
        gap = 2 * regularised_exploitability(payoff, start, start, tau).item()
        columns = [f"{BATCH * update} queries" for update in UPDATES[name]]
        table = Table("enhancer", *columns, "slope", title=f"{name}: gap of the start {gap:.4f}, {found.seeds} seeds")
        results = {one: measure(name, one, range(found.seeds), found.processes) for one in ENHANCERS}
        for enhancer, values in results.items():
            error = values.std(0, ddof=1) / np.sqrt(found.seeds)
            cells = [f"{mean:.5f} ± {one:.5f}" for mean, one in zip(values.mean(0), error, strict=True)]
            table.add_row(enhancer, *cells, "{:.2f} [{:.2f}, {:.2f}]".format(*slope(name, values)))
        console.print(table)
        for enhancer in ENHANCERS:
            if enhancer != "optimistic":
                gain = results[enhancer][:, -2] - results["optimistic"][:, -2]
                low, high = interval(gain)
                at = BATCH * UPDATES[name][-2]
                print(f"{enhancer} - optimistic after {at} queries: {gain.mean():.5f}, 95 % [{low:.5f}, {high:.5f}]")
    print(machine())


if __name__ == "__main__":
    main()
