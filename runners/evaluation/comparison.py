"""Finished runs of one task before one or several judges: everything that `runners.evaluate` finds out."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from envs.games import queries_to
from preference_duel.keyed_random import hash_seed
from preference_duel.protocols import Policy
from runners.evaluation.cross_play import Meetings, drawn_meetings, exact_meetings
from runners.evaluation.exact import Board
from runners.evaluation.judges import own_judges, read_judge
from runners.evaluation.options import AVERAGE, LAST, START, Options
from runners.evaluation.saved_runs import Finished, read_finished
from runners.run.build import choose_device, tau_of
from runners.run.curves import Curves
from runners.run.evaluator import Evaluation, choose, law
from runners.run.record import read_lines


class Assessment:
    """Runs of one task before some judges; everything is computed when it is asked for.

    Args:
        options: what is asked for.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        device = choose_device(options.device)
        self.runs = read_finished(options.runs, device)
        self.task = self.runs[0].players.task
        self.finite = self.task.responses is not None
        self.prompts = choose(self.task.held_out, options.prompts)
        own, places = own_judges(self.runs)
        self.judges = [read_judge(text, self.task, device) for text in options.oracles] or own
        fields = [judge.fields for judge in self.judges]
        self.own = [fields.index(own[i].fields) if own[i].fields in fields else None for i in places]
        self.seed = hash_seed(options.seed, "evaluate")

    @cached_property
    def boards(self) -> list[Board]:
        """The exact games of a finite task, one for each judge."""
        return [Board(self.task, judge, self.prompts) for judge in self.judges]

    @cached_property
    def laws(self) -> list[dict[str, Tensor]]:
        """What each run's policies play on a finite task: name -> [B, N], the start first."""
        return [
            {name: law(policy, self.task, self.prompts) for name, policy in policies(run).items()} for run in self.runs
        ]

    @cached_property
    def taus(self) -> list[float]:
        """Each run's KL coefficient."""
        return [tau_of(run.settings) if self.options.tau is None else self.options.tau for run in self.runs]

    @cached_property
    def results(self) -> list[list[dict[str, dict[str, float | None]]]]:
        """[run][judge] name of policy -> measure -> value."""
        numbers = range(len(self.judges))
        return [[self._result(i, j) for j in numbers] for i in range(len(self.runs))]

    def meetings(self, judge: int) -> Meetings:
        """Returns who beats whom under a judge, the first run's start the last of them."""
        wanted = [self._chosen(i) for i in range(len(self.runs))]
        if self.finite:
            laws = [self.laws[i][name] for i, name in enumerate(wanted)]
            return exact_meetings(self.boards[judge].matrices, [*laws, self.laws[0][START]])
        entrants = [policies(run)[name] for run, name in zip(self.runs, wanted, strict=True)]
        entrants.append(self.runs[0].players.reference)
        oracle = self.judges[judge].oracle
        return drawn_meetings(oracle, entrants, self.prompts, self.options.pairs, self.seed)

    def entrants(self) -> list[str]:
        """Returns the names of those who meet."""
        return [*(run.label for run in self.runs), START]

    def _chosen(self, run: int) -> str:
        names = [name for name in policies(self.runs[run]) if name != START]
        if self.options.policy not in names:
            raise ValueError(f"{self.runs[run].directory}: its agent kept no average policy; use --policy {LAST}")
        return self.options.policy

    def _result(self, run: int, judge: int) -> dict[str, dict[str, float | None]]:
        if self.finite:
            laws = self.laws[run]
            return self.boards[judge].assess(laws, laws[START], self.taus[run])
        players, options = self.runs[run].players, self.options
        oracle = self.judges[judge].oracle
        measure = Evaluation(
            self.task, oracle, players.reference, options.prompts, options.pairs, self.seed, self.taus[run]
        )
        rows = {}
        for name, policy in policies(self.runs[run]).items():
            scalars = measure.scalars(policy)
            ends = {f"win_rate{end}": scalars.get(f"eval/win_rate{end}") for end in ("_low", "_high")}
            rows[name] = {"win_rate": scalars["eval/win_rate_vs_ref"], **ends}
        return rows


def policies(run: Finished) -> dict[str, Policy]:
    """Returns a run's policies by name, the start first."""
    found = {START: run.players.reference, LAST: run.players.agent.policy}
    return found if run.players.agent.average is None else {**found, AVERAGE: run.players.agent.average}


def queries_to_tenth(run: Finished) -> dict[str, float | None]:
    """Returns each gap that a run measured -> its oracle queries until the gap was a tenth of the first one.

    None where it never was; no entry where no gap was measured or no query asked.
    """
    curves = Curves(run.label, read_lines(run.directory / "metrics.jsonl"))
    tags = {name: f"game/{name}" for name in ("exploitability", "regularised_exploitability")}
    if not curves.has("duel/queries"):
        return {}
    return {name: queries_to(*curves.points(tag, "queries")) for name, tag in tags.items() if curves.has(tag)}


def content(assessment: Assessment) -> dict[str, Any]:
    """Returns everything that was found as JSON values."""
    several = len(assessment.runs) > 1
    return {
        "task": {"name": assessment.task.name, "prompts": len(assessment.prompts), "finite": assessment.finite},
        "runs": [
            {
                "directory": str(run.directory),
                "label": run.label,
                "step": run.step,
                "tau": tau,
                "own_judge": own,
                "queries_to_tenth": queries_to_tenth(run),
            }
            for run, tau, own in zip(assessment.runs, assessment.taus, assessment.own, strict=True)
        ],
        "judges": [
            {
                "label": judge.label,
                "oracle": judge.fields,
                "intransitivity": assessment.boards[i].intransitivity if assessment.finite else None,
            }
            for i, judge in enumerate(assessment.judges)
        ],
        "results": assessment.results,
        "meetings": [_met(assessment, i) for i in range(len(assessment.judges))] if several else None,
        "made": {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": platform.platform(),
            "torch": torch.__version__,
            "options": json.loads(json.dumps(vars(assessment.options), default=str)),
        },
    }


def _met(assessment: Assessment, judge: int) -> dict[str, Any]:
    meetings = assessment.meetings(judge)
    ends = {"low": meetings.low, "high": meetings.high}
    return {
        "entrants": assessment.entrants(),
        "table": meetings.table.tolist(),
        **{name: None if end is None else end.tolist() for name, end in ends.items()},
        **meetings.ranks(),
    }
