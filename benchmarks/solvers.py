"""Solvers of preference games against others: `python -m benchmarks.solvers [--out FILE.json]`.

Every solve is a process of its own with a limit on its time, so that a slow one costs no more than that and its memory
can be told (on Linux). Ours are timed on three families and the slowest counts; the others on the last of them,
`random`, whose winner plays most of the responses. What each task is:

* regularised Nash at tau: `regularised_nash`, to a certificate of 1e-8. MMD (OpenSpiel's magnetic mirror descent)
  solves the same game, uniform reference, to a gap of 1e-6.
* von Neumann winner: `von_neumann_winner`; HiGHS by scipy's linprog; nashpy's linear_program. (Its lemke_howson runs
  for ever on most of these games of 9 responses and more.)
* of most entropy: `maximum_entropy_winner`; OpenSpiel's nash_averaging (cvxpy).
* alpha-rank: `alpha_rank`; OpenSpiel's alpharank (alpha = 1: its powers overflow above).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import oracles
from benchmarks.memory import Peak
from benchmarks.timing import clock, machine, timed
from envs.games import (
    alpha_rank,
    exploitability,
    maximum_entropy_winner,
    payoff_matrix,
    regularised_nash,
    von_neumann_winner,
)

FAMILIES = {
    "disc": ("cyclic", {"shape": "disc", "lam": 0.5}),
    "gpm": ("gpm", {"lam": 0.5}),
    "random": ("cyclic", {"shape": "random", "lam": 1.0}),
}
TAUS = 1.0, 0.1, 0.01
_QUICK = 2.0
"""Seconds below which a solve is repeated and the least time counts."""
Work = Callable[[Tensor, Tensor], Tensor | None]
"""Solves payoff [N, N] with reference [N]; returns the policy where its accuracy can be judged by exploitability."""


@dataclass(frozen=True)
class Timed:
    """One solve: seconds (None: over the limit, or the error), peak memory in copies of P, and exploitability."""

    task: str
    solver: str
    count: int
    family: str
    seconds: float | None
    copies: float | None = None
    exploitability: float | None = None
    error: str | None = None


def ours() -> dict[tuple[str, str], Work]:
    """Returns this project's solvers by task and name."""
    solvers: dict[tuple[str, str], Work] = {
        (f"regularised Nash, tau={tau:g}", "ours"): partial(_regularised, tau) for tau in TAUS
    }
    return solvers | {
        ("von Neumann winner", "ours"): lambda payoff, ref: von_neumann_winner(payoff).policy,
        ("winner of most entropy", "ours"): lambda payoff, ref: maximum_entropy_winner(payoff).policy,
        ("alpha-rank", "ours"): lambda payoff, ref: _nothing(alpha_rank(payoff, alpha=1.0)),
    }


def peers() -> dict[tuple[str, str], Work]:
    """Returns the other libraries' solvers by task and name."""
    solvers: dict[tuple[str, str], Work] = {
        (f"regularised Nash, tau={tau:g}", "OpenSpiel MMD"): partial(_mmd, tau) for tau in TAUS
    }
    return solvers | {
        ("von Neumann winner", "HiGHS"): lambda payoff, ref: _highs(payoff),
        ("von Neumann winner", "nashpy"): lambda payoff, ref: _nashpy(payoff),
        ("winner of most entropy", "OpenSpiel"): lambda payoff, ref: _nash_averaging(payoff),
        ("alpha-rank", "OpenSpiel"): lambda payoff, ref: _alpharank(payoff),
    }


def _regularised(tau: float, payoff: Tensor, ref: Tensor) -> None:
    regularised_nash(payoff, ref, tau, tol=1e-8)


def _nothing(_: Tensor) -> None:
    return None


def _mmd(tau: float, payoff: Tensor, ref: Tensor) -> None:
    import pyspiel
    from open_spiel.python.algorithms.mmd_dilated import MMDDilatedEnt

    del ref  # always uniform there
    advantage = (payoff - 0.5).numpy()
    game = pyspiel.convert_to_turn_based(pyspiel.create_matrix_game(advantage, -advantage))
    solver = MMDDilatedEnt(game, alpha=tau)
    while solver.get_gap() > 1e-6:
        for _ in range(10):
            solver.update_sequences()


def _highs(payoff: Tensor) -> Tensor:
    return von_neumann_winner(payoff, tol=1e-5, method="highs").policy


def _nashpy(payoff: Tensor) -> Tensor:
    import nashpy

    advantage = (payoff - 0.5).numpy()
    first, _ = nashpy.Game(advantage).linear_program()
    law = torch.from_numpy(first).clamp_min(0)
    return law / law.sum()


def _nash_averaging(payoff: Tensor) -> Tensor:
    import pyspiel
    from open_spiel.python.algorithms.nash_averaging import nash_averaging

    half = np.triu((payoff - 0.5).numpy(), 1)
    advantage = half - half.T  # it asks for antisymmetry to the last bit
    policy, _ = nash_averaging(pyspiel.create_matrix_game(advantage, -advantage))
    law = torch.from_numpy(np.ravel(policy)).clamp_min(0)
    return law / law.sum()


def _alpharank(payoff: Tensor) -> None:
    from open_spiel.python.egt import alpharank

    alpharank.compute([payoff.numpy()], alpha=1)


