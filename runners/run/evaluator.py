"""Evaluation of a policy: its win rate against another on held-out prompts, and on finite tasks its exploitability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from envs.games import (
    exploitability,
    kl_divergence,
    payoff_matrix,
    regularised_exploitability,
    regularised_nash,
)
from envs.games.lower_bounds import Bound, bound
from envs.tasks.task import Task
from oracles import Oracle, payoff
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.protocols import Policy, leaves_unread
from preference_duel.types import Completion, Unanswered

Row = Sequence[Completion]
LARGEST = 2**26
"""Entries of payoff matrices that an evaluation holds: 512 MiB of float64."""
_TAGS = {
    "exploitability": "game/exploitability",
    "regularised_exploitability": "game/regularised_exploitability",
    "kl_to_nash": "game/nash_kl",
}
POOL_PROMPTS = 24
"""Held-out prompts of `pool_bound`; with 16 responses each it takes a quarter of an evaluation's time."""
SMALL = 16
"""Responses up to which a policy's whole distribution is written down at every evaluation."""


@dataclass(frozen=True)
class WinRate:
    """A mean over prompts with its 95 % interval.

    Attributes:
        mean: over the prompts.
        low: None for a single prompt.
        high: None for a single prompt.
        unread: share of the pairs that the oracle left unread, on which nothing rests; None if it always answers.
    """

    mean: float
    low: float | None
    high: float | None
    unread: float | None = None

    def scalars(self) -> dict[str, float]:
        """Returns it by tag."""
        more = {"eval/win_rate_low": self.low, "eval/win_rate_high": self.high, "eval/unread": self.unread}
        return {"eval/win_rate_vs_ref": self.mean, **{tag: value for tag, value in more.items() if value is not None}}


@dataclass(frozen=True)
class Example:
    """A prompt, a sample of a policy, and a better response with its mean win rate against the policy's samples."""

    prompt: str
    response: str
    better: str
    win_rate: float


@dataclass(frozen=True)
class PoolBound:
    """The lower bound of the exploitability by a pool of the start's responses, and the prompt of the largest gain."""

    bound: Bound
    prompts: int
    example: Example


def over_prompts(win_rates: Tensor) -> WinRate:
    """Averages the win rates of single prompts; the interval is Student's t over prompts, cut to [0, 1].

    Args:
        win_rates: [B] one for each prompt, in [0, 1].
    """
    values = win_rates.double()
    mean = values.mean().item()
    if len(values) < 2:
        return WinRate(mean, None, None)
    half = float(stdtrit(len(values) - 1, 0.975)) * values.std().item() / len(values) ** 0.5
    return WinRate(mean, max(0.0, mean - half), min(1.0, mean + half))


def win_rate(oracle: Oracle, prompts: Sequence[str], responses: Sequence[Row], references: Sequence[Row]) -> WinRate:
    """Returns the oracle's mean P that a response beats the reference beside it, over the pairs that were read.

    Args:
        oracle: who judges.
        prompts: B prompts; one all of whose pairs are unread is left out.
        responses: [B][n] draws of the policy.
        references: [B][n] draws of the reference policy.

    Raises:
        Unanswered: if no pair was read.
    """
    return mean_win_rate(verdicts(oracle, prompts, responses, references), leaves_unread(oracle))


def verdicts(oracle: Oracle, prompts: Sequence[str], responses: Sequence[Row], references: Sequence[Row]) -> Tensor:
    """Returns [B, n] the oracle's P that a response beats the reference beside it, NaN if unread; see `win_rate`."""
    n = len(responses[0])
    ask = torch.eye(n, dtype=torch.bool).expand(len(prompts), n, n)
    left, right = ([[completion.text for completion in row] for row in rows] for rows in (responses, references))
    prob = payoff(oracle, prompts, left, right, ask, partial=True).diagonal(dim1=1, dim2=2)
    if prob.isnan().all():
        raise Unanswered(f"none of the {prob.numel()} answers about held-out pairs could be read: no win rate")
    return prob


def mean_win_rate(prob: Tensor, partial: bool) -> WinRate:
    """Averages verdicts [B, n], NaN if unread, by prompt and then over prompts; `partial`: report the unread share."""
    rates = prob.nanmean(1)
    unread = prob.isnan().double().mean().item() if partial else None
    return replace(over_prompts(rates[~rates.isnan()]), unread=unread)


def distribution(policy: Policy, task: Task, prompts: Sequence[str]) -> Tensor:
    """Returns [B, N] float64 the probability of every response of a finite task; float32 is made to sum to 1."""
    probs = policy.distribution(prompts, task.responses or ())
    return probs / probs.sum(-1, keepdim=True)


