"""Bounds of what inner loops cost on the pretend accelerator; `test_accelerator.py` starts this file."""

import pytest
import torch

import tests.accelerator.device as accelerator
from benchmarks.copies import SHAPE
from tests.accelerator.costs import LOOPS, cost
from tests.accelerator.traffic import EQUAL, UNEQUAL, enlarge, learning_pass, small_policy, token

pytestmark = pytest.mark.slow
MOST = {"token": (1 / 8, 0), "padded": (1 / 8, 0), "pass": (2.25, 3.25), "step": (7, 7), "batch": (0, 1)}
"""Waits and copies up of one repetition. Of the waits of a pass, 1.25 are in transformers, which looks for packed
texts, and one finds a log-ratio that is not finite before weights move; the quarters are the passes of the start, which
are of four times as many tokens."""


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_waits_and_copies_no_more_than_it_must(name, tmp_path):
    found = cost(LOOPS[name], tmp_path)
    waits, copies = MOST[name]
    assert sum(found.waits.values()) <= waits, found.waits
    assert sum(found.copies.values()) <= copies, found.copies
    assert sum(found.launches.values()) > 50


ONE_LAYER = SHAPE | {"num_hidden_layers": 1}


@pytest.mark.parametrize("rank", [0, 16])
def test_a_token_of_a_large_model_moves_its_matrices_and_its_cache_once(rank, tmp_path):
    policy = small_policy(tmp_path)
    with accelerator.attached(numbers=False):
        enlarge(policy, ONE_LAYER, torch.bfloat16 if rank else torch.float32, rank)
        matrices = sum(p.numel() for name, p in policy.model.named_parameters() if "embed" not in name)
        for lengths in (EQUAL, UNEQUAL):
            found = token(policy, lengths)
            cache = 2 * len(lengths) * (EQUAL[0] + 1) * 1024
            assert found.casts_of(policy.model) == 0
            assert found.repeats == 0
            assert found.launches < 100
            assert 1 < sum(found.bytes.values()) / (2 * (matrices + cache)) < 1.15


def test_a_pass_with_adapters_casts_no_input_to_float32_and_back(tmp_path):
    policy = small_policy(tmp_path)
    with accelerator.attached(numbers=False):
        enlarge(policy, ONE_LAYER, torch.bfloat16, 16)
        found = learning_pass(policy)
        assert found.bytes["attention_backward"] > 0
        assert [shape for shape in found.casts if len(shape) == 3 and shape[2] == SHAPE["intermediate_size"]] == []
