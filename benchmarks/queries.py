"""Oracle queries that each agent needs: `python -m benchmarks.queries [--agents ...]`.

Games of one prompt, verdicts are single outcomes, policies are tables that start at a reference drawn from seed 17, the
game is regularised by tau = .1 around it. Every agent has its default settings but for tau and a learning rate that
falls as 1/(1 + 10 t/steps). Printed: the mean regularised exploitability over seeds after all queries, in percent of
the start's, and after how many queries that mean was a tenth of it for good.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.ipo import IPOConfig
from agents.nash.inpo import INPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from agents.registry import AGENTS
from agents.registry import make as make_agent
from benchmarks.timing import machine
from envs.arena import DuelArena
from envs.games import regularised_exploitability
from envs.tasks.finite import finite_task
from envs.tasks.task import make_task
from oracles.cyclic import cyclic_logits
from oracles.table import TableOracle

TAU = 0.1
GAMES = "comal3", "cyclic 0", "cyclic 0.5", "cyclic 1"
EVERY = 50
"""Updates between measurements."""


def settings(agent: str, steps: int) -> dict[str, Any]:
    """Returns the fields of an agent's configuration: tau and the optimiser, wherever it keeps them."""
    optimiser = OptimiserConfig(learning_rate=0.03, decay=steps / 10)
    if agent == "sppo":
        return {"eta": 1 / TAU, "optimiser": optimiser}
    if agent == "comal":
        return {"renew_every": 10**9, "inner": INPOConfig(tau=TAU, optimiser=optimiser)}
    if agent == "oelhf":
        return {"responses": 4, "ipo": IPOConfig(tau=TAU, optimiser=optimiser)}
    return {"tau": TAU, "optimiser": optimiser}


def game(name: str) -> tuple[Tensor, Tensor]:
    """Returns the payoff [N, N] and the start [N] of one of GAMES."""
    if name == "comal3":
        payoff = make_task("comal3").prob
        assert payoff is not None
    else:
        payoff = torch.sigmoid(cyclic_logits("disc", float(name.split()[1]), 2.0, 17, 17))
    noise = torch.randn(len(payoff), dtype=torch.float64, generator=torch.Generator().manual_seed(17))
    return payoff, torch.softmax(noise, 0)


def play(agent: str, name: str, seed: int, steps: int) -> list[tuple[int, float]]:
    """Plays one seed; returns (queries, regularised exploitability) at the start and after every EVERY updates."""
    torch.set_num_threads(1)
    payoff, start = game(name)
    responses = [f"y{i}" for i in range(len(start))]
    task = finite_task(name, ["x"], responses, responses)
    policy = TabularPolicy(task, start)
    learner = make_agent(agent, policy=policy, seed=seed, **settings(agent, steps))
    arena = DuelArena(task, TableOracle(payoff, ["x"], responses), None, "outcome", seed=seed)
    found = []
    for update in range(steps + 1):
        if update % EVERY == 0:
            with torch.no_grad():
                law = policy.log_probs(["x"])[0].exp()
            found.append((arena.queries or 0, regularised_exploitability(payoff, law, start, TAU).item()))
        learner.update(arena.play(learner.propose(arena.reset())))
    return found


def told(runs: Sequence[list[tuple[int, float]]]) -> str:
    """Returns what is left of the mean gap, and the queries after which it stayed within a tenth of the start's."""
    gaps = np.array([[gap for _, gap in run] for run in runs]).mean(0) / runs[0][0][1]
    queries = [count for count, _ in runs[0]]
    within = gaps <= 0.1
    last = len(within) - int(np.argmin(within[::-1])) if not within.all() else 0
    needed = f"{queries[last]:,}" if last < len(queries) else "not reached"
    return f"{100 * gaps[-1]:.1f} % ({needed})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=[agent for agent in AGENTS if "sb3" not in AGENTS[agent]])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000, help="updates (default: 2000)")
    parser.add_argument("--processes", type=int, default=4)
    found = parser.parse_args()
    table = Table(
        "agent", "queries", *GAMES, title=f"left of the start's gap (queries to a tenth), {found.seeds} seeds"
    )
    with get_context("spawn").Pool(found.processes) as pool:
        for agent in found.agents:
            jobs = [(agent, name, seed, found.steps) for name in GAMES for seed in range(found.seeds)]
            runs = pool.starmap(play, jobs)
            rows = [told(runs[i : i + found.seeds]) for i in range(0, len(runs), found.seeds)]
            table.add_row(agent, f"{runs[0][-1][0]:,}", *rows)
            print(agent, *rows, sep=" | ", flush=True)
    Console(width=150).print(table)
    print(machine())


if __name__ == "__main__":
    main()
