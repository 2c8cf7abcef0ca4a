"""Plays cells of a benchmark: one alone, or many as the worlds of one batch, with the same numbers."""

from __future__ import annotations

import contextlib
import io
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from preference_duel.protocols import forget
from preference_duel.types import Duel
from runners.benchmark.batched_seeds import stack
from runners.benchmark.suites import Cell
from runners.run.build import Experiment, build_experiment, choose_device
from runners.run.cli import parse
from runners.run.config import RunConfig
from runners.run.evaluator import law
from runners.run.loop import steps

REGRET = "regret/von_neumann"
"""Against the best fixed response to each prompt in hindsight, per query: `envs.games.von_neumann_regret`."""
_GAPS = "game/exploitability", "game/regularised_exploitability"
KEPT = {"eval/win_rate_vs_ref", "eval/win_rate_average", REGRET, *_GAPS, *(f"{gap}_average" for gap in _GAPS)}
"""Measures of a finite task that are kept."""
DIGITS = 6
"""Of what is kept: significant ones of measures, decimals of laws."""


@dataclass(frozen=True)
class Played:
    """What became of a cell.

    Attributes:
        cell: which.
        content: what it measured, as JSON values; None where it failed.
        log: what it printed.
        apart: whether it failed in company, and is to be played alone.
    """

    cell: Cell
    content: dict[str, Any] | None
    log: str
    apart: bool = False


def play_cells(cells: Sequence[Cell]) -> list[Played]:
    """Plays cells that differ in oracle and seed alone; whatever happens is in what is returned."""
    log = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            settings = [parse(cell.arguments).settings for cell in cells]
            run = settings[0].run
            torch.set_num_threads(run.threads or torch.get_num_threads())
            experiment = (
                build_experiment(settings[0], choose_device(run.device)) if len(cells) == 1 else stack(settings)
            )
            meter = Meter(experiment, len(cells))
            play(experiment, run, meter)
            found = meter.contents()
        except (Exception, SystemExit):  # whatever a cell does, the others are to be played
            traceback.print_exc(file=log)
            return [Played(cell, None, log.getvalue(), apart=len(cells) > 1) for cell in cells]
    seconds = round((time.perf_counter() - start) / len(cells), 3)
    rows = zip(cells, found, strict=True)
    return [Played(cell, {**described(cell), "seconds": seconds, **one}, log.getvalue()) for cell, one in rows]


def described(cell: Cell) -> dict[str, Any]:
    """Returns what a cell is, as JSON values."""
    return {"entrant": cell.entrant.label, "game": cell.game.label, "seed": cell.seed}


def play(experiment: Experiment, run: RunConfig, meter: Meter) -> None:
    """Makes the steps of `runners.duel`, and measures when it would.

    Raises:
        ValueError: if the run has no evaluation, which leaves a benchmark nothing to compare.
    """
    if not (run.eval_every or run.eval_queries):
        raise ValueError("a cell of a benchmark must be measured: give --run.eval_every or --run.eval_queries")
    meter.measure(0)
    for step in steps(experiment, run, worlds=meter.worlds):
        meter.saw(step.duel)
        if step.evaluate:
            meter.measure(step.number)


class Meter:
    """Measures the worlds of a batch as they learn.

    Args:
        experiment: of W worlds.
        worlds: W.
    """

    def __init__(self, experiment: Experiment, worlds: int) -> None:
        self.experiment, self.worlds = experiment, worlds
        self._columns = {y.text: i for i, y in enumerate(experiment.task.responses or ())}
        self._rows = {prompt: i for i, prompt in enumerate(experiment.evaluation.prompts)}
        self._played = torch.zeros(len(self._rows), len(self._columns), dtype=torch.float64)
        self._curves: list[dict[str, list[float]]] = [{} for _ in range(worlds)]

    def queries(self) -> int:
        """Returns what each world has asked."""
        return (self.experiment.arena.queries or 0) // self.worlds

    def saw(self, duel: Duel) -> None:
        """Counts what was played, for the regret."""
        if not self._columns or duel.exact or not self._rows.keys() >= set(duel.prompts):
            return
        rows = torch.tensor([self._rows[prompt] for prompt in duel.prompts])[:, None]
        for seat, asked in ((duel.left, duel.comparisons.sum(2)), (duel.right, duel.comparisons.sum(1))):
            columns = torch.tensor([[self._columns[y.text] for y in row] for row in seat])
            self._played.index_put_((rows, columns), asked.double(), accumulate=True)

    def measure(self, step: int) -> None:
        """Adds a point to the curve of every world."""
        experiment = self.experiment
        forget(experiment.oracle)
        policy, average = experiment.agent.policy, experiment.agent.average
        if self._columns:
            found = experiment.evaluation.by_prompt(policy, average)
            if self._played.any():
                gains = torch.einsum("bnm,bm->bn", experiment.evaluation.matrices - 0.5, self._played)
                found[REGRET] = gains.amax(1) * len(self._rows) / self._played.sum()
            points = {
                tag: values.view(self.worlds, -1).mean(1).tolist() for tag, values in found.items() if tag in KEPT
            }
        else:
            points = {tag: [value] for tag, value in experiment.evaluation.scalars(policy, average).items()}
        shared = {"step": float(step), "queries": float(self.queries())}
        for w, curve in enumerate(self._curves):
            for tag, value in (shared | {tag: values[w] for tag, values in points.items()}).items():
                curve.setdefault(tag, []).append(value)

    def contents(self) -> list[dict[str, Any]]:
        """Returns each world's curve, and on finite tasks the law that it ended with, [X][N]."""
        agent, evaluation = self.experiment.agent, self.experiment.evaluation
        laws = None
        if self._columns:
            laws = law(agent.policy, evaluation.task, evaluation.prompts).view(self.worlds, -1, len(self._columns))
        found = []
        for w, curve in enumerate(self._curves):
            kept = {tag: [float(f"{value:.{DIGITS}g}") for value in values] for tag, values in curve.items()}
            found.append({"curve": kept, "law": None if laws is None else laws[w].round(decimals=DIGITS).tolist()})
        return found
