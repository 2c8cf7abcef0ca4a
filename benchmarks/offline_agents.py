"""Exploitability of what each agent learns from one file of duels: `python -m benchmarks.offline_agents`.

The games of benchmarks/offline.py: one prompt, 20 responses, half of the variance of the logits in cycles, duels
between draws of a behaviour policy that plays 5 of them nine times in ten and is the start. "competent": these 5 are
better than the rest by .8 nats; "even": they are not. Every agent that learns from files has the same duels of a game,
200 updates of 64 duels, and the first trials of `python -m runners.bench --tune` for it, the default first; the one
that left least exploitability on another game of each kind plays the games that are printed. `dcppo` and `pelhf`
take the file once, as it is. Printed: exploitability of the last policy, its mean and a bootstrap 95 % interval over
games; "plain plan" is the regularised Nash policy (tau .01) of each pair's share of wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.policies.tabular import Cells, TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.registry import AGENTS
from benchmarks.exploration import interval
from benchmarks.offline import LEADS, RESPONSES, TAU, compare, setting
from benchmarks.timing import machine
from envs.games import exploitability, regularised_nash
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from envs.votes.lists import ResponseList
from preference_duel.protocols import traits
from runners.benchmark.suites import Entrant
from runners.benchmark.tuning import SEARCH, trials
from runners.run.cli import parse

STEPS, BATCH = 200, 64
HELD_OUT = 1000
"""Seed of the games on which settings are chosen."""
TASK = finite_task("offline", ["x"], RESPONSES, RESPONSES)
PAIRS = "ipo", "dpo", "rdpo", "beta_dpo", "dpop", "f_dpo", "gpo", "nca", "bco", "apo", "slic", "cpo", "simpo", "orpo"
SINGLES = "kto", "dro", "kimi", "npo", "d2o", "bco_unpaired", "spin", "sft"
LISTS = "plackett_luce", "lipo", "pro", "rrhf", "dno"
TOKENS = "tdpo", "cringe", "pairwise_cringe"
FROM_FILES = *PAIRS, "discopop", *SINGLES, *LISTS, *TOKENS, "dcppo", "pelhf"
"""Agents that learn from files."""


def config(agent: str, options: Sequence[str]) -> Any:
    """Returns an agent's configuration from its part of a command line."""
    return parse(["--agent", agent, *options, "--task", "rps", "--policy", "tabular"]).settings.configs["agent"]


def learned(settings: Any, behaviour: Tensor, duels: Sequence[Preference], seed: int) -> Tensor:
    """Returns [N] the policy that an agent learns from duels, the behaviour policy being its start."""
    agent = settings.build(policy=TabularPolicy(TASK, behaviour), seed=seed)
    given: Sequence[Any] = duels
    if traits(agent).learns_from_lists:
        given = [ResponseList("x", (one.first, one.second), {(0, 1): one.outcome}) for one in duels]
    once = traits(agent).one_pass
    arena = FileArena(TASK, given, None if once else BATCH, seed)
    for _ in range(1 if once else STEPS):
        agent.update(arena.play())
    law = agent.policy.distribution(["x"], TASK.responses or ())[0].detach()
    return law / law.sum()


def left(settings: Any, name: str, duels: int, seeds: Sequence[int]) -> list[float]:
    """Returns the exploitability of what an agent learns in each of some games."""
    found = []
    for seed in seeds:
        payoff, behaviour = setting(name, seed)
        law = learned(settings, behaviour, compare(payoff, behaviour, duels, seed), seed)
        found.append(exploitability(payoff, law).item())
    return found


def chosen(agent: str, count: int, duels: int) -> Sequence[str]:
    """Returns the options of the best of an agent's first trials, on a game of each kind that is not printed."""
    tried = trials(Entrant(agent, agent), count) if agent in SEARCH else [()]
    if len(tried) == 1:
        return tried[0]

    def mean(options: Sequence[str]) -> float:
        return float(np.mean([left(config(agent, options), name, duels, [HELD_OUT]) for name in LEADS]))

    return min(tried, key=mean)


def plans(name: str, duels: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Returns the exploitability of the behaviour policy and of the plain plan in each of some games."""
    found: dict[str, list[float]] = {"behaviour policy": [], "plain plan": []}
    for seed in seeds:
        payoff, behaviour = setting(name, seed)
        counts = DuelCounts(Cells(TASK))
        counts.add(FileArena(TASK, compare(payoff, behaviour, duels, seed), None, seed).play())
        wins = counts.wins[0]
        share = torch.where(wins + wins.mT > 0, wins / (wins + wins.mT), 0.5)
        found["behaviour policy"].append(exploitability(payoff, behaviour).item())
        found["plain plan"].append(exploitability(payoff, regularised_nash(share, behaviour, TAU).policy).item())
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=FROM_FILES, choices=[one for one in AGENTS if one in FROM_FILES])
    parser.add_argument("--seeds", type=int, default=5, help="games of each kind (default: 5)")
    parser.add_argument("--duels", type=int, default=2000, help="in the file of a game (default: 2000)")
    parser.add_argument("--trials", type=int, default=4, help="settings tried for each agent (default: 4)")
    found = parser.parse_args()
    torch.set_num_threads(1)
    settings = {agent: chosen(agent, found.trials, found.duels) for agent in found.agents}
    for name in LEADS:
        rows = plans(name, found.duels, range(found.seeds))
        for agent, options in settings.items():
            rows[agent] = left(config(agent, options), name, found.duels, range(found.seeds))
            print(name, agent, *(f"{one:.4f}" for one in rows[agent]), flush=True)
        table = Table("agent", "exploitability", "settings", title=f"{name}, {found.duels} duels, {found.seeds} games")
        for row, values in sorted(rows.items(), key=lambda pair: float(np.mean(pair[1]))):
            low, high = interval(np.array(values))
            words = " ".join(settings.get(row, ())).replace("--agent.", "").replace("optimiser.", "")
            table.add_row(row, f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]", words)
        Console(width=120).print(table)
    print(machine())


if __name__ == "__main__":
    main()
