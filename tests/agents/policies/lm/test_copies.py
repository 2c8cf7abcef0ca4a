"""Frozen copies of a language model: the same bits from less memory."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents import make
from agents.policies.lm_config import LoRAConfig
from envs import DuelArena
from oracles import make as make_oracle
from preference_duel.keyed_random import Key
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model


def bfloat16_policy(folder, **fields):
    write_model(folder, tie_word_embeddings=False)
    return policy_of(folder, text_task(folder, limit=8, least=8), compute="bfloat16", **fields)


def memory_of(policy):
    return [parameter.data_ptr() for parameter in policy.parameters()]


def test_a_snapshot_keeps_matrices_in_bfloat16_and_gives_the_same_bits(tmp_path):
    policy = bfloat16_policy(tmp_path)
    twin = policy.snapshot()
    kinds = {name: p.dtype for name, p in twin.model.named_parameters()}
    short = {name for name, dtype in kinds.items() if dtype == torch.bfloat16}
    assert short == {name for name in kinds if "_proj" in name or "lm_head" in name}
    drawn, _ = policy.draw(PROMPTS, 4, Key(0))
    assert twin.draw(PROMPTS, 4, Key(0))[0] == drawn
    with torch.no_grad():
        assert torch.equal(twin.logprob(PROMPTS, drawn), policy.logprob(PROMPTS, drawn))


def test_a_matrix_that_is_an_embedding_too_is_not_rounded(tmp_path):
    write_model(tmp_path, tie_word_embeddings=True)
    twin = policy_of(tmp_path, compute="bfloat16").snapshot()
    assert twin.model.get_output_embeddings().weight.dtype == torch.float32


def test_snapshots_share_memory_until_one_is_replaced(tmp_path):
    policy = policy_of(write_model(tmp_path))
    start, opponent = policy.snapshot(), policy.snapshot()
    assert memory_of(start) == memory_of(opponent)
    assert not set(memory_of(start)) & set(memory_of(policy))
    before = [parameter.clone() for parameter in start.parameters()]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)
    opponent.load_state_dict(policy.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(opponent.parameters(), policy.parameters(), strict=True))
    assert not set(memory_of(policy.snapshot())) & set(memory_of(start))


def test_a_copy_that_loads_what_it_holds_goes_on_sharing(tmp_path):
    policy = bfloat16_policy(tmp_path)
    start, opponent = policy.snapshot(), policy.snapshot()
    opponent.load_state_dict({name: tensor.clone() for name, tensor in policy.state_dict().items()})
    assert memory_of(start) == memory_of(opponent)


@pytest.mark.parametrize("name", ["dpo", "plackett_luce", "kto"])
def test_copies_of_the_start_share_their_memory(name, tmp_path):
    agent = make(name, policy=bfloat16_policy(tmp_path))
    assert memory_of(agent.opponent) == memory_of(agent.reference)


@pytest.mark.parametrize("name", ["sppo", "inpo", "dpo"])
def test_the_average_is_that_of_policies_in_float32(name, tmp_path):
    policy = bfloat16_policy(tmp_path)
    task = text_task(tmp_path, limit=8, least=8)
    agent, arena, seen = make(name, policy=policy), DuelArena(task, make_oracle("bt"), None), []
    for _ in range(3):
        seen.append([parameter.detach().double() for parameter in policy.parameters()])
        agent.update(arena.play(agent.propose(arena.reset())))
    for mean, values in zip(agent.average.parameters(), zip(*seen, strict=True), strict=True):
        assert mean.dtype == torch.float32
        assert torch.allclose(mean.double(), torch.stack(values).mean(0), rtol=1e-6, atol=1e-7)


def test_a_rounded_copy_is_not_blended(tmp_path):
    policy = bfloat16_policy(tmp_path)
    for one, other in ((policy.snapshot(), policy), (policy.frozen(), policy.snapshot())):
        with pytest.raises(TypeError, match=r"a snapshot is rounded; blend copies that policy.frozen\(\) returns"):
            one.blend(other, 0.5)


class Casts(TorchDispatchMode):
    """Shapes of what is cast to another dtype."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.dtype != args[0].dtype:
            self.shapes.append(tuple(args[0].shape))
        return result


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("copied", [False, True])
def test_a_drawn_token_casts_neither_a_matrix_nor_the_cache(copied, lora, tmp_path):
    base = {"lora": LoRAConfig(rank=lora), "dtype": "bfloat16"} if lora else {}
    learning = bfloat16_policy(tmp_path, **base)
    policy = learning.snapshot() if copied else learning
    matrices = {tuple(p.shape) for p in policy.parameters() if min(p.shape) > 2}
    longest = max(map(policy.prompt_length, PROMPTS))
    counts = []
    for limit in (4, 8):
        policy.constraints = dataclasses.replace(policy.constraints, min_tokens=limit, limit=limit)
        with Casts() as casts:
            policy.draw(PROMPTS, 1, Key(0))
        counts.append(sum(shape in matrices for shape in casts.shapes))
        assert not [shape for shape in casts.shapes if len(shape) == 4 and shape[2] > longest]
    assert counts[0] == counts[1]
