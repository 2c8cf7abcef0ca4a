"""Adversaries of a frozen policy: a pool of responses, best of n samples of the start, and a trained best response."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular_config import TabularConfig
from agents.spo import SPOConfig
from envs.games import kl_divergence, payoff_matrix
from envs.games.lower_bounds import Bound, best_of_n, best_of_n_kl, best_of_pool, bound
from envs.tasks.task import Task
from oracles import Oracle, payoff
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from runners.evaluation.entrants import sampled, texts_of
from runners.run import loop
from runners.run.build import Experiment, build_experiment, load_experiment
from runners.run.checkpoint import steps
from runners.run.cli import Command
from runners.run.config import RunConfig, Settings, sampling
from runners.run.config_file import is_run
from runners.run.evaluator import Example, distribution, require_affordable, sampled_kl
from runners.run.session import run as run_command

NUMBERS = 1, 4, 16, 64
"""Sizes of best-of-n; the largest is the number of samples of the start."""

SAMPLES = 16
"""Samples of an adversary of a table per prompt, each against one of the policy's. Those of a language model cost more
than the oracle's questions: its 4 samples meet 4 of the policy's each."""
RISE = 12.0
"""Nats by which a table's logits can rise in its training; of 64 to 4096 equal ones each lacks 4 to 8 at first."""


@dataclass(frozen=True)
class Finding:
    """Result of one adversary.

    Attributes:
        name: pool, best of N, or trained.
        bound: lower bound of the exploitability.
        queries: pairs that the oracle was asked about, training included.
        unread: share of its pairs with the policy's samples that the oracle left unread, on which nothing rests.
        kl: nats from the start, at most; None if unknown.
        examples: prompts with the largest gains.
    """

    name: str
    bound: Bound
    queries: int
    kl: float | None = None
    examples: tuple[Example, ...] = ()
    unread: float = 0.0


