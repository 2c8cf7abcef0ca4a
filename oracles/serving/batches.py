"""One oracle asked by many callers: what waits is asked together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from oracles.group_rewards import GroupRewards, Schedule, group_rewards
from preference_duel.groups import Aggregate
from preference_duel.protocols import Oracle, forget


@dataclass(frozen=True)
class Reduction:
    """How the comparisons of a group become rewards; see `oracles.group_rewards.group_rewards`."""

    schedule: Schedule = "all_pairs"
    aggregate: Aggregate = "win_rate"
    leave_one_out: bool = True


PROB = Reduction()
"""Of two responses: the reward of the first is P(first beats second)."""


class OracleError(Exception):
    """The oracle failed, or left open what a reward needs."""


@dataclass(frozen=True)
class _Job:
    """Groups of one size that one caller wants to be rewarded."""

    prompts: Sequence[str]
    completions: Sequence[Sequence[str]]
    reduction: Reduction
    result: asyncio.Future[GroupRewards]

    @property
    def kind(self) -> tuple[int, Reduction]:
        return len(self.completions[0]), self.reduction

    @property
    def size(self) -> int:
        return len(self.prompts) * len(self.completions[0])


class Batches:
    """Asks an oracle in a thread of its own, with everything that came while it answered the last time.

    Args:
        oracle: answers.
        most: completions that are asked about together at most; a single caller may bring more.

    Attributes:
        counts: `batches`, `groups` that were rewarded, `questions` that were asked, comparisons left `unanswered`.
        seconds: that the oracle took.
    """

    def __init__(self, oracle: Oracle, most: int) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(("batches", "groups", "questions", "unanswered"), 0))
        self.seconds = 0.0
        self._oracle, self._most = oracle, most
        self._waiting: list[_Job] = []
        self._thread = ThreadPoolExecutor(1, "oracle")
        self._asking: asyncio.Task[None] | None = None

    async def rewards(
        self, prompts: Sequence[str], completions: Sequence[Sequence[str]], reduction: Reduction
    ) -> GroupRewards:
        """Returns the rewards of groups.

        Args:
            prompts: B prompts, at least one.
            completions: [B][K].
            reduction: pairs and aggregate.

        Raises:
            OracleError: if the oracle fails, or leaves a completion without any answered comparison.
        """
        job = _Job(prompts, completions, reduction, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await job.result

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _ask_all(self) -> None:
        await asyncio.sleep(0)  # what else was read from the network by now joins
        while self._waiting:
            jobs = self._next()
            start = time.perf_counter()
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, jobs)
            self.seconds += time.perf_counter() - start
            for job, result in zip(jobs, results, strict=True):
                if job.result.done():
                    continue  # the caller is gone
                if isinstance(result, OracleError):
                    job.result.set_exception(result)
                else:
                    self.counts["groups"] += len(job.prompts)
                    job.result.set_result(result)

    def _next(self) -> list[_Job]:
        """Returns the first jobs of one kind, in the order in which they came."""
        kind, size = self._waiting[0].kind, 0
        jobs: list[_Job] = []
        for job in self._waiting:
            if job.kind == kind and (not jobs or size + job.size <= self._most):
                jobs.append(job)
                size += job.size
        chosen = set(map(id, jobs))
        self._waiting = [job for job in self._waiting if id(job) not in chosen]
        return jobs

    def _ask(self, jobs: Sequence[_Job]) -> list[GroupRewards | OracleError]:
        """Returns a result for each job; if they fail for a text, each is asked apart, so that it fails alone."""
        try:
            whole = self._group_rewards(jobs)
        except Exception as error:
            gone = isinstance(error, OSError | RuntimeError)  # a server, or memory
            return [_failure(error) if gone or len(jobs) == 1 else self._alone(job) for job in jobs]
        results: list[GroupRewards | OracleError] = []
        row = 0
        for job in jobs:
            results.append(_rows(whole, row, row + len(job.prompts)))
            row += len(job.prompts)
        return results

    def _alone(self, job: _Job) -> GroupRewards | OracleError:
        try:
            return self._group_rewards([job])
        except Exception as error:
            return _failure(error)

    def _group_rewards(self, jobs: Sequence[_Job]) -> GroupRewards:
        reduction = jobs[0].reduction
        try:
            result = group_rewards(
                self._oracle,
                [prompt for job in jobs for prompt in job.prompts],
                [row for job in jobs for row in job.completions],
                schedule=reduction.schedule,
                aggregate=reduction.aggregate,
                leave_one_out=reduction.leave_one_out,
            )
        finally:
            forget(self._oracle)
        self.counts["batches"] += 1
        self.counts["questions"] += result.queries
        self.counts["unanswered"] += len(result.unanswered)
        return result


def _rows(result: GroupRewards, start: int, stop: int) -> GroupRewards:
    """Returns the result of some of the groups; the questions are those of all."""
    pairs, unanswered = (
        tuple((b - start, i, j) for b, i, j in triples if start <= b < stop)
        for triples in (result.pairs, result.unanswered)
    )
    return GroupRewards(result.rewards[start:stop], result.queries, pairs, unanswered, result.prob[start:stop])


def _failure(error: Exception) -> OracleError:
    failure = OracleError(f"the oracle gave no answer: {error or type(error).__name__}")
    failure.__cause__ = error
    return failure
