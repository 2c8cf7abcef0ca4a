"""Steps that are recorded once and replayed: the logits of steps that are computed each time."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents.policies.lm import decoder, hf_policy
from agents.policies.lm.decoder import CachedDecoder, GraphedDecoder, takes_wide_mask
from preference_duel.keyed_random import Key
from tests.chat_models import FAMILIES, write_chat_model
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model

aten = torch.ops.aten


class Recording(TorchDispatchMode):
    """Stands for a CUDA graph: replays the operations on the memory of the recording, and nothing of Python."""

    def __init__(self):
        super().__init__()
        self.operations, self.fresh = [], True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in {aten._local_scalar_dense.default, aten.nonzero.default}, "a graph can't be waited for"
        result = func(*args, **kwargs or {})
        self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        if self.fresh:  # it ran when it was recorded, which a graph does not
            self.fresh = False
            return
        for func, args, kwargs, result in self.operations:
            if func._schema.is_mutable:
                func(*args, **kwargs)
            elif not func.is_view:
                new = func(*args, **kwargs)
                for old, value in zip(*((x if isinstance(x, tuple) else (x,)) for x in (result, new)), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(value)


def replayed(run):
    """Stands for `decoder.recorded`."""
    recording = Recording()
    with recording:
        run()
    return recording.replay


@pytest.fixture
def recordings(monkeypatch):
    """Returns the list of what is recorded, on the CPU; memory that is not written holds no numbers."""
    made = []

    def recorded(run):
        replay = replayed(run)
        made.append(replay.__self__)
        return replay

    monkeypatch.setattr(decoder, "recorded", recorded)
    torch.use_deterministic_algorithms(True)  # which fills empty memory
    yield made
    torch.use_deterministic_algorithms(False)


def decoders(policy, rows, room):
    ids = [policy.tokenizer.prompt(PROMPTS[i]) for i in rows]
    takes = dataclasses.replace(policy._arguments, wide_mask=True)
    return [
        kind(policy._root, takes, ids, lambda logits, _: logits.float(), room, policy.autocast)
        for kind in (CachedDecoder, GraphedDecoder)
    ]


@torch.no_grad()
def widest_gap(policy, recordings):
    """Returns the largest difference of logits over 12 tokens, after 5 of which rows are dropped and doubled."""
    rows = torch.tensor([0, 1, 1, 2])
    usual, graphed = decoders(policy, rows.tolist(), 12)
    gaps = []
    for t in range(12):
        gaps.append((usual.logits(rows) - graphed.logits(rows)).abs().max().item())
        if t == 5:
            rows = rows[[3, 0, 0]]
            for one in (usual, graphed):
                one.select(torch.tensor([3, 0, 0]))
        tokens = (torch.arange(len(rows)) + t) % 10 + 4
        for one in (usual, graphed):
            one.append(tokens)
    assert len(recordings) == 2
    assert not graphed.logits(rows).isnan().any()
    return max(gaps)


def test_replayed_steps_give_the_logits_of_computed_ones(tmp_path, recordings):
    assert widest_gap(policy_of(write_model(tmp_path)), recordings) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_so_do_those_of_published_architectures_without_windows(tmp_path, recordings, family):
    write_chat_model(tmp_path, FAMILIES[family])
    policy = policy_of(tmp_path)
    takes = takes_wide_mask(policy.model, policy._arguments.cache)
    assert takes == ("sliding_window" not in FAMILIES[family].shape)
    assert not takes or widest_gap(policy, recordings) < 1e-5


def test_no_weight_is_rounded_again_at_a_token(tmp_path, recordings):
    write_model(tmp_path, tie_word_embeddings=False)
    policy = policy_of(tmp_path, compute="bfloat16")
    with policy.gathered():
        assert widest_gap(policy, recordings) < 0.1
    weights = {parameter.data_ptr() for parameter in policy.parameters()}
    casts = [args for one in recordings for func, args, _, _ in one.operations if func is aten._to_copy.default]
    assert casts
    assert not [x for x, *_ in casts if x.data_ptr() in weights]


def test_whole_responses_are_those_of_computed_steps(tmp_path, recordings):
    policy = policy_of(write_model(tmp_path), text_task(tmp_path, limit=12))
    expected, _ = policy.draw(PROMPTS, 4, Key(0))
    policy._decoding = GraphedDecoder
    policy._arguments = dataclasses.replace(policy._arguments, wide_mask=True)
    assert policy.draw(PROMPTS, 4, Key(0))[0] == expected
    assert recordings


def test_where_steps_can_not_be_recorded_it_says_why(tmp_path, monkeypatch):
    write_model(tmp_path)
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, got cpu"):
        policy_of(tmp_path, cuda_graphs=True)
    with pytest.raises(ValueError, match="vLLM records its own"):
        policy_of(tmp_path, cuda_graphs=True, sampler="vllm")
    policy = policy_of(tmp_path)
    policy._decoding = GraphedDecoder
    with pytest.raises(ValueError, match="leave it off with fsdp"):
        policy.shard()
    monkeypatch.setattr(hf_policy.HFPolicy, "device", torch.device("cuda"))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM\) has steps whose shapes change"):
        policy_of(tmp_path, cuda_graphs=True)


@pytest.mark.gpu
def test_the_gpu_replays_what_it_computes(tmp_path):
    task = text_task(write_model(tmp_path), limit=12)
    usual, graphed = (policy_of(tmp_path, task, device="cuda", cuda_graphs=on) for on in (False, True))
    responses, expected = (
        [response for row in policy.draw(PROMPTS, 16, Key(0))[0] for response in row] for policy in (graphed, usual)
    )
    same = [a.tokens == b.tokens for a, b in zip(responses, expected, strict=True)]
    assert sum(same) >= 0.9 * len(same)  # sums have another order, and so may a token
    prompts = [prompt for prompt in PROMPTS for _ in range(16)]
    with torch.no_grad():
        read = graphed.flat_logprob(prompts, [y.tokens for y in responses]).cpu()
    written = torch.tensor([nats for y in responses for nats in y.token_logprob])
    assert (read - written).abs().mean() < 0.01
