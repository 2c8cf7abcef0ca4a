"""Losses of every kind with adapters, recomputed layers and in several processes: one process without them."""

import functools
import itertools

import pytest
import torch

import agents
from agents.policies.lm_config import LoRAConfig
from envs import DuelArena
from oracles import make
from preference_duel import distributed
from preference_duel.types import Completion
from runners.run import checkpoint
from tests.process_group import joined
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model

AGENTS = ("sppo", "dpo", "grpo", "kto", "plackett_luce")
"""A square of each score, a loss of pairs, a policy gradient, a loss of single responses, one of lists."""
OTHERS = ("egpo", "nash_md", "rlhf")
"""Two updates in one, samples of a geometric mixture, a reward model: compared with ddp alone."""
PLAIN = agents.OptimiserConfig(method="sgd", learning_rate=0.05, warmup=0)
"""Nothing divides a gradient, so that rounding stays as small as it is."""
RANK = 3
"""Of adapters; two processes can't share it equally."""
VARIANTS = [
    variant for variant in itertools.product((0, RANK), (False, True), (None, "ddp", "fsdp")) if any(variant[1:])
]
"""Rank of adapters, recomputed layers, and how processes share the work, of all but one process without them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def learned(folder, name, rank, recompute=False, parallel=None):
    """Losses and gradients' norms of two updates, and what they made of the policy: weights, and log-probabilities."""
    policy = policy_of(folder, lora=LoRAConfig(rank=rank), checkpointing=recompute, micro_tokens=60)
    if parallel == "fsdp":
        policy.shard()
    agent, task = agents.make(name, policy=policy, seed=1, optimiser=PLAIN), text_task(folder)
    arena = DuelArena(task, make("bt", prompts=task.all_prompts), len(PROMPTS))
    scalars = [agent.update(arena.play(agent.propose(arena.reset()))) for _ in range(2)]
    with torch.no_grad():
        logprob = policy.logprob(PROMPTS, [[Completion("ab"), Completion("c#0")]] * len(PROMPTS))
    norms = torch.tensor([[one["loss/policy"], one["loss/grad_norm"]] for one in scalars])
    weights = {name: tensor.detach().clone() for name, tensor in policy.weights()}  # adapters merged
    if parallel != "fsdp":
        checkpoint.pack(agent.state_dict(), weights, "agent")  # copies, averages, models, moments
    return weights | {"losses and norms": norms, "log-probabilities": logprob}


@functools.cache
def learned_alone(folder, name, rank):
    return learned(folder, name, rank)


def require_same(expected, folder, *variant):
    """Compares what is learned in this way, in each process, with what was expected of each agent."""
    with distributed.together("cpu"):
        for name, alone in expected.items():
            found = learned(folder, name, *variant)
            assert found.keys() <= alone.keys()
            assert {key for key in found if not torch.allclose(found[key], alone[key], rtol=0, atol=1e-5)} == set(), (
                name
            )


def test_sharded_parameters_learn_the_same(folder):
    assert joined(2, require_same, {"sppo": learned_alone(folder, "sppo", 0)}, folder, 0, False, "fsdp") == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "recompute", "parallel"), VARIANTS)
def test_the_update_is_that_of_one_process(rank, recompute, parallel, folder):
    names = AGENTS[:1] if recompute and parallel else AGENTS + OTHERS * (parallel == "ddp" and not rank)
    expected = {name: learned_alone(folder, name, rank) for name in names}
    if parallel is None:
        require_same(expected, folder, rank, recompute)
    else:
        assert joined(2, require_same, expected, folder, rank, recompute, parallel) == [0, 0]


@pytest.mark.slow
def test_what_is_compared_has_learned(folder):
    start = dict(policy_of(folder).weights())
    for name, rank in (*itertools.product(AGENTS, (0, RANK)), *itertools.product(OTHERS, (0,))):
        end = learned_alone(folder, name, rank)
        assert max(float((end[key] - tensor).abs().max()) for key, tensor in start.items()) > 3e-4
