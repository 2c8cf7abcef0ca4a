"""The training loop: reset, propose, play, update, and what is saved and measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from preference_duel import distributed
from preference_duel.keyed_random import hash_seed
from preference_duel.protocols import StagedAgent, forget, traits
from preference_duel.types import Arriving, Duel, Proposal, Unanswered
from runners.run.build import Experiment
from runners.run.checkpoint import Checkpoint, load
from runners.run.config import RunConfig
from runners.run.progress import Progress
from runners.run.ranks import NullRecord
from runners.run.record import Record
from runners.run.signals import Interrupt


@dataclass(frozen=True)
class Step:
    """One pass through the loop that was made.

    Attributes:
        number: of the step, from 1 on.
        scalars: by tag.
        duel: what was played.
        evaluate: whether the run is measured after it.
    """

    number: int
    scalars: dict[str, float]
    duel: Duel
    evaluate: bool


def play(experiment: Experiment, run: RunConfig, record: Record | NullRecord, interrupt: Interrupt) -> int:
    """Plays from the last checkpoint to the last step or query, or to the end of the step in which it was interrupted.

    Returns:
        The last step; its checkpoint is written.
    """
    done = _restore(experiment, record)
    with Progress(done, run.steps) as progress:
        if record.saved is None and (run.eval_every or run.eval_queries):
            progress.evaluated(0, _evaluate(experiment, record, 0))
        made = steps(experiment, run, done, stopped=lambda: interrupt.signal is not None)
        for step in _saved_if_unanswered(made, experiment, record, done):
            done = step.number
            record.log(done, step.scalars)
            progress.stepped(done, step.scalars)
            if _due(done, run.duel_every):
                record.duels(done, step.duel, run.duel_prompts)
            if step.evaluate:
                progress.evaluated(done, _evaluate(experiment, record, done))
            if _due(done, run.save_every):
                _save(experiment, record, done)
            interrupt.agree()
        if record.saved is None or record.saved < done:
            _save(experiment, record, done)
        record.settle()
    return done


def steps(
    experiment: Experiment,
    run: RunConfig,
    done: int = 0,
    replicas: int = 1,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Yields every step of a run once it is made; what is logged, measured and saved is up to the caller.

    Args:
        experiment: parts of the run.
        run: how long, and how often it is measured.
        done: steps that were made before.
        replicas: R independent replicas, whose queries the arena counts together.
        stopped: asked before each step, whether to make no more.

    Raises:
        Unanswered: if the oracle could not be asked; agent and arena are as they were before that step.
    """
    asked = (experiment.arena.queries or 0) // replicas
    while not over(run, done, asked) and not stopped():
        arena, before = experiment.arena.state_dict(), asked
        try:
            scalars, duel = one_step(experiment, hash_seed(run.seed, "step", done + 1))
        except Unanswered:
            experiment.arena.load_state_dict(arena)  # the agent has learned nothing of this step
            raise
        done += 1
        asked = (experiment.arena.queries or 0) // replicas
        yield Step(done, scalars, duel, evaluation_due(run, done, before, asked))


def _saved_if_unanswered(
    made: Iterator[Step], experiment: Experiment, record: Record | NullRecord, done: int
) -> Iterator[Step]:
    """Yields the steps; where the oracle stops answering, the last whole one is saved before that ends the run."""
    try:
        for step in made:
            done = step.number
            yield step
    except Unanswered:
        if record.saved != done and distributed.count() == 1:
            _save(experiment, record, done)
        raise


