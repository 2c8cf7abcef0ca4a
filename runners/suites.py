"""What a benchmark plays: cells of an agent, an oracle and a seed, each a run of `runners.duel`."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.registry import UnknownNameError, nearest


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        agent: who learns: a name, or "module:Config".
        game: what the cell is counted under: cells of one game differ in agent and seed alone.
        seed: of the run.
        options: everything else of `runners.duel`'s command line, --agent and --run.seed left out.
    """

    agent: str
    game: str
    seed: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its folder is called: readable, and another where anything of the cell is another."""
        words = "-".join(re.sub(r"\W+", "_", word) for word in (self.agent, self.game))
        digest = hashlib.sha256(json.dumps([self.agent, self.game, self.options]).encode()).hexdigest()[:8]
        return f"{words}-seed{self.seed}-{digest}"

    def arguments(self, directory: Path) -> list[str]:
        """Returns the command line of `runners.duel`."""
        return ["--agent", self.agent, *self.options, "--run.seed", str(self.seed), "--run.dir", str(directory)]


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: of it.
        cells: what is played.
        gap: the metric that is to fall, a tag of metrics.jsonl.
        about: one line for people.
    """

    name: str
    cells: tuple[Cell, ...]
    gap: str
    about: str


def dialled(
    agents: Sequence[str], lams: Sequence[float], seeds: int, queries: int, options: Sequence[str]
) -> tuple[Cell, ...]:
    """Returns the cells of agents on `cyclic` games whose share of cycles is dialled, with the same budget for all.

    Args:
        agents: who.
        lams: shares of cycles, in [0, 1].
        seeds: runs of each.
        queries: the budget.
        options: more of the command line, for all.
    """
    shared = ("--task", "symbols", "--policy", "tabular", "--oracle", "cyclic", "--run.queries", str(queries), *options)
    return tuple(
        Cell(agent, f"cyclic lam={lam:g}", seed, (*shared, "--oracle.lam", f"{lam:g}"))
        for agent, lam, seed in itertools.product(agents, lams, range(seeds))
    )


def quick(agents: Sequence[str] = ("dpo", "rlhf", "sppo", "ipo", "inpo", "nash_md")) -> Suite:
    """Returns the suite that ends within minutes: one game of 16 responses at three shares of cycles."""
    options = "--task.length 2 --task.prompts 1 --run.batch_size None --run.steps 100000 --run.eval_every 60"
    options += " --run.eval_tau 0.1 --run.save_every 0 --run.duel_every 0 --run.threads 1"
    cells = dialled(agents, (0.0, 0.5, 1.0), 5, 6000, options.split())
    return Suite("quick", cells, "game/regularised_exploitability", "16 responses, 6,000 outcomes, five seeds")


BUILT_IN: dict[str, Callable[..., Suite]] = {"quick": quick}


def find_suite(name: str, agents: Sequence[str] | None = None) -> Suite:
    """Returns a built-in suite, or the one that a Python file calls SUITE.

    Args:
        name: of a built-in, or FILE.py.
        agents: instead of a built-in's own; None: those.

    Raises:
        UnknownNameError: with the nearest name.
        ValueError: if the file raises, or has no suite; or if agents are named beside a file.
        OSError: if there is no such file.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]() if agents is None else BUILT_IN[name](agents)
    path = Path(name)
    if path.suffix != ".py":
        known = ", ".join(sorted(BUILT_IN))
        raise UnknownNameError(f"unknown suite '{name}'{nearest(name, BUILT_IN) or '.'} Known: {known}, or a FILE.py")
    if agents is not None:
        raise ValueError(f"--agent goes with a built-in suite; {name} says itself who plays")
    if not path.is_file():
        raise FileNotFoundError(f"the suite's file {name} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{name} raises {type(error).__name__}: {error}") from error
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
        raise ValueError(f"{name} must say SUITE = runners.suites.Suite(...), got {type(suite).__name__}")
    return suite
