"""Models whose parameters are sharded by FSDP2: samples, log-probabilities and gradients of the whole model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from preference_duel.keyed_random import Key
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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "tests.agents.policies.test_sharding", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 2


def require_same(folder):
    """Compares a sharded policy and its copy with a whole one, in each of several processes."""
    plain, spread = policy_of(folder), policy_of(folder)
    spread.shard()
    copied = spread.frozen()
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
        assert torch.allclose(theirs.grad.full_tensor(), 2 * mine.grad, atol=1e-4), name  # summed over two processes


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    require_same(Path(sys.argv[1]))
    torch.distributed.barrier()
    print("the same", flush=True)
    os._exit(0)  # a thread of torch that still runs when Python ends may abort the process
