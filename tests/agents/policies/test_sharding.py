"""Models whose parameters are sharded by FSDP2: samples, log-probabilities and gradients of the whole model."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents.policies.lm_config import LoRAConfig
from preference_duel import distributed
from preference_duel.keyed_random import Key
from tests.process_group import joined
from tests.tiny_models import (
    PROMPTS,
    policy_of,
    write_model,
)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_sharded_model_scores_and_learns_as_a_whole_one(kind, tied, tmp_path):
    write_model(tmp_path, kind, tie_word_embeddings=tied)
    assert joined(2, require_same, tmp_path) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_beside_sharded_weights_score_and_learn_as_beside_whole_ones(dtype, tmp_path):
    write_model(tmp_path)
    assert joined(2, require_same, tmp_path, 3, dtype) == [0, 0]


@pytest.mark.slow
def test_a_sharded_pass_holds_the_rounded_weights_of_one_layer_at_a_time(tmp_path):
    write_model(tmp_path, num_hidden_layers=4)
    assert joined(2, require_few_rounded, tmp_path) == [0, 0]


class Rounded(TorchDispatchMode):
    """Counts the parameters whose copies in bfloat16 are there at once."""

    alive = most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(result.untyped_storage(), self.drop)
        return result

    def drop(self):
        self.alive -= 1


def require_few_rounded(folder):
    """Compares a pass with a whole model's, and counts the rounded weights of a layer (7) and the output layer."""
    with distributed.together("cpu"):
        plain, spread = (policy_of(folder, compute="bfloat16", checkpointing=True) for _ in range(2))
        spread.shard()
        drawn, _ = plain.draw(PROMPTS, 3, Key(0))
        values, seen = {}, {}
        for policy in (plain, spread):
            with Rounded() as seen[policy]:
                values[policy] = policy.logprob(PROMPTS, drawn)
                values[policy].sum().backward()
        assert torch.allclose(values[spread], values[plain], atol=1e-5)
        assert seen[spread].most <= 7 + 1 < 4 * 7 < seen[plain].most


def require_same(folder, rank=0, dtype="float32"):
    """Compares a sharded policy and its copy with a whole one, in each of several processes."""
    with distributed.together("cpu"):
        plain, spread = (policy_of(folder, lora=LoRAConfig(rank=rank), dtype=dtype) for _ in range(2))
        spread.shard()
        copied = spread.frozen()
        for (name, mine), theirs in zip(spread.named_parameters(), copied.parameters(), strict=True):
            assert (mine is theirs) == (rank > 0 and "lora_" not in name), name
        drawn, _ = plain.draw(PROMPTS, 3, Key(0))
        assert spread.draw(PROMPTS, 3, Key(0))[0] == drawn
        with torch.no_grad():
            values = plain.logprob(PROMPTS, drawn)
            for other in (spread, copied):
                assert torch.allclose(other.logprob(PROMPTS, drawn), values, atol=1e-5)
        for policy in (plain, spread):
            values = policy.logprob(PROMPTS, drawn)
            (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
        for (name, mine), theirs in zip(plain.named_parameters(), spread.parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None), name
            if mine.grad is not None:  # summed over two processes
                assert torch.allclose(theirs.grad.full_tensor(), 2 * mine.grad, atol=1e-4), name