class Samples:
    """Samples of the policy under test for some prompts, and what other responses win against them.

    Args:
        oracle: the judge.
        policy: the policy under test.
        task: its task.
        prompts: B prompts.
        count: N samples for each of them.
        key: of the samples.
    """

    def __init__(
        self, oracle: Oracle, policy: Policy, task: Task, prompts: Sequence[str], count: int, key: Key
    ) -> None:
        self.oracle, self.policy, self.task, self.prompts = oracle, policy, task, list(prompts)
        self.texts = texts_of(sampled(policy, prompts, count, key))

    @cached_property
    def matrices(self) -> Tensor:
        """[B, N, N] the payoff of every prompt of a finite task."""
        require_affordable(self.prompts, self.task.response_texts, "--prompts")
        return payoff_matrix(self.oracle, self.prompts, self.task.response_texts)

    @cached_property
    def probs(self) -> Tensor:
        """[B, N] the policy's distribution on a finite task."""
        return distribution(self.policy, self.task, self.prompts)

    def wins(self, responses: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, M, N] float64 P(response m beats sample n of the policy | prompt), NaN if unread."""
        return payoff(self.oracle, self.prompts, responses, self.texts, partial=True).double()

    def examples(self, responses: Sequence[list[str]], wins: Tensor, count: int) -> tuple[Example, ...]:
        """Returns the prompts where some response wins most, each with that response and a sample that it beats."""
        means = wins.nanmean(2).nan_to_num(nan=0.0)
        best = means.argmax(1)
        found = []
        for b in means.amax(1).argsort(descending=True)[:count].tolist():
            m = int(best[b])
            loser = int(wins[b, m].nan_to_num(nan=-1.0).argmax())
            found.append(Example(self.prompts[b], self.texts[b][loser], responses[b][m], float(means[b, m])))
        return tuple(found)


def pooled(samples: Samples, pool: Sequence[list[str]], examples: int = 3) -> Finding:
    """Returns what the best response of a pool of M for each prompt gains; see `best_of_pool`."""
    wins = samples.wins(pool)
    shown = samples.examples(pool, wins, examples)
    return Finding("pool", bound(best_of_pool(wins), halves=True), wins.numel(), examples=shown, unread=_unread(wins))


def best_of(samples: Samples, start: Sequence[Sequence[str]], fixed_prompts: bool) -> list[Finding]:
    """Returns what the best of n samples of the start gains, for each of `NUMBERS`; see `bound` for `fixed_prompts`."""
    wins = samples.wins(start)
    queries = wins.shape[0] * wins.shape[2]
    return [
        Finding(
            f"best of {n}",
            bound(best_of_n(wins, n), fixed_prompts, halves=True),
            queries * n,
            best_of_n_kl(n),
            unread=_unread(wins),
        )
        for n in NUMBERS
        if n <= wins.shape[1]
    ]


def _unread(wins: Tensor) -> float:
    return wins.isnan().double().mean().item()


@dataclass(frozen=True)
class Training:
    """Training of an adversary.

    Attributes:
        queries: oracle queries of its training.
        tau: KL coefficient that holds it at the start; 0: none.
        learning_rate: of its policy; None: the policy's own, of a table `RISE` over the number of steps.
        device: where networks run.
    """

    queries: int
    tau: float
    learning_rate: float | None
    device: str


def default_queries(settings: Settings) -> int:
    """Returns the queries of a training that end within seconds for a table and in about a minute for a small model."""
    return 100_000 if isinstance(settings.configs["policy"], TabularConfig) else 20_000


def best_response(settings: Settings, training: Training) -> Settings:
    """Returns the settings of the run that trains an adversary, without its opponent and directory.

    It learns from probabilities, as the other adversaries choose by them: an outcome would tell less of the judge that
    is asked.

    Args:
        settings: of the run that trained the policy under test.
        training: how.
    """
    batch = settings.run.batch_size or RunConfig.batch_size or 32
    listed = isinstance(settings.configs["policy"], TabularConfig)
    responses, pairs = (SAMPLES, "own") if listed else (SPOConfig.responses, "all")
    each = responses if pairs == "own" else responses**2
    count = max(1, -(-training.queries // (batch * each)))
    rate = RISE / count if listed and training.learning_rate is None else training.learning_rate
    optimiser = OptimiserConfig(learning_rate=rate)
    agent = SPOConfig(tau=training.tau, responses=responses, pairs=pairs, average=False, optimiser=optimiser)
    run = RunConfig(
        steps=count,
        batch_size=batch,
        feedback="probability",
        seed=settings.run.seed,
        device="cuda" if training.device == "cuda" else "cpu",
        eval_every=0,
    )
    configs = {**settings.configs, "agent": agent}
    return sampling(dataclasses.replace(settings, names={**settings.names, "agent": "spo"}, configs=configs, run=run))


def trained(
    samples: Samples, settings: Settings, opponent: Path, directory: Path, training: Training, key: Key
) -> Finding:
    """Trains the start against the frozen policy alone, as a run of its own, and returns what it gains.

    The run is `runners.duel --agent spo --run.opponent`; a finished one is not repeated, an interrupted one goes on.

    Args:
        samples: of the policy under test.
        settings: of the run that trained it.
        opponent: its directory.
        directory: of the adversary's run, written there with its log beside it.
        training: how.
        key: of the adversary's samples.
    """
    adversary = best_response(settings, training)
    run = dataclasses.replace(adversary.run, opponent=str(opponent), dir=str(directory))
    adversary = dataclasses.replace(adversary, run=run)
    _finish(adversary, directory)
    experiment, saved = load_experiment(directory, adversary, training.device)
    return gained(samples, experiment, int(saved.arena["queries"]), key)


def trained_in_memory(adversary: Settings, policy: Policy, device: str) -> Experiment:
    """Trains an adversary against a policy as `trained` does, without a run directory; returns its last state.

    Args:
        adversary: settings, see `best_response`.
        policy: under test, which must sample if the adversary does.
        device: of networks.
    """
    experiment = build_experiment(adversary, device)
    experiment.agent.fixed_opponent = policy  # pyright: ignore[reportAttributeAccessIssue] - of SPO
    for _ in loop.steps(experiment, adversary.run):
        pass
    return experiment


def gained(samples: Samples, experiment: Experiment, asked: int, key: Key) -> Finding:
    """Returns what a trained adversary gains: on a finite task its whole distribution, elsewhere samples.

    Args:
        samples: of the policy under test.
        experiment: the adversary's, at its end.
        asked: queries of its training.
        key: of the adversary's samples.
    """
    policy, task, prompts = experiment.agent.policy, experiment.task, samples.prompts
    if task.responses is not None:
        probs, start = (distribution(one, task, prompts) for one in (policy, experiment.reference))
        gain = max(0.0, torch.einsum("bm,bmn,bn->b", probs, samples.matrices, samples.probs).mean().item() - 0.5)
        return Finding("trained", Bound(gain, gain, gain), asked, kl_divergence(probs, start).mean().item())
    responses = sampled(policy, prompts, len(samples.texts[0]), key)
    wins = samples.wins(texts_of(responses))
    examples = samples.examples(texts_of(responses), wins, 3)
    kl = sampled_kl(policy, experiment.reference, prompts, responses)
    return Finding("trained", bound(wins.nanmean(1) - 0.5), asked + wins.numel(), kl, examples, _unread(wins))


def _finish(settings: Settings, directory: Path) -> None:
    """Makes a run, or what is left of it; its log goes into its directory."""
    made = steps(directory) if directory.exists() else []
    if made and made[-1] >= settings.run.steps:
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.with_name(f"{directory.name}.log").open("a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log):
        code = run_command(Command(settings, ("--run.dir", str(directory)), directory if is_run(directory) else None))
    if code:
        raise KeyboardInterrupt
