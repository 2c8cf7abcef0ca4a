"""Proxy and gold reward of a run's checkpoints and of best-of-n, by prompt: exact on finite tasks, else of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from envs.games import exploitability, kl_divergence, payoff_matrix
from envs.games.lower_bounds import Bound, best_of_n_kl
from envs.games.reward_gains import best_of_n_distribution
from oracles import payoff
from preference_duel.protocols import Policy
from preference_duel.types import Completion
from runners.evaluation.judges import Judge
from runners.evaluation.saved_runs import SavedRun
from runners.run.checkpoint import load, steps
from runners.run.evaluator import Evaluation, distribution

NUMBERS = 4, 16, 64
"""Sizes of best-of-n; the largest is the number of samples of the start."""


@dataclass(frozen=True)
class Point:
    """A policy against the start.

    Attributes:
        name: "start", "step N" or "best of N".
        number: the step, or N.
        kl: [B] KL from the start, nats; of best-of-n from samples its bound.
        reward: judge -> [B] mean log odds against the start, those beyond 13.8 counted as 13.8.
        win_rate: judge -> [B] against the start.
        exploitability: under the gold judge: of a finite task exact, else a lower bound; None: not measured.
        log_loss: of the corpus, nats for each response; None: not measured.
    """

    name: str
    number: int
    kl: Tensor
    reward: dict[str, Tensor]
    win_rate: dict[str, Tensor]
    exploitability: Bound | None
    log_loss: float | None = None


@dataclass(frozen=True)
class GainCurve:
    """What a run's proxy and the gold judge say of its checkpoints.

    Attributes:
        directory: of the run.
        proxy: the run's oracle.
        variance: [B] of the proxy's reward under the start.
        checkpoints: the start and the kept checkpoints, in their order.
        best_of: best-of-n of the start by the proxy.
    """

    directory: Path
    proxy: Judge
    variance: Tensor
    checkpoints: list[Point]
    best_of: list[Point]


class Game(Protocol):
    """The duels of policies with the start of one run, under each judge."""

    @property
    def variance(self) -> Tensor:
        """[B] of the proxy's reward under the start."""
        ...

    def point(self, name: str, number: int, policy: Policy) -> Point:
        """Measures a policy."""
        ...

    def best_of(self, n: int) -> Point:
        """Measures the best of n samples of the start by the proxy."""
        ...


def log_odds(prob: Tensor) -> Tensor:
    """Returns log p / (1 - p) in float64, p clamped to [1e-6, 1 - 1e-6]."""
    return torch.logit(prob.double(), eps=1e-6)


class ExactGame:
    """The whole payoff matrices of a finite task.

    Args:
        evaluation: the gold judge's, of the run's start.
        judges: "proxy", "gold" and perhaps "test".
    """

    def __init__(self, evaluation: Evaluation, judges: Mapping[str, Judge]) -> None:
        self.evaluation, self.start = evaluation, evaluation.reference_probs  # [B, N]
        texts = evaluation.task.response_texts
        self.prob = {
            name: evaluation.matrices if name == "gold" else payoff_matrix(one.oracle, evaluation.prompts, texts)
            for name, one in judges.items()
        }
        """Judge -> [B, N, N]."""
        self.score = {name: _against(log_odds(matrix), self.start) for name, matrix in self.prob.items()}
        """Judge -> [B, N] mean log odds of a response against the start."""

    @property
    def variance(self) -> Tensor:
        """[B] of the proxy's reward under the start."""
        score = self.score["proxy"]
        mean = (self.start * score).sum(1, keepdim=True)
        return (self.start * (score - mean) ** 2).sum(1)

    def point(self, name: str, number: int, policy: Policy) -> Point:
        """Measures a policy by its whole distribution."""
        return self._point(name, number, distribution(policy, self.evaluation.task, self.evaluation.prompts))

    def best_of(self, n: int) -> Point:
        """Measures the distribution of the best of n."""
        return self._point(f"best of {n}", n, best_of_n_distribution(self.start, self.score["proxy"], n))

    def _point(self, name: str, number: int, probs: Tensor) -> Point:
        exact = exploitability(self.prob["gold"], probs).mean().item()
        return Point(
            name,
            number,
            kl_divergence(probs, self.start),
            {judge: (probs * score).sum(1) for judge, score in self.score.items()},
            {judge: (probs * _against(prob, self.start)).sum(1) for judge, prob in self.prob.items()},
            Bound(exact, exact, exact),
        )


def _against(values: Tensor, start: Tensor) -> Tensor:
    """Returns [B, N] the mean of [B, N, N] over responses of the start."""
    return torch.einsum("bnm,bm->bn", values, start)