def sampled_kl(policy: Policy, start: Policy, prompts: Sequence[str], responses: Sequence[Row]) -> float:
    """Returns the mean of log pi - log start over samples [B][n] of pi, an estimate of KL(pi, start) in nats."""
    with torch.no_grad():
        return (policy.logprob(prompts, responses) - start.logprob(prompts, responses)).mean().item()


def choose(prompts: Sequence[str], count: int) -> list[str]:
    """Returns `count` of the prompts at most: a fixed random choice, in their order, the same in every run."""
    uniforms = Key(hash_seed("held-out"), 0, Stream.EVALUATION).uniform(k=np.arange(len(prompts)))
    chosen = set(np.argsort(uniforms)[:count].tolist())
    return [prompt for i, prompt in enumerate(prompts) if i in chosen]


def require_affordable(prompts: Sequence[str], responses: Sequence[str], flag: str, otherwise: str = "") -> None:
    """Raises where the payoffs of all pairs would not fit into memory.

    Args:
        prompts: B prompts.
        responses: N responses.
        flag: what sets the number of prompts.
        otherwise: another way out.
    """
    count = len(prompts) * len(responses) ** 2
    if count > LARGEST:
        most = LARGEST // len(responses) ** 2
        way = f"pass {flag} {most}{otherwise}" if most else f"take shorter or fewer responses{otherwise}"
        raise ValueError(
            f"{len(prompts)} prompts of {len(responses)} responses each are {count} payoffs, more than {LARGEST}; {way}"
        )


def exact_measures(
    probs: Tensor, matrices: Tensor, reference: Tensor, tau: float, nash: Tensor | None
) -> dict[str, Tensor]:
    """Returns what a policy of a finite task is worth, [B] by name.

    Args:
        probs: [B, N] the policy's probabilities.
        matrices: [B, N, N] the payoff of every prompt.
        reference: [B, N] the opponent of the win rate and the reference of the regularised game.
        tau: KL coefficient of the regularised game.
        nash: [B, N] its equilibrium; None leaves out what is measured in it.
    """
    measures = {
        "win_rate": torch.einsum("bn,bnm,bm->b", probs, matrices, reference),
        "exploitability": exploitability(matrices, probs),
    }
    if nash is not None:
        measures["regularised_exploitability"] = regularised_exploitability(matrices, probs, reference, tau)
        measures["kl_to_nash"] = kl_divergence(probs, nash)
    return measures


