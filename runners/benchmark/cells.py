"""Plays cells of a benchmark: one alone, or several as replicas in one batch, with the same numbers."""

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
from runners.benchmark.batched_seeds import batch_seeds
from runners.benchmark.bounds import KL
from runners.benchmark.exploiter import exploited
from runners.benchmark.suites import Cell
from runners.run.build import Experiment, build_experiment, choose_device
from runners.run.cli import parse
from runners.run.config import RunConfig
from runners.run.evaluator import distribution, sampled_kl
from runners.run.loop import steps

REGRET = "regret/von_neumann"
"""Against the best fixed response to each prompt in hindsight, per query: `envs.games.von_neumann_regret`."""
_GAPS = "game/exploitability", "game/regularised_exploitability"
KEPT = {"eval/win_rate_vs_ref", "eval/win_rate_average", REGRET, *_GAPS, *(f"{gap}_average" for gap in _GAPS)}
"""Measures of a finite task that are kept."""
DIGITS = 6
"""Of what is kept: significant ones of measures, decimals of distributions."""


@dataclass(frozen=True)
class Played:
    """The result of a cell.

    Attributes:
        cell: the cell.
        content: its measures, as JSON values; None if it failed.
        log: its output.
        retry_alone: whether it failed in a batch, and is to be played alone.
    """

    cell: Cell
    content: dict[str, Any] | None
    log: str
    retry_alone: bool = False


def play_cells(cells: Sequence[Cell]) -> list[Played]:
    """Plays cells that differ in oracle and seed alone; errors are returned with the output."""
    log = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            settings = [parse(cell.arguments).settings for cell in cells]
            run = settings[0].run
            torch.set_num_threads(run.threads or torch.get_num_threads())
            experiment = (
                build_experiment(settings[0], choose_device(run.device)) if len(cells) == 1 else batch_seeds(settings)
            )
            meter = Meter(experiment, len(cells))
            play(experiment, run, meter)
            contents = meter.contents()
            if exploiter := cells[0].game.exploiter:
                found = exploited(experiment, settings[0], exploiter, choose_device(run.device))
                contents = [{**content, "exploited": found} for content in contents]
        except (Exception, SystemExit):  # an error of one cell must not stop the others
            traceback.print_exc(file=log)
            return [Played(cell, None, log.getvalue(), retry_alone=len(cells) > 1) for cell in cells]
    seconds = round((time.perf_counter() - start) / len(cells), 3)
    rows = zip(cells, contents, strict=True)
    return [Played(cell, {**described(cell), "seconds": seconds, **content}, log.getvalue()) for cell, content in rows]


def described(cell: Cell) -> dict[str, Any]:
    """Returns entrant, game and seed of a cell, as JSON values."""
    return {"entrant": cell.entrant.label, "game": cell.game.label, "seed": cell.seed}


def play(experiment: Experiment, run: RunConfig, meter: Meter) -> None:
    """Takes the steps of `runners.duel`, and measures when it would.

    Raises:
        ValueError: if the run has no evaluation, which leaves a benchmark nothing to compare.
    """
    if not (run.eval_every or run.eval_queries):
        raise ValueError("a cell of a benchmark must be measured: give --run.eval_every or --run.eval_queries")
    meter.measure(0)
    for step in steps(experiment, run, replicas=meter.replicas):
        meter.count(step.duel)
        if step.evaluate:
            meter.measure(step.number)


class Meter:
    """Measures the replicas of a batch as they learn.

    Args:
        experiment: of R replicas.
        replicas: R.
    """

    def __init__(self, experiment: Experiment, replicas: int) -> None:
        self.experiment, self.replicas = experiment, replicas
        self._columns = {y.text: i for i, y in enumerate(experiment.task.responses or ())}
        self._rows = {prompt: i for i, prompt in enumerate(experiment.evaluation.prompts)}
        self._played = torch.zeros(len(self._rows), len(self._columns), dtype=torch.float64)
        self._curves: list[dict[str, list[float]]] = [{} for _ in range(replicas)]

    def queries(self) -> int:
        """Returns the queries of each replica."""
        return (self.experiment.arena.queries or 0) // self.replicas

    def count(self, duel: Duel) -> None:
        """Counts the responses that were played, for the regret."""
        if not self._columns or duel.exact or duel.feedback == "thumb" or not self._rows.keys() >= set(duel.prompts):
            return
        rows = torch.tensor([self._rows[prompt] for prompt in duel.prompts])[:, None]
        for seat, times in ((duel.left, duel.comparisons.sum(2)), (duel.right, duel.comparisons.sum(1))):
            columns = torch.tensor([[self._columns[y.text] for y in row] for row in seat])
            self._played.index_put_((rows, columns), times.double(), accumulate=True)

    def measure(self, step: int) -> None:
        """Adds a point to the curve of every replica."""
        experiment = self.experiment
        forget(experiment.oracle)
        policy, average = experiment.agent.policy, experiment.agent.average
        if self._columns:
            measures = experiment.evaluation.by_prompt(policy, average)
            if self._played.any():
                gains = torch.einsum("bnm,bm->bn", experiment.evaluation.matrices - 0.5, self._played)
                measures[REGRET] = gains.amax(1) * len(self._rows) / self._played.sum()
            points = {
                tag: values.view(self.replicas, -1).mean(1).tolist() for tag, values in measures.items() if tag in KEPT
            }
        else:
            points = {tag: [value] for tag, value in experiment.evaluation.scalars(policy, average).items()}
            prompts, drawn = experiment.evaluation.prompts, experiment.evaluation.drawn
            points[KL] = [sampled_kl(policy, experiment.reference, prompts, drawn or ())]
        shared = {"step": float(step), "queries": float(self.queries())}
        for r, curve in enumerate(self._curves):
            for tag, value in (shared | {tag: values[r] for tag, values in points.items()}).items():
                curve.setdefault(tag, []).append(value)

    def contents(self) -> list[dict[str, Any]]:
        """Returns each replica's curve, and on finite tasks its last distribution, [X][N]."""
        agent, evaluation = self.experiment.agent, self.experiment.evaluation
        distributions = None
        if self._columns:
            rows = distribution(agent.policy, evaluation.task, evaluation.prompts)
            distributions = rows.view(self.replicas, -1, len(self._columns)).round(decimals=DIGITS).tolist()
        contents = []
        for r, curve in enumerate(self._curves):
            kept = {tag: [float(f"{value:.{DIGITS}g}") for value in values] for tag, values in curve.items()}
            contents.append(
                {
                    "curve": kept,
                    "law": None if distributions is None else distributions[r],
                }
            )
        return contents
