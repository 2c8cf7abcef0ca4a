"""Why win rate is blind to intransitivity: `python -m benchmarks.matched_kl`.

Three ways to spend the same KL budget from the same start, each solved exactly, on games of 17 responses whose curl
ratio is `lam`: the regularised Nash policy; DPO's optimum, a Bradley-Terry reward fitted to all preferences; IPO's
optimum, the win rate against the start as reward. Printed: who wins head to head, and how exploitable each one is.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import root_scalar
from torch import Tensor

from benchmarks.timing import machine
from envs.games import bradley_terry_fit, exploitability, kl_divergence, regularised_nash
from oracles.cyclic import cyclic_logits
from preference_duel.keyed_random import Key, Stream, hash_seed

COLUMNS = (
    "P(Nash beats DPO)",
    "P(Nash beats IPO)",
    "exploitability: start",
    "DPO",
    "IPO",
    "Nash",
)


def measure(lam: float, seed: int, *, count: int = 17, scale: float = 2.0, tau: float = 0.05) -> list[float]:
    """Returns the numbers of COLUMNS for one game.

    Args:
        lam: curl ratio of the game's logits.
        seed: names the game and the start.
        count: responses.
        scale: root mean square of the logits, nats.
        tau: KL coefficient of the regularised game; it sets the budget.
    """
    payoff = torch.sigmoid(cyclic_logits("disc", lam, scale, count, hash_seed("matched", seed)))
    uniform = Key(hash_seed("start", seed), 0, Stream.INIT).uniform(k=np.arange(count))
    start = torch.softmax(torch.special.ndtri(torch.from_numpy(uniform)), 0)
    nash = regularised_nash(payoff, start, tau).policy
    budget = kl_divergence(nash, start).item()
    dpo = tilted(start, bradley_terry_fit(payoff, start), budget)
    ipo = tilted(start, payoff @ start, budget)
    duels = [(nash @ payoff @ other).item() for other in (dpo, ipo)]
    return duels + [exploitability(payoff, policy).item() for policy in (start, dpo, ipo, nash)]


def tilted(start: Tensor, reward: Tensor, budget: float) -> Tensor:
    """Returns start exp(c reward) / Z with the c > 0 that spends the budget, or as much of it as can be spent."""

    def policy(strength: float) -> Tensor:
        return torch.softmax(start.log() + strength * reward, 0)

    def left(strength: float) -> float:
        return kl_divergence(policy(strength), start).item() - budget

    most = 1.0
    while left(most) < 0 and most < 1e4:
        most *= 2
    return policy(most if left(most) < 0 else root_scalar(left, bracket=(0, most)).root)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=300, help="games for each lam (default: 300)")
    parser.add_argument("--lam", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    found = parser.parse_args()
    table = Table("lam", *COLUMNS, title=f"{found.games} games of 17 responses each, mean and standard error")
    for lam in found.lam:
        numbers = np.array([measure(lam, seed) for seed in range(found.games)])
        error = numbers.std(0, ddof=1) / np.sqrt(found.games)
        table.add_row(f"{lam:g}", *(f"{m:.3f} ± {e:.3f}" for m, e in zip(numbers.mean(0), error, strict=True)))
    Console(width=140).print(table)
    print(machine())


if __name__ == "__main__":
    main()