class Evaluation:
    """Measures policies against one reference, with the same prompts and random numbers each time.

    On a finite task everything is computed from the whole distribution; elsewhere from draws.

    Args:
        task: its held-out prompts are used.
        oracle: who judges.
        reference: the policy that is played against, usually the start.
        prompts: how many held-out prompts at most.
        pairs: draws of each policy for each prompt.
        seed: names the draws.
        tau: KL coefficient of the regularised game that finite tasks are measured by; its reference is `reference`.

    Attributes:
        pool: responses of the reference per prompt among which `pool_bound` chooses; 0: it is not measured.
        measured: the `pool_bound` of the policy that was evaluated last; None: not measured.
        drawn: [B][n] samples of that policy; None on a finite task, or if none was evaluated.
    """

    def __init__(
        self, task: Task, oracle: Oracle, reference: Policy, prompts: int, pairs: int, seed: int, tau: float
    ) -> None:
        self.task, self.oracle, self.reference, self.pairs, self.tau = task, oracle, reference, pairs, tau
        self.pool = 0
        self.measured: PoolBound | None = None
        self.drawn: list[list[Completion]] | None = None
        self.prompts = choose(task.held_out, prompts)
        self.key = Key(seed, 0, Stream.EVALUATION)
        self.finite = task.responses is not None

    def scalars(self, policy: Policy, average: Policy | None = None) -> dict[str, float]:
        """Returns win rates and, on finite tasks, how far the policy and the average one are from equilibrium."""
        if self.finite:
            found = self.by_prompt(policy, average)
            won = over_prompts(found.pop("eval/win_rate_vs_ref"))
            return won.scalars() | {tag: values.mean().item() for tag, values in found.items()}
        self.drawn = drawn = self.draw(policy)
        scalars = self._beats(drawn).scalars()
        self.measured = self.pool_bound(drawn)
        if self.measured is not None:
            found = self.measured.bound
            ends = {"": found.value, "_low": found.low, "_high": found.high}
            scalars |= {f"eval/exploitability_lower{end}": value for end, value in ends.items()}
        if average is not None:
            scalars["eval/win_rate_average"] = self._beats(self.draw(average)).mean
        return scalars

    def by_prompt(self, policy: Policy, average: Policy | None = None) -> dict[str, Tensor]:
        """Returns what `scalars` averages on a finite task, [B] by tag."""
        found = {}
        for end, one in {"": policy, "_average": average}.items():
            if one is None:
                continue
            probs = distribution(one, self.task, self.prompts)
            measures = exact_measures(probs, self.matrices, self.reference_probs, self.tau, self.nash)
            found["eval/win_rate" + (end or "_vs_ref")] = measures.pop("win_rate")
            found |= {_TAGS[name] + end: values for name, values in measures.items()}
        return found

    def _beats(self, drawn: Sequence[Row]) -> WinRate:
        """Returns the win rate of a policy's samples against the reference's."""
        return win_rate(self.oracle, self.prompts, drawn, self.references)

    def pool_bound(self, drawn: Sequence[Row]) -> PoolBound | None:
        """Returns what the best of `pool` responses of the reference gains against a policy; None if not measured.

        The response to a prompt is chosen by the policy's first sample and measured on the others, so that the choice
        adds nothing (`envs.games.lower_bounds`). A prompt with an unread pair among these is left out.

        Args:
            drawn: [B][n] samples of the policy for the held-out prompts.
        """
        prompts = self.prompts[:POOL_PROMPTS]
        if not self.pool or self.finite or len(prompts) < 2 or self.pairs < 2:
            return None
        texts = [[completion.text for completion in row] for row in drawn[: len(prompts)]]
        wins = payoff(self.oracle, prompts, self._pools, [row[:1] for row in texts], partial=True)  # [b, pool, 1]
        best = wins[:, :, 0].nan_to_num(nan=-1.0).argmax(1).tolist()
        chosen = [row[i] for row, i in zip(self._pools, best, strict=True)]
        rest = [row[1:] for row in texts]
        against = payoff(self.oracle, prompts, [[better] for better in chosen], rest, partial=True)[:, 0].double()
        read = (~against.isnan().any(1)).nonzero()[:, 0].tolist()  # of b prompts
        if len(read) < 2:
            return None
        gains = against[read] - 0.5  # [b, n - 1]
        prompts, chosen, rest = ([column[b] for b in read] for column in (prompts, chosen, rest))
        b = int(gains.mean(1).argmax())
        response = rest[b][int(gains[b].argmax())]
        example = Example(prompts[b], response, chosen[b], gains[b].mean().item() + 0.5)
        return PoolBound(bound(gains), len(prompts), example)

    def distributions(self, policy: Policy, average: Policy | None = None) -> list[dict[str, Any]]:
        """Returns each prompt of a small finite task with the distributions of both policies, as JSON values."""
        if not self.finite or len(self.task.response_texts) > SMALL:
            return []
        listed = {"policy": policy, **({} if average is None else {"average": average})}
        found = {name: distribution(one, self.task, self.prompts).tolist() for name, one in listed.items()}
        return [{"prompt": x, **{name: rows[b] for name, rows in found.items()}} for b, x in enumerate(self.prompts)]

    def questions(self, evaluations: int, policies: int = 1) -> int:
        """Returns the pairs that so many evaluations of so many policies ask the oracle about, at most."""
        if self.finite:
            count = len(self.task.response_texts)
            return len(self.prompts) * count * (count - 1) // 2 if evaluations else 0
        pooled = min(POOL_PROMPTS, len(self.prompts)) * (self.pool + self.pairs - 1) if self.pool else 0
        return evaluations * (policies * len(self.prompts) * self.pairs + pooled)

    def draw(self, policy: Policy) -> list[list[Completion]]:
        """Returns the policy's draws for the held-out prompts, the same for the same policy."""
        with torch.no_grad():
            return policy.draw(self.prompts, self.pairs, self.key)[0]

    @cached_property
    def references(self) -> list[list[Completion]]:
        """Draws of the reference, independent of those of `draw`."""
        with torch.no_grad():
            return self.reference.draw(self.prompts, self.pairs, self.key.at(1))[0]

    @cached_property
    def _pools(self) -> list[list[str]]:
        """[b][pool] responses of the reference, independent of `references`."""
        with torch.no_grad():
            drawn = self.reference.draw(self.prompts[:POOL_PROMPTS], self.pool, self.key.at(2))[0]
        return [[completion.text for completion in row] for row in drawn]

    @cached_property
    def reference_probs(self) -> Tensor:
        """[B, N] the reference's probability of every response of a finite task."""
        return distribution(self.reference, self.task, self.prompts)

    @cached_property
    def nash(self) -> Tensor | None:
        """[B, N] the equilibrium of the regularised game; None where the reference never gives some response."""
        if not (self.reference_probs > 0).all():
            return None
        return regularised_nash(self.matrices, self.reference_probs, self.tau).policy

    @cached_property
    def matrices(self) -> Tensor:
        """[B, N, N] the payoff of every held-out prompt."""
        texts = self.task.response_texts
        require_affordable(self.prompts, texts, "--run.eval_prompts", " or --run.eval_every 0")
        return payoff_matrix(self.oracle, self.prompts, texts)
