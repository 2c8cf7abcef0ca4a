"""Suites of a benchmark: entrants, games, seeds and the budget of oracle queries."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from preference_duel.names import UnknownNameError, nearest
from preference_duel.types import Feedback

SEED = "{seed}"
"""Stands for a cell's seed in the options of a suite or a game."""
HELD_OUT, FIRST_HELD_OUT = 12, 1000
"""Runs of a trial, and the first of their seeds."""
WIN_RATE = "eval/win_rate_vs_ref"
TRIALS = 16
"""Settings tried for each agent by --tune."""


@dataclass(frozen=True)
class Entrant:
    """An agent of a suite.

    Attributes:
        label: what tables and pictures call it.
        agent: a name, or "module:Config".
        options: its settings, of `runners.duel`'s command line.
    """

    label: str
    agent: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Game:
    """An oracle of a suite, and what a verdict reveals.

    Attributes:
        oracle: a name, or "module:Config".
        lam: how intransitive it is, where it has such a dial.
        noise: share of the verdicts that are coin flips, in [0, 1).
        feedback: "outcome" or "probability".
        options: more of the command line for this game.
        gap: what is to fall: a tag of metrics.jsonl; of `eval/win_rate_vs_ref` the distance from 1.
        exploiter: oracle queries of an adversary that is trained against each last policy; 0: none.
    """

    oracle: str
    lam: float | None = None
    noise: float = 0.0
    feedback: Feedback = "outcome"
    options: tuple[str, ...] = ()
    gap: str = "game/exploitability"
    exploiter: int = 0

    @property
    def label(self) -> str:
        """Its name in tables and pictures."""
        words = [self.oracle]
        words += [] if self.lam is None else [f"lam={self.lam:g}"]
        words += [f"noise={self.noise:g}"] if self.noise else []
        words += [self.feedback] if self.feedback != "outcome" else []
        return " ".join(words)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Its part of the command line."""
        words = ["--oracle", self.oracle + ("+noise" if self.noise else "")]
        words += [] if self.lam is None else ["--oracle.lam", f"{self.lam:g}"]
        words += ["--oracle.noise.eps", f"{self.noise:g}"] if self.noise else []
        return (*words, "--run.feedback", self.feedback, *self.options)


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark, the same as `runners.duel` makes it.

    Attributes:
        entrant: who learns.
        game: who judges.
        seed: of the run, and of whatever the options name by {seed}.
        options: what all cells of the suite share.
    """

    entrant: Entrant
    game: Game
    seed: int
    options: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """The command line of `runners.duel`."""
        words = ["--agent", self.entrant.agent, *self.entrant.options, *self.game.arguments, *self.options]
        return [*(word.replace(SEED, str(self.seed)) for word in words), "--run.seed", str(self.seed)]

    @cached_property
    def name(self) -> str:
        """The name of its folder: readable, and different if anything of the cell differs."""
        words = "-".join(re.sub(r"\W+", "_", word) for word in (self.entrant.label, self.game.label))
        whole = [*self.arguments, *([f"exploiter {self.game.exploiter}"] if self.game.exploiter else [])]
        digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:8]
        return f"{words}-seed{self.seed}-{digest}"


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: of it.
        about: one line for people.
        entrants: who learns.
        games: who judges; of each as many draws as there are seeds, where the options name the oracle's seed.
        seeds: runs of every entrant in every game.
        options: what all cells share: the task, the policy, the budget.
        first_seed: of them.
        tuned_on: games whose other draws the settings for this suite are chosen on.
    """

    name: str
    about: str
    entrants: tuple[Entrant, ...]
    games: tuple[Game, ...]
    seeds: int
    options: tuple[str, ...]
    first_seed: int = 0
    tuned_on: tuple[Game, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Returns every cell, those of one entrant together."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [Cell(*one, self.options) for one in itertools.product(self.entrants, self.games, seeds)]

    def conditions(self) -> dict[str, Any]:
        """Returns everything but the entrants as JSON values: results are comparable where these are the same."""
        games = [{"label": game.label, **asdict(game)} for game in self.games]
        for game in games:
            if not game["exploiter"]:  # results from before there were any stay comparable
                del game["exploiter"]
        content = asdict(self) | {"games": games}
        kept = {name: value for name, value in content.items() if name not in ("entrants", "about", "tuned_on")}
        return json.loads(json.dumps(kept))

    def held_out(self, entrants: Sequence[Entrant]) -> Suite:
        """Returns the suite that settings are chosen on: games under seeds that this one does not play.

        Raises:
            ValueError: if the suite names none.
        """
        if not self.tuned_on:
            raise ValueError(f"suite '{self.name}' names no games to tune on (tuned_on); its agents play as they are")
        seeds = HELD_OUT // len(self.tuned_on)
        return replace(self, entrants=tuple(entrants), games=self.tuned_on, seeds=seeds, first_seed=FIRST_HELD_OUT)


TABULAR = "dpo", "rlhf", "xpo", "sppo", "spo", "ipo", "inpo", "nash_md", "egpo", "comal", "oelhf"
"""Agents that learn tables: those that fit a Bradley-Terry reward first, then those that learn from the game itself."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "grpo no std": ("--agent.no_scale_rewards",),
    **{f"grpo {one}": ("--agent.responses", "8", "--agent.schedule", one) for one in ("circular", "chunks", "anchor")},
}
"""Label -> settings that make it; its first word is the agent. Each is tuned in its other settings."""
GROUPS = "grpo", "grpo no std", "rloo", "grpo circular", "grpo chunks", "grpo anchor"
"""Entrants that are rewarded by the comparisons inside a group."""
LOSSES = (
    "dno", "rebel", "simpo", "cpo", "slic", "kto", "dro", "orpo", "mnpo", "nash_ema", "npo", "kimi", "lipo", "nca",
    "spin", "gpm_po", "plackett_luce", "bco_unpaired", "f_dpo", "dpop", "bco", "apo", "d2o", "pro", "rrhf",
    "discopop", "tdpo", "sft", "cringe", "pairwise_cringe", "ppo_ptx",
)  # fmt: skip
"""Agents that came later: other losses of pairs, single responses, tokens and lists, and other regularised games."""
DRAWN = "dpo", "simpo", "kto", "rlhf", "sppo", "spo", "ipo", "inpo", "nash_md", "comal", "oelhf", "grpo"
"""Entrants that pictures show if they can't hold all; the tables do."""


