"""Comparison of finished runs of one task under one or several oracles, computed on demand."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.policies.beam import WIDTH, BeamSearch
from envs.games import queries_to
from preference_duel.keyed_random import hash_seed
from preference_duel.protocols import Policy, leaves_unread
from runners.evaluation.cross_play import CrossPlay, exact_cross_play, sampled_cross_play
from runners.evaluation.exact import ExactEvaluation
from runners.evaluation.judges import own_judges, read_judge
from runners.evaluation.measures.two_judges import TwoJudges, two_judges
from runners.evaluation.options import AVERAGE, BEAM, LAST, START, Options
from runners.evaluation.sampled import SampledEvaluation
from runners.evaluation.saved_runs import SavedRun, read_saved_runs
from runners.run.build import choose_device, tau_of
from runners.run.curves import Curves
from runners.run.evaluator import choose, distribution
from runners.run.record import read_lines


class Comparison:
    """Finished runs of one task under some judges; every result is computed on first use.

    Args:
        options: the command line.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        device = choose_device(options.device)
        self.runs = read_saved_runs(options.runs, device)
        self.task = self.runs[0].experiment.task
        self.finite = self.task.responses is not None
        self.prompts = choose(self.task.held_out, options.prompts)
        own, indices = own_judges(self.runs)
        self.judges = [read_judge(text, self.task, device) for text in options.oracles] or own
        fields = [judge.fields for judge in self.judges]
        self.own = [fields.index(own[i].fields) if own[i].fields in fields else None for i in indices]
        self.seed = hash_seed(options.seed, "evaluate")

    @cached_property
    def exact(self) -> list[ExactEvaluation]:
        """The exact evaluation of a finite task, one for each judge."""
        return [ExactEvaluation(self.task, judge, self.prompts) for judge in self.judges]

    @cached_property
    def policies(self) -> list[dict[str, Policy]]:
        """Each run's policies by name, the start first, and what decodes the last one."""
        found = [policies(run) for run in self.runs]
        if self.options.decode == BEAM:
            for named in found:
                named[BEAM] = BeamSearch(named[LAST], named[START], self.options.width or WIDTH)
        return found

    @cached_property
    def distributions(self) -> list[dict[str, Tensor]]:
        """The distributions of each run's policies on a finite task: name -> [B, N], the start first."""
        return [
            {name: distribution(policy, self.task, self.prompts) for name, policy in named.items()}
            for named in self.policies
        ]

    @cached_property
    def sampled(self) -> list[SampledEvaluation]:
        """The sampled evaluation of each run on free text."""
        options = self.options
        return [
            SampledEvaluation(named, named[START], self.prompts, options.pairs, self.seed) for named in self.policies
        ]

    @cached_property
    def verdicts(self) -> list[list[dict[str, Tensor]]]:
        """[run][judge] name of policy -> [B, n] verdicts on free text."""
        return [[sampled.verdicts(judge.oracle) for judge in self.judges] for sampled in self.sampled]

    def agreement(self, first: int, second: int) -> TwoJudges:
        """Returns how far two judges agree on all responses of a finite task, or on the last policies' samples.

        A pair of responses has no left side, and counts in both orders; a sample is left of the start's.
        """
        return two_judges(self._pairs(first), self._pairs(second), orders=2 if self.finite else 1)

    def _pairs(self, judge: int) -> list[NDArray[np.float64]]:
        """Returns a judge's verdicts on pairs of different texts, an array for each prompt."""
        if self.finite:
            apart = ~torch.eye(len(self.task.response_texts), dtype=torch.bool)
            return [matrix[apart].numpy() for matrix in self.exact[judge].matrices]
        of_runs = zip(self.sampled, self.verdicts, strict=True)
        pairs = [sampled.pairs_of(LAST, of_run[judge][LAST]) for sampled, of_run in of_runs]
        return [np.concatenate(of_prompt) for of_prompt in zip(*pairs, strict=True)]

    @cached_property
    def taus(self) -> list[float]:
        """Each run's KL coefficient."""
        return [tau_of(run.settings) if self.options.tau is None else self.options.tau for run in self.runs]

    @cached_property
    def results(self) -> list[list[dict[str, dict[str, float | None]]]]:
        """[run][judge] name of policy -> measure -> value."""
        numbers = range(len(self.judges))
        return [[self._result(i, j) for j in numbers] for i in range(len(self.runs))]

    def cross_play(self, judge: int) -> CrossPlay:
        """Returns the cross-play under a judge of one policy of each run and, last, the first run's start."""
        names = [self._chosen(i) for i in range(len(self.runs))]
        if self.finite:
            chosen = [self.distributions[i][name] for i, name in enumerate(names)]
            return exact_cross_play(self.exact[judge].matrices, [*chosen, self.distributions[0][START]])
        entrants = [named[name] for named, name in zip(self.policies, names, strict=True)]
        entrants.append(self.runs[0].experiment.reference)
        oracle = self.judges[judge].oracle
        return sampled_cross_play(oracle, entrants, self.prompts, self.options.pairs, self.seed)

    def entrants(self) -> list[str]:
        """Returns the names of the policies in the cross-play."""
        return [*(run.label for run in self.runs), START]

    def _chosen(self, run: int) -> str:
        names = [name for name in self.policies[run] if name != START]
        if self.options.policy not in names:
            raise ValueError(f"{self.runs[run].directory}: its agent kept no average policy; use --policy {LAST}")
        return self.options.policy

    def _result(self, run: int, judge: int) -> dict[str, dict[str, float | None]]:
        if self.finite:
            named = self.distributions[run]
            return self.exact[judge].measures(named, named[START], self.taus[run])
        return self.sampled[run].measures(self.verdicts[run][judge], leaves_unread(self.judges[judge].oracle))


