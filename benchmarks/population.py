"""Population of PSRO: `python -m benchmarks.population games`, and `python -m benchmarks.population text`.

games: exact play on named games and ten random ones of 17 responses, from a start that is no equilibrium. Printed: the
members until the gap max_y P(y beats the mixture) - 1/2 is at most 1e-6 ("nash"), and the gap with 40 members of each
meta-solver.

text: runs `runners.duel --agent psro` with the arguments that follow, for each seed, and measures the start, the first
best response and the mixture on held-out prompts: the best response of a pool (32 samples of the start, 8 of each
member), chosen on one half of a policy's samples and measured on the other. Printed: each bound with its 95 % interval,
and how much lower the mixture's is than the others', an interval over the same prompts. Runs stay in --out; finished
ones are measured again, interrupted ones go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

import oracles
from agents.policies.mixtures import Mixture
from agents.policies.tabular import TabularPolicy
from agents.population.psro import PSRO, MetaSolver, PSROConfig
from benchmarks.timing import machine
from envs import DuelArena, make_task
from envs.games import exploitability, payoff_matrix
from envs.games.lower_bounds import best_of_pool, bound
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.keyed_random import Key, Stream, hash_seed
from runners.duel import main as duel
from runners.evaluation.adversaries import Samples
from runners.evaluation.entrants import sampled, texts_of
from runners.evaluation.saved_runs import read_saved_runs
from runners.run.evaluator import choose

NAMED = "comal3", "rps", "cycle5", "clone_rps"
RANDOM, RESPONSES, MOST = 10, 17, 40
SOLVERS: tuple[MetaSolver, ...] = get_args(MetaSolver)
POOL, EACH = 32, 8


def matrix(game: str) -> Tensor:
    """Returns the payoff matrix of a named game, or of "random N"."""
    if game.startswith("random"):
        generator = torch.Generator().manual_seed(int(game.split()[1]))
        logits = 2 * torch.randn(RESPONSES, RESPONSES, dtype=torch.float64, generator=generator)
        return torch.sigmoid((logits - logits.mT) / 2**0.5)
    task = make_task(game)
    oracle = oracles.make(game, prompts=task.all_prompts, responses=task.response_texts)
    return payoff_matrix(oracle, task.prompts[0], task.response_texts)


def gaps(payoff: Tensor, solver: MetaSolver, members: int = MOST) -> list[float]:
    """Returns the gap of the mixture with 1, 2, ... members; the start is far from uniform."""
    names = [f"y{i}" for i in range(len(payoff))]
    task = finite_task("game", ("x",), names, names)
    start = torch.arange(len(payoff), 0, -1, dtype=torch.float64)
    agent = PSROConfig(solver).build(policy=TabularPolicy(task, start / start.sum(), exact=True))
    arena = DuelArena(task, TableOracle(payoff, ("x",), names), None, "probability")

    def gap() -> float:
        return exploitability(payoff, agent.policy.distribution(["x"], task.responses or ())[0]).item()

    found = [gap()]
    while len(agent.members) < members:
        agent.update(arena.play(agent.propose(arena.reset())))
        found.append(gap())
    return found


def games() -> None:
    """Prints the table of exact play."""
    table = Table("game", "start", "members to 1e-6", *(f"gap, {solver}" for solver in SOLVERS))
    for game in [*NAMED, *(f"random {seed}" for seed in range(RANDOM))]:
        found = {solver: gaps(matrix(game), solver) for solver in SOLVERS}
        reached = next((str(i) for i, gap in enumerate(found["nash"], start=1) if gap <= 1e-6), "never")
        table.add_row(game, f"{found['nash'][0]:.3f}", reached, *(f"{each[-1]:.1e}" for each in found.values()))
    Console().print(table)


def text(out: Path, seeds: int, prompts: int, more: list[str]) -> None:
    """Prints the table of language models."""
    table = Table("seed", "shares", "start", "first response", "mixture", "below start", "below first response")
    for seed in range(seeds):
        directory = out / f"psro-{seed}"
        words = ["--agent", "psro", "--run.seed", str(seed), *more, "--run.dir", str(directory)]
        if duel(["--resume", str(directory)] if (directory / "config.json").exists() else words):
            raise SystemExit(f"{directory}: the run failed")
        (run,) = read_saved_runs([directory], "cpu")
        task, agent = run.experiment.task, run.experiment.agent
        assert isinstance(agent, PSRO)
        assert isinstance(agent.policy, Mixture)
        asked = choose(task.held_out, prompts)
        key = Key(hash_seed("population", seed), 0, Stream.EVALUATION)
        pool = texts_of(sampled(agent.members[0], asked, POOL, key))
        for i, member in enumerate(agent.members, start=1):
            more_texts = texts_of(sampled(member, asked, EACH, key.at(i)))
            pool = [row + new for row, new in zip(pool, more_texts, strict=True)]
        found = []
        for i, policy in enumerate((agent.members[0], agent.members[1], agent.policy)):
            samples = Samples(run.experiment.oracle, policy, task, asked, EACH, key.at(100 + i))
            found.append(best_of_pool(samples.wins(pool)))
        *others, own = found
        bounds = [f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in map(bound, found)]
        shares = " ".join(f"{share:.2f}" for share in agent.policy.weights.tolist())
        row = [str(seed), shares, *bounds, *(difference(other, own) for other in others)]
        table.add_row(*row)
        print(*row, sep=" | ", flush=True)
    Console(width=150).print(table)


def difference(other: Tensor, own: Tensor) -> str:
    """Returns how much larger other gains [B, N] are than own ones, on the same prompts."""
    values = other.mean(1) - own.mean(1)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Prints one of the tables; what follows the options of its own goes to `runners.duel`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("games", "text"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts (default: 64)")
    parser.add_argument("--out", type=Path, default=Path("runs/population"))
    options, more = parser.parse_known_args()
    if options.kind == "games":
        games()
    else:
        text(options.out, options.seeds, options.prompts, more)
    print(machine())


if __name__ == "__main__":
    main()