def tabular(queries: int, length: int, evaluations: int, spread: float = 1.0) -> tuple[str, ...]:
    """Returns the options of games of 4 ** `length` responses to one prompt, another game for every seed.

    Args:
        queries: the budget.
        length: of responses, in letters.
        evaluations: how many.
        spread: of the start's logits.
    """
    options = f"--task symbols --task.length {length} --task.prompts 1 --run.batch_size None --run.steps 1000000"
    options += f" --policy tabular --policy.spread {spread:g} --policy.start {SEED} --oracle.seed {SEED}"
    options += f" --run.queries {queries} --run.eval_queries {queries // evaluations} --run.eval_tau 0.1"
    return (*options.split(), "--run.threads", "1")


def quick(entrants: Sequence[Entrant]) -> Suite:
    """Returns the suite that ends within minutes: 16 responses, three shares of cycles."""
    games = tuple(Game("cyclic", lam) for lam in (0.0, 0.5, 1.0))
    about = "16 responses, 6,000 outcomes, 10 games each"
    return Suite("quick", about, tuple(entrants), games, 10, tabular(6000, 2, 10), tuned_on=games)


def standard(entrants: Sequence[Entrant]) -> Suite:
    """Returns the suite to publish from: 64 responses, every oracle family, noise, and probabilities for outcomes."""
    lams = 0.0, 0.25, 0.5, 0.75, 1.0
    dialled = [Game(oracle, lam) for oracle in ("cyclic", "gpm", "annotators") for lam in lams]
    others = [Game("length_bias", 0.5), Game("borda_trap"), Game("cyclic", 0.5, noise=0.3)]
    games = (*dialled, *others, Game("cyclic", 0.5, feedback="probability"))
    about = "64 responses, 30,000 queries, 10 games each"
    tuned_on = tuple(game for game in dialled if game.oracle != "gpm" and game.lam in (0.0, 0.5, 1.0))
    return Suite("standard", about, tuple(entrants), games, 10, tabular(30000, 3, 15), tuned_on=tuned_on)


