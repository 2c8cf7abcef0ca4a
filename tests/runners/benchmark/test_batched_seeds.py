"""Several replicas in one batch learn what each learns alone."""

import numpy as np
import pytest
import torch

from agents.policies.replicas import NotBatchableError
from agents.registry import AGENTS
from preference_duel import distributed
from preference_duel.keyed_random import Key, ReplicaSeeds, Stream
from runners.benchmark.batched_seeds import batch_seeds
from runners.run.build import build_experiment
from runners.run.cli import parse
from tests.conftest import with_a_fast_few

GAME = "--task symbols --task.length 2 --task.prompts 2 --oracle cyclic --oracle.lam 0.5 --policy tabular"
SELF_PLAY = "sppo", "dpo", "ipo", "xpo", "spo", "rlhf", "grpo", "rloo"
NASH = "inpo", "egpo", "comal", "nash_md", "nash_ema", "mnpo"
BATCHABLE = *SELF_PLAY, *NASH
PAIRS = "rdpo", "dpop", "f_dpo", "gpo", "discopop", "nca", "bco", "apo", "slic", "cpo", "simpo", "orpo", "tdpo"
"""Losses of dpo's agent: a few steps of each are enough."""
SINGLES = "kto", "dro", "bco_unpaired", "kimi", "npo", "d2o", "spin", "sft", "ppo_ptx", "cringe"
LISTS = "plackett_luce", "lipo", "pro", "rrhf", "dno", "rebel", "gpm_po", "pairwise_cringe"


def settings(agent, seed, *more):
    line = f"--agent {agent} {GAME} --policy.spread 1 --policy.start {seed + 1} --oracle.seed {seed} --run.seed {seed}"
    return parse([*line.split(), "--run.batch_size", "3", "--run.eval_tau", "0.1", *more]).settings


def play(experiment, steps):
    for _ in range(steps):
        experiment.agent.update(experiment.arena.play(experiment.agent.propose(experiment.arena.reset())))
    return experiment.evaluation.by_prompt(experiment.agent.policy, experiment.agent.average)


def require_same(agent, *more, steps=40):
    replicas = [settings(agent, seed, *more) for seed in (0, 3, 4)]
    together = batch_seeds(replicas)
    measures = play(together, steps)
    for r, one in enumerate(replicas):
        alone = build_experiment(one, "cpu")
        for tag, wanted in play(alone, steps).items():
            torch.testing.assert_close(measures[tag][2 * r : 2 * r + 2], wanted, rtol=1e-6, atol=0)
        assert together.arena.queries == 3 * alone.arena.queries


@pytest.mark.parametrize("agent", BATCHABLE)
def test_a_replica_in_a_batch_is_the_run_it_would_be_alone(agent):
    require_same(agent)


@pytest.mark.parametrize("agent", with_a_fast_few([*PAIRS, *SINGLES, *LISTS], 4))
def test_a_few_steps_of_every_other_agent_too(agent):
    require_same(agent, steps=4)


def test_values_take_the_steps_of_their_replicas_own_loss():
    require_same("dro", "--agent.value.method", "sgd", "--agent.value.learning_rate", "1", steps=4)


@pytest.mark.parametrize(
    "more",
    [
        ["--run.batch_size", "None", "--run.votes", "3"],
        ["--run.feedback", "probability"],
        ["--agent.optimiser.max_grad_norm", "0.01", "--agent.optimiser.method", "sgd"],
        ["--agent.optimiser.max_grad_norm", "None", "--agent.optimiser.method", "adamw"],
    ],
    ids=["every prompt", "probabilities", "clipped", "never clipped"],
)
def test_whatever_the_arena_and_the_optimiser(more):
    require_same("sppo", *more)


def test_whole_distributions_are_played_together_too():
    replicas = [settings("inpo", seed, "--policy.exact", "--run.feedback", "probability") for seed in (0, 1)]
    measures = play(batch_seeds(replicas), 30)
    for r, one in enumerate(replicas):
        wanted = play(build_experiment(one, "cpu"), 30)["game/regularised_exploitability"]
        torch.testing.assert_close(measures["game/regularised_exploitability"][2 * r : 2 * r + 2], wanted)


@pytest.mark.parametrize(
    ("agent", "more", "message"),
    [
        ("oelhf", [], "batchable"),
        ("dpo", ["--agent.pairs", "best_worst"], "batchable"),
        ("sppo", ["--agent.optimiser.method", "lbfgs"], "batchable"),
        ("beta_dpo", [], "batchable"),
        ("spo", ["--agent.gradient.form", "ppo", "--agent.gradient.baseline", "value"], "batchable"),
        ("sppo", ["--run.eval_prompts", "1"], "not all that are learned from"),
    ],
)
def test_what_would_learn_differently_in_a_batch_says_so(agent, more, message):
    with pytest.raises(NotBatchableError, match=message):
        batch_seeds([settings(agent, 0, *more), settings(agent, 1, *more)])


def test_every_agent_of_ours_was_tried():
    ours = {name for name, where in AGENTS.items() if "sb3" not in where}
    mixing = {"dcppo", "oelhf", "pelhf", "psro", "beta_dpo"}
    assert ours - {*BATCHABLE, *PAIRS, *SINGLES, *LISTS} == mixing
    assert distributed.count() == 1


def test_the_numbers_of_a_replica_are_those_of_its_seed():
    replicas = ReplicaSeeds(np.array([5, 9], dtype=np.uint64), 3)
    together = Key(replicas, 7, Stream.TOKEN).uniform(k=np.arange(4), l=np.arange(6)[:, None])
    for w, seed in enumerate((5, 9)):
        alone = Key(seed, 7, Stream.TOKEN).uniform(k=np.arange(4), l=np.arange(3)[:, None])
        np.testing.assert_array_equal(together[3 * w : 3 * w + 3], alone)
    assert replicas.each().tolist() == [5, 5, 5, 9, 9, 9]