class SampledGame:
    """Samples of free text; each of a policy meets one of the start's, the same ones at every checkpoint.

    Args:
        evaluation: the gold judge's, of the run's start.
        judges: "proxy", "gold" and perhaps "test".
    """

    def __init__(self, evaluation: Evaluation, judges: Mapping[str, Judge]) -> None:
        self.evaluation, self.judges = evaluation, judges

    def point(self, name: str, number: int, policy: Policy) -> Point:
        """Measures a policy by its samples; the exploitability is that of `Evaluation.pool_bound`."""
        evaluation, prompts = self.evaluation, self.evaluation.prompts
        drawn = evaluation.draw(policy)
        with torch.no_grad():
            ratio = policy.logprob(prompts, drawn) - evaluation.reference.logprob(prompts, drawn)  # [B, n]
        facing = torch.eye(evaluation.pairs, dtype=torch.bool).expand(len(prompts), -1, -1)
        found = evaluation.pool_bound(drawn)
        return self._point(name, number, ratio.double().mean(1).cpu(), drawn, facing, found and found.bound)

    def best_of(self, n: int) -> Point:
        """Measures the best of blocks of n samples, as many blocks as `pairs` at most."""
        count = min(self.evaluation.pairs, max(NUMBERS) // n)
        blocks = self._scores[:, : count * n].unflatten(1, (count, n)).argmax(2)  # [B, count]
        best = [
            [row[block * n + place] for block, place in enumerate(places)]
            for row, places in zip(self._samples, blocks.tolist(), strict=True)
        ]
        most = torch.full((len(best),), best_of_n_kl(n), dtype=torch.float64)
        return self._point(f"best of {n}", n, most, best, None, None)

    @property
    def variance(self) -> Tensor:
        """[B] of the proxy's reward under the start, unbiased."""
        return self._scores.var(1)

    def _point(
        self,
        name: str,
        number: int,
        kl: Tensor,
        rows: Sequence[Sequence[Completion]],
        facing: Tensor | None,
        bound: Bound | None,
    ) -> Point:
        """Measures responses [B][n] against those of the start; `facing` [B, n, n] says which meet, None: all."""
        left, right = ([[one.text for one in row] for row in both] for both in (rows, self.evaluation.references))
        reward, win_rate = {}, {}
        for judge, one in self.judges.items():
            prob = payoff(one.oracle, self.evaluation.prompts, left, right, facing).double()
            if facing is not None:
                prob = prob.diagonal(dim1=1, dim2=2)
            reward[judge], win_rate[judge] = log_odds(prob).flatten(1).mean(1), prob.flatten(1).mean(1)
        return Point(name, number, kl, reward, win_rate, bound)

    @cached_property
    def _samples(self) -> list[list[Completion]]:
        """[B][M] samples of the start, of which the best are taken."""
        with torch.no_grad():
            return self.evaluation.reference.draw(self.evaluation.prompts, max(NUMBERS), self.evaluation.key.at(3))[0]

    @cached_property
    def _scores(self) -> Tensor:
        """[B, M] the proxy's mean log odds of these samples against others of the start."""
        with torch.no_grad():
            others = self.evaluation.reference.draw(
                self.evaluation.prompts, self.evaluation.pairs, self.evaluation.key.at(4)
            )[0]
        left, right = ([[one.text for one in row] for row in rows] for rows in (self._samples, others))
        return log_odds(payoff(self.judges["proxy"].oracle, self.evaluation.prompts, left, right)).mean(2)


@dataclass(frozen=True)
class Corpus:
    """Prompts [M] with responses [M][1] whose likelihood is followed."""

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]

    def log_loss(self, policy: Policy) -> float:
        """Returns the mean -log pi(response | prompt), nats for each response."""
        with torch.no_grad():
            return -policy.logprob(self.prompts, self.responses).double().mean().item()


def gain_curve(run: SavedRun, evaluation: Evaluation, judges: Mapping[str, Judge], corpus: Corpus | None) -> GainCurve:
    """Measures a run's start, its kept checkpoints, and best-of-n.

    Args:
        run: as loaded.
        evaluation: the gold judge's.
        judges: "proxy", "gold" and perhaps "test".
        corpus: whose log loss is followed; None: none.

    Raises:
        ValueError: if a checkpoint is damaged.
        OSError: if one can't be read.
    """
    game: Game = (ExactGame if evaluation.finite else SampledGame)(evaluation, judges)
    agent, points = run.experiment.agent, []
    for step in (0, *steps(run.directory)):
        if step:
            saved = load(run.directory, step)
            assert saved is not None
            agent.load_state_dict(saved.agent)
        policy = agent.policy if step else run.experiment.reference
        point = game.point(f"step {step}" if step else "start", step, policy)
        points.append(point if corpus is None else replace(point, log_loss=corpus.log_loss(policy)))
    best_of = [game.best_of(n) for n in NUMBERS]
    return GainCurve(run.directory, judges["proxy"], game.variance, points, best_of)
