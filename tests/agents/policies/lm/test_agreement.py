"""Drawing and learning use one distribution, in every architecture of transformers that is not refused."""

import warnings
from collections import defaultdict

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from agents.policies.lm_config import LoRAConfig
from preference_duel.types import Completion
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model, write_tokenizer

WIDTHS = (
    "hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "intermediate_size", "ffn_dim", "n_inner",
    "decoder_ffn_dim", "encoder_ffn_dim",
)  # fmt: skip
SMALL = {
    **dict.fromkeys(WIDTHS, 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "vocab_size": 16, "moe_intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "rotary_dim": 4,
}  # fmt: skip
"""Fields of a configuration, as far as it has them."""
MOST = 3_000_000
"""Parameters of a model that counts as small: some parts of some architectures do not shrink by these fields."""
TOLERANCE = 2e-4


def small_model(kind):
    """Returns a small random model of an architecture; None if its configuration is not made small by `SMALL`."""
    try:
        known = CONFIG_MAPPING[kind]()
        names = set(known.to_dict()) | set(known.attribute_map)
        config = CONFIG_MAPPING[kind](**{name: value for name, value in SMALL.items() if name in names})
        with torch.device("meta"):
            size = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
        if size > MOST:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    except Exception:  # each configuration has checks of its own
        return None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return model


def gap(policy):
    """Returns the nats by which a token differs between drawing and learning, of prompts of many lengths."""
    rows, drawn = [0, 0, 1, 2, 3, 3, 4], []
    decoder = policy.decoder(PROMPTS, rows)
    states, scores = torch.zeros(len(rows), dtype=torch.long), []
    for t in range(policy.constraints.limit):
        scores.append(decoder.logits(states).log_softmax(-1))
        drawn.append(4 + (torch.arange(len(rows)) + t) % 7)
        states = policy.constraints.follow(states, drawn[-1])
        decoder.append(drawn[-1])
    tokens = torch.stack(drawn, 1)
    stepwise = torch.stack(scores, 1).gather(2, tokens[..., None]).squeeze(2)
    with torch.no_grad():
        responses = [[Completion("", tuple(row))] for row in tokens.tolist()]
        whole, _ = policy.token_logprob([PROMPTS[i] for i in rows], responses)
    return (whole[:, 0] - stepwise).abs().max().item()


def outcome(kind, folder):
    """Returns "agree", "differ", "refused" and why, or "not small", for one architecture."""
    model = small_model(kind)
    if model is None:
        return "not small", ""
    folder.mkdir()
    write_tokenizer(folder)
    model.save_pretrained(folder)
    try:
        policy = policy_of(folder, text_task(folder, limit=6))
    except ValueError as error:
        return "refused", str(error)
    distance = gap(policy)
    return "agree" if distance <= TOLERANCE else "differ", f"{distance:.1e}"


@pytest.mark.parametrize("kind", ["falcon", "gpt_neox", "gpt_oss", "mixtral", "opt"])
def test_drawing_and_learning_agree(kind, tmp_path):
    assert outcome(kind, tmp_path / kind)[0] == "agree"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bert", "BertLMHeadModel draws other tokens than it learns from: .* differ by .* nats a token"),
        ("minicpm3", "MiniCPM3ForCausalLM can't write a response token by token and read it again .RuntimeError"),
        ("mamba", "fills no cache"),
    ],
)
def test_what_does_not_agree_is_refused_at_loading(kind, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        write_and_load(small_model(kind), tmp_path)


def write_and_load(model, folder):
    write_tokenizer(folder)
    model.save_pretrained(folder)
    return policy_of(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_small_architecture_agrees_or_is_refused_in_one_line(tmp_path):
    found = defaultdict(dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            if kind in CONFIG_MAPPING:
                result, why = outcome(kind, tmp_path / kind)
                found[result][kind] = why
    for result, kinds in found.items():
        print(f"{len(kinds)} {result}: {' '.join(kinds)}")
    assert not found["differ"]
    assert all(why and "\n" not in why for why in found["refused"].values())
    assert len(found["agree"]) >= 50


@pytest.mark.parametrize(("shift", "refused"), [(0.0, False), (1e-5, False), (1e-3, True), (float("nan"), True)])
def test_nats_beyond_rounding_are_refused(shift, refused, tmp_path, monkeypatch):
    write_model(tmp_path, width=16)
    forward = LlamaForCausalLM.forward

    def shifted(self, *arguments, **named):
        output = forward(self, *arguments, **named)
        if named["input_ids"].shape[1] == 1:  # a token after a cache
            output.logits[..., 4:] += shift * torch.arange(12)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", shifted)
    if not refused:
        assert gap(policy_of(tmp_path)) <= 12 * shift + 1e-5
        return
    with pytest.raises(ValueError, match=r"differ by .* nats a token, and 0.0002 is rounding; take a decoder"):
        policy_of(tmp_path)


def test_half_precision_may_round(tmp_path):
    write_model(tmp_path, width=16)
    policy_of(tmp_path, dtype="bfloat16", lora=LoRAConfig(rank=2))