def policies(run: SavedRun) -> dict[str, Policy]:
    """Returns a run's policies by name, the start first."""
    agent = run.experiment.agent
    named = {START: run.experiment.reference, LAST: agent.policy}
    return named if agent.average is None else {**named, AVERAGE: agent.average}


def queries_to_tenth(run: SavedRun) -> dict[str, float | None]:
    """Returns each gap that a run measured -> its oracle queries until the gap was a tenth of the first one.

    None if it never was; no entry if no gap was measured or no query made.
    """
    curves = Curves(run.label, read_lines(run.directory / "metrics.jsonl"))
    tags = {name: f"game/{name}" for name in ("exploitability", "regularised_exploitability")}
    if not curves.has("duel/queries"):
        return {}
    return {name: queries_to(*curves.points(tag, "queries")) for name, tag in tags.items() if curves.has(tag)}


def content(comparison: Comparison) -> dict[str, Any]:
    """Returns all results as JSON values."""
    several = len(comparison.runs) > 1
    return {
        "task": {"name": comparison.task.name, "prompts": len(comparison.prompts), "finite": comparison.finite},
        "runs": [
            {
                "directory": str(run.directory),
                "label": run.label,
                "step": run.step,
                "tau": tau,
                "own_judge": own,
                "queries_to_tenth": queries_to_tenth(run),
            }
            for run, tau, own in zip(comparison.runs, comparison.taus, comparison.own, strict=True)
        ],
        "judges": [
            {
                "label": judge.label,
                "oracle": judge.fields,
                "intransitivity": comparison.exact[i].intransitivity if comparison.finite else None,
            }
            for i, judge in enumerate(comparison.judges)
        ],
        "results": comparison.results,
        "agreement": [
            {"judges": [i, j], **vars(comparison.agreement(i, j))}
            for i, j in combinations(range(len(comparison.judges)), 2)
        ],
        "meetings": [_cross_play(comparison, i) for i in range(len(comparison.judges))] if several else None,
        "made": {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": platform.platform(),
            "torch": torch.__version__,
            "options": json.loads(json.dumps(vars(comparison.options), default=str)),
        },
    }


def _cross_play(comparison: Comparison, judge: int) -> dict[str, Any]:
    played = comparison.cross_play(judge)
    ends = {"low": played.low, "high": played.high}
    return {
        "entrants": comparison.entrants(),
        "table": played.table.tolist(),
        **{name: None if end is None else end.tolist() for name, end in ends.items()},
        "unread": played.unread,
        **played.ranks(),
    }
