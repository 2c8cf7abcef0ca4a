"""Worth of pessimism with few given duels: `python -m benchmarks.offline`.

Games of one prompt with 20 responses; the duels are between draws of a behaviour policy that plays 5 of them nine times
in ten, which is also the reference; tau = .01. "competent": these 5 are better than the rest by .8 nats; "even": they
are not. Printed: the mean regularised exploitability of the behaviour policy, of the plan that takes each pair's share
of wins as the truth (1/2 where there was no duel), and of PELHF at several widths, 0 being its own model taken as the
truth; below, how much less each width has than either plan, with a bootstrap 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.pelhf import PELHFConfig
from agents.policies.tabular import Cells, TabularPolicy
from agents.preference_models.counts import DuelCounts
from benchmarks.exploration import interval
from benchmarks.timing import machine
from envs.games import regularised_exploitability, regularised_nash
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from oracles.cyclic import cyclic_logits

TAU = 0.01
LEADS = {"competent": 0.8, "even": 0.0}
"""By how many nats the behaviour policy's favourites are better than the rest."""
WIDTHS = 0.0, 0.1, 0.2, 0.4
RESPONSES = [f"y{i}" for i in range(20)]
FAVOURITES = 5


def setting(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the payoff [N, N] and the behaviour policy [N] of one game."""
    count = len(RESPONSES)
    lead = torch.zeros(count, dtype=torch.float64)
    lead[:FAVOURITES] = LEADS[name]
    payoff = torch.sigmoid(cyclic_logits("disc", 0.5, 1.5, count, seed) + lead[:, None] - lead)
    behaviour = torch.full((count,), 0.1 / (count - FAVOURITES), dtype=torch.float64)
    behaviour[:FAVOURITES] = 0.9 / FAVOURITES
    return payoff, behaviour


def compare(payoff: Tensor, behaviour: Tensor, duels: int, seed: int) -> list[Preference]:
    """Returns the verdicts of duels between draws of the behaviour policy; of equal draws nobody asks."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.multinomial(behaviour, 2 * duels, replacement=True, generator=generator).view(2, -1).tolist()
    uniforms = torch.rand(duels, dtype=torch.float64, generator=generator).tolist()
    return [
        Preference("x", RESPONSES[a], RESPONSES[b], float(u < payoff[a, b]))
        for a, b, u in zip(first, second, uniforms, strict=True)
        if a != b
    ]


def measure(name: str, duels: int, seed: int, widths: Sequence[float] = WIDTHS) -> list[float]:
    """Returns the gap of the behaviour policy, of plain planning, and of PELHF at each of some widths."""
    payoff, behaviour = setting(name, seed)
    task = finite_task(name, ["x"], RESPONSES, RESPONSES)
    arena = FileArena(task, compare(payoff, behaviour, duels, seed), None)
    duel = arena.play()
    counts = DuelCounts(Cells(task))
    counts.add(duel)
    wins = counts.wins[0]
    share = torch.where(wins + wins.mT > 0, wins / (wins + wins.mT), 0.5)
    laws = [behaviour, regularised_nash(share, behaviour, TAU).policy]
    for width in widths:
        agent = PELHFConfig(TAU, width).build(policy=TabularPolicy(task, behaviour))
        agent.update(duel)
        laws.append(agent.policy.distribution(["x"], task.responses or ())[0].detach())
    return [regularised_exploitability(payoff, law / law.sum(), behaviour, TAU).item() for law in laws]


def _told(gain: NDArray[np.float64]) -> str:
    low, high = interval(gain)
    return f"{gain.mean():.4f} [{low:.4f}, {high:.4f}]"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--duels", type=int, nargs="+", default=[200, 500, 2000])
    found = parser.parse_args()
    torch.set_num_threads(1)
    widths = [f"width {width:g}" for width in WIDTHS]
    table = Table("behaviour is", "duels", "its gap", "plain plan", *widths, title=f"{found.seeds} seeds")
    lines = []
    for name in LEADS:
        for duels in found.duels:
            gaps = np.array([measure(name, duels, seed) for seed in range(found.seeds)])
            error = gaps.std(0, ddof=1) / np.sqrt(found.seeds)
            cells = [f"{mean:.4f} ± {one:.4f}" for mean, one in zip(gaps.mean(0), error, strict=True)]
            table.add_row(name, str(duels), *cells)
            for i, width in enumerate(WIDTHS[1:], start=3):
                less = [
                    f"{text} by {_told(gaps[:, plan] - gaps[:, i])}" for plan, text in ((1, "plain"), (2, "width 0"))
                ]
                lines.append(f"{name}, {duels} duels, width {width:g} is below {', '.join(less)}")
    Console(width=150).print(table)
    print(*lines, machine(), sep="\n")


if __name__ == "__main__":
    main()
