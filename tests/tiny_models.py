"""Random language models over single letters, with their tokenizers, tasks and policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from agents import HFPolicy
from agents.policies.lm.loading import load_tokenizer
from envs import Task
from envs.tasks.tokenizers import response_tokens
from preference_duel.keyed_random import Key
from preference_duel.types import Completion

SPECIAL = ("<pad>", "<eos>", "<user>", "<bot>")
LETTERS = "abc#0123"
TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}{{ m['content'] | trim }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
PROMPTS = ("ab", "#0", "c", "a#12b0", "ab3")


def write_tokenizer(
    folder: Path,
    template: str | None = TEMPLATE,
    merges: Sequence[tuple[str, str]] = (),
    pad: str = "<pad>",
    eos: str | None = "<eos>",
    special: Sequence[str] = SPECIAL,
    letters: str = LETTERS,
) -> None:
    """Writes a tokenizer: special tokens, letters, then merged pairs, with ids in this order."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    merged = ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate([*special, *letters, *merged])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(special))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=eos, chat_template=template
    ).save_pretrained(folder)


def tiny_model(kind: str = "llama", width: int = 14, context: int = 40, seed: int = 0, **fields: Any) -> Any:
    """Returns a model of a transformers architecture with weights far from 0; width is its vocabulary's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"vocab_size": width, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {
        "llama": {"attention_dropout": 0.5, "tie_word_embeddings": True, "num_key_value_heads": 2},
        "gpt2": {"n_inner": 64},
        "bloom": {},
        "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0},
    }[kind]
    if kind != "bloom":
        more |= {"max_position_embeddings": context}
    if kind in ("llama", "gemma2"):
        more |= {"intermediate_size": 64}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | more | fields))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return model


def write_model(folder: Path, kind: str = "llama", **fields: Any) -> Path:
    """Writes a model of `tiny_model` and the usual tokenizer; returns the folder."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    tiny_model(kind, **fields).save_pretrained(folder)
    return folder


def text_task(folder: Path, limit: int = 4, least: int = 0, prompts: tuple[str, ...] = PROMPTS) -> Task:
    """Returns a task of free text in a model's vocabulary."""
    tokenizer = load_tokenizer(str(folder))
    return Task("text", prompts, prompts, tokenizer, 8, limit, least, response_tokens(tokenizer))


def policy_of(folder: Path, task: Task | None = None, **fields: Any) -> HFPolicy:
    """Returns the policy of a model, by default on its `text_task`."""
    return HFPolicy(folder, text_task(folder) if task is None else task, **fields)


def every_response(policy: Any, letters: str = LETTERS) -> list[Completion]:
    """Returns all responses of letters that a policy of free text can give, in tokens."""
    ids, constraints = [policy.tokenizer.encode(letter)[0] for letter in letters], policy.constraints
    ended = [
        (*word, constraints.eos)
        for length in range(constraints.min_tokens, constraints.limit)
        for word in itertools.product(ids, repeat=length)
    ]
    return [Completion("", tokens) for tokens in [*ended, *itertools.product(ids, repeat=constraints.limit)]]


def require_samples_follow(policy: Any, prompt: str, responses: Sequence[Completion], count: int, key: Key) -> None:
    """Compares `count` samples with the probabilities of all `responses` by a chi-square test, rare ones together."""
    with torch.no_grad():
        probs = policy.logprob([prompt], [responses])[0].double().exp().numpy()
    drawn, weights = policy.draw([prompt], count, key)
    assert torch.equal(weights, torch.full((1, count), 1 / count))
    index = {response.tokens: i for i, response in enumerate(responses)}
    counts = np.bincount([index[response.tokens] for response in drawn[0]], minlength=len(responses))
    assert counts[probs == 0].sum() == 0
    often = probs > 5 / count
    seen = np.append(counts[often], counts[~often].sum())
    expected = np.append(probs[often], probs[~often].sum()) * count
    assert stats.chisquare(seen[expected > 0], expected[expected > 0], sum_check=False).pvalue > 1e-3