def one_step(experiment: Experiment, seed: int) -> tuple[dict[str, float], Duel]:
    """Makes one pass through the loop: reset, propose, play, update.

    Args:
        experiment: parts of the run.
        seed: of torch's global generator, which nothing of ours reads; layers of other people (dropout) may.

    Returns:
        The step's scalars by tag, and the duel.
    """
    _reseed(seed)
    forget(experiment.oracle)
    agent, arena = experiment.agent, experiment.arena
    if arena.opens_stage:
        assert isinstance(agent, StagedAgent)  # others are not given several files
        agent.begin_stage()
    prompts = arena.reset()
    start = time.perf_counter()
    proposal = None if arena.offline else agent.propose(prompts)
    sampled, waited = time.perf_counter(), _waited(proposal)
    duel = arena.play(proposal)
    asked, waited = time.perf_counter(), _waited(proposal) - waited  # sampling that went on
    scalars = agent.update(duel) if duel.prompts else {}  # all unread: nothing to learn from
    updated = time.perf_counter()
    sample, oracle = sampled - start + waited, asked - sampled - waited
    times = {"time/sample_s": sample, "time/oracle_s": oracle, "time/update_s": updated - asked}
    seen = describe(duel, own=traits(agent).own_draws, given=arena.offline)
    return {**scalars, **seen, **queries(experiment), **times}, duel


def _waited(proposal: Proposal | None) -> float:
    """Returns the seconds in which responses were waited for after they were proposed."""
    return proposal.left.seconds if proposal is not None and isinstance(proposal.left, Arriving) else 0.0


def _reseed(seed: int) -> None:
    """Does what torch.manual_seed does, which formats three stacks for devices that are not there."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def describe(duel: Duel, own: bool = True, given: bool = False) -> dict[str, float]:
    """Returns what the duel alone says: spread and mean of the verdicts that were asked, tokens per response.

    Args:
        duel: what was played.
        own: whether the left seat's responses are draws of the policy that learns.
        given: whether both seats' responses are those of a file, so that nothing of it is about the policy.
    """
    scalars = {}
    prefix = "data" if given else "duel"
    prob = duel.prob[duel.asked].double()
    if len(prob):
        scalars[f"{prefix}/prob_std"] = prob.std(correction=0).item()
        scalars[f"{prefix}/advantage"] = (prob - 0.5).mean().item()
    seats = (duel.left, duel.right) if given else (duel.left,)
    lengths = [len(response.tokens) for seat in seats for row in seat for response in row if response.tokens]
    if lengths:
        scalars["policy/length" if own and not given else f"{prefix}/length"] = sum(lengths) / len(lengths)
    return scalars


def queries(experiment: Experiment) -> dict[str, float]:
    """Returns the queries so far, and the share of the pairs whose answers could not be read.

    Nothing of queries where whole distributions are played, about which no oracle could be asked, nor of a share if all
    are read.
    """
    counted = {"duel/queries": experiment.arena.queries, "duel/unread": experiment.arena.unread_share}
    return {tag: value for tag, value in counted.items() if value is not None}


def _restore(experiment: Experiment, record: Record | NullRecord) -> int:
    """Loads the last checkpoint; returns how many steps are done."""
    saved = load(record.directory, sharded=experiment.agent.policy.sharded)
    if saved is None:
        return 0
    experiment.agent.load_state_dict(saved.agent)
    experiment.arena.load_state_dict(saved.arena)
    return saved.step


def _save(experiment: Experiment, record: Record | NullRecord, step: int) -> None:
    state = Checkpoint(step, experiment.agent.state_dict(), experiment.arena.state_dict())
    record.save(state, experiment.agent.policy)
    distributed.agreed(step)  # which is on the disk by now, but for its shards


def _evaluate(experiment: Experiment, record: Record | NullRecord, step: int) -> dict[str, float]:
    forget(experiment.oracle)
    scalars = experiment.evaluation.scalars(experiment.agent.policy, experiment.agent.average)
    record.log(step, scalars)
    record.distributions(step, experiment.evaluation.distributions(experiment.agent.policy, experiment.agent.average))
    return scalars


def over(run: RunConfig, done: int, queries: int) -> bool:
    """Returns whether a run has made all steps, or asked all queries."""
    return done >= run.steps or (run.queries is not None and queries >= run.queries)


def evaluation_due(run: RunConfig, done: int, before: int, queries: int) -> bool:
    """Returns whether a run is measured after a step, before which it had asked so many queries."""
    if run.eval_queries:
        return over(run, done, queries) or queries // run.eval_queries > before // run.eval_queries
    return _due(done, run.eval_every) or (run.eval_every > 0 and over(run, done, queries))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