def game(family: str, count: int) -> tuple[Tensor, Tensor]:
    """Returns a payoff [N, N] and a reference [N] that is not uniform."""
    name, fields = FAMILIES[family]
    responses = [str(i) for i in range(count)]
    payoff = payoff_matrix(oracles.make(name, prompts=["game"], responses=responses, **fields), "game", responses)
    noise = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    return payoff, torch.softmax(noise, 0)


def _solve(sender: Connection, file: str, task: str, solver: str, threads: int, device: str) -> None:
    """Runs in a process of its own: warms up, solves the file's game, sends seconds, copies and exploitability."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    work = (ours() | peers())[task, solver]
    try:
        work(*(values.to(device) for values in game("random", 17)))
        payoff, ref = torch.load(file, map_location=device)
        with Peak(device) as peak:
            policy, seconds = timed(lambda: work(payoff, ref), 1)
        if seconds < _QUICK:
            policy, seconds = timed(lambda: work(payoff, ref), 5)
        copies = 1 + peak.bytes / (8 * payoff.numel())
        gap = None if policy is None else float(exploitability(payoff, policy))
        sender.send((seconds, copies, gap))
    except Exception as error:
        sender.send((None, None, None, f"{type(error).__name__}: {error}"))


def solve(file: str, family: str, count: int, task: str, solver: str, options: argparse.Namespace) -> Timed:
    """Solves a file's game in a process of its own; `options.limit` is on the process, in seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_solve, args=(sender, file, task, solver, options.threads, options.device))
    process.start()
    sender.close()
    try:
        found: tuple[Any, ...] = receiver.recv() if receiver.poll(options.limit) else (None,)
    except EOFError:
        found = (None, None, None, "died, perhaps for want of memory")
    process.kill()
    process.join()
    return Timed(task, solver, count, family, *found)


def measure(options: argparse.Namespace) -> Iterator[Timed]:
    """Yields every solve; a solver that was over the limit is not asked about larger games."""
    over: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        for count in options.sizes:
            for family in options.families:
                file = str(Path(folder) / "game.pt")
                torch.save(game(family, count), file)
                solvers = ours() | (peers() if family == "random" and options.device == "cpu" else {})
                for task, solver in solvers:
                    if (task, solver) in over or not task.startswith(tuple(options.tasks)):
                        continue
                    found = solve(file, family, count, task, solver, options)
                    over |= {(task, solver)} if found.seconds is None else set()
                    yield found


def show(found: Sequence[Timed], counts: Sequence[int], limit: float) -> Table:
    """Returns the table: each solver's slowest family, milliseconds, and the exploitability where it is above 1e-9."""
    table = Table("task", "solver", *(f"N={count}" for count in counts), title="milliseconds")
    rows = {(one.task, one.solver) for one in found}
    for task, solver in sorted(rows, key=lambda row: (row[0], row[1] != "ours")):
        cells = []
        for count in counts:
            here = [one for one in found if (one.task, one.solver, one.count) == (task, solver, count)]
            if not here or any(one.seconds is None for one in here):
                failed = next((one.error.split(":")[0] for one in here if one.error), f"> {1000 * limit:.0f}")
                cells.append(failed if here else "-")
                continue
            slowest = max(here, key=lambda one: one.seconds or 0)
            gap = max((one.exploitability or 0 for one in here), default=0)
            cells.append(f"{1000 * (slowest.seconds or 0):,.1f}" + (f" (off {gap:.0e})" if gap > 1e-9 else ""))
        table.add_row(task, solver, *cells)
    return table


def prompts_at_once(threads: int, device: str) -> float:
    """Returns the seconds of 1000 games of 64 responses in one call, the slowest tau."""
    torch.set_num_threads(threads)
    responses = [str(i) for i in range(64)]
    prompts = [str(i) for i in range(1000)]
    judge = oracles.make("cyclic", prompts=prompts, responses=responses, shape="random", lam=1.0)
    payoff, ref = payoff_matrix(judge, prompts, responses).to(device), game("random", 64)[1].to(device)
    times = []
    for tau in TAUS:
        start = clock(device)
        regularised_nash(payoff, ref, tau, tol=1e-8)
        times.append(clock(device) - start)
    return max(times)


def main() -> None:
    """Measures, prints the table and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 256, 1024, 4096])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--tasks", nargs="+", default=[""], help="beginnings of their names (default: all)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of ours; cuda: without the others")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one process (default: 60)")
    parser.add_argument("--out", type=Path, help="where the numbers go as JSON")
    arguments = parser.parse_args()
    console = Console(width=140)
    batch = prompts_at_once(arguments.threads, arguments.device)
    found = []
    for one in measure(arguments):
        found.append(one)
        console.print(
            f"N={one.count} {one.family}: {one.task}, {one.solver}: {one.error or one.seconds} s", highlight=False
        )
    console.print(show(found, arguments.sizes, arguments.limit))
    console.print(f"1000 prompts of 64 responses, one call: {batch:.2f} s")
    largest = max(arguments.sizes)
    mine = [one for one in found if (one.solver, one.count) == ("ours", largest)]
    for task in dict.fromkeys(one.task for one in mine if one.copies):
        copies = max(one.copies or 0 for one in mine if one.task == task)
        console.print(f"{task}, N={largest}: at most {copies:.1f} matrices of the size of P in memory, P one of them")
    console.print(machine(arguments.device))
    if arguments.out:
        content = {"machine": machine(arguments.device), "batch_s": batch, "solves": [asdict(one) for one in found]}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