def exploration(entrants: Sequence[Entrant]) -> Suite:
    """Returns the suite of starts that hardly ever say what wins, with every enhancer of `oelhf`."""
    games = tuple(Game("cyclic", lam) for lam in (0.3, 1.0))
    about = "64 responses, a start of spread 4, 12,000 outcomes, 10 games each"
    variants = [
        Entrant(f"{one.label} {name}", one.agent, (*one.options, "--agent.enhancer", name))
        for one in entrants
        for name in ("tournament", "none", "uniform")
        if one.agent == "oelhf"
    ]
    return Suite("exploration", about, (*entrants, *variants), games, 10, tabular(12000, 3, 10, spread=4))


def lm(entrants: Sequence[Entrant]) -> Suite:
    """Returns the suite of the small language model: exact games of 64 strings, and free text."""
    strings = ("--task", "symbols", "--run.queries", "19200", "--run.eval_queries", "4800")
    text = ("--task", "chat", "--run.queries", "7680", "--run.eval_queries", "1920")
    games = [Game("cyclic", lam, options=(*strings, "--oracle.seed", SEED)) for lam in (0.0, 1.0)]
    judges = ("pairrm", None), ("annotators", 1.0)
    games += [Game(oracle, lam, options=text, gap=WIN_RATE, exploiter=7680) for oracle, lam in judges]
    options = "--policy", "tiny", "--run.steps", "1000000", "--run.eval_tau", "0.1", "--run.threads", "1"
    about = "the shipped language model of a million parameters"
    return Suite("lm", about, tuple(entrants), tuple(games), 5, options)


BUILT_IN: dict[str, tuple[Callable[[Sequence[Entrant]], Suite], tuple[str, ...]]] = {
    "quick": (quick, TABULAR),
    "standard": (standard, (*TABULAR, *GROUPS, *LOSSES)),
    "exploration": (exploration, TABULAR),
    "lm": (lm, ("dpo", "rlhf", "sppo", "ipo", "inpo", "nash_md", "egpo", "comal")),
}
"""Name -> what it is, and who plays where nobody is named."""


def require_suite(name: str) -> None:
    """Raises if a name is neither a built-in suite's nor a FILE.py.

    Raises:
        UnknownNameError: with the nearest name.
    """
    if name not in BUILT_IN and Path(name).suffix != ".py":
        known = ", ".join(sorted(BUILT_IN))
        raise UnknownNameError(f"unknown suite '{name}'{nearest(name, BUILT_IN) or '.'} Known: {known}, or a FILE.py")


def find_suite(
    name: str, entrants: Callable[[Sequence[str]], Sequence[Entrant]], agents: Sequence[str] | None = None
) -> Suite:
    """Returns a built-in suite, or the one that a Python file calls SUITE.

    Args:
        name: of a built-in, or FILE.py.
        entrants: gives each agent of a built-in its settings.
        agents: instead of a built-in's own; None: those.

    Raises:
        UnknownNameError: with the nearest name.
        ValueError: if the file raises, or has no suite; or if agents are named beside a file.
        OSError: if there is no such file.
    """
    require_suite(name)
    if name in BUILT_IN:
        made, own = BUILT_IN[name]
        return made(entrants(own if agents is None else agents))
    path = Path(name)
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
        raise ValueError(f"{name} must say SUITE = runners.benchmark.suites.Suite(...), got {type(suite).__name__}")
    return suite
