"""Makes the embedded policy: a byte-level BPE tokenizer and a Llama of about a million parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.tasks.grammar import Split, on_topic, parse, prompts, sample_corpus
from preference_duel.keyed_random import Key, Stream, hash_seed
from runners.fitting.supervised import descend
from runners.pretrain.settings import PolicyTraining

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS, USER, ASSISTANT = range(4)
SPECIAL = ("<pad>", "<eos>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<assistant>' + message['content'] + '<eos>' }}"
    "{% else %}{{ '<user>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
CONTEXT = 128
"""Positions of the network."""
MAX_NEW_TOKENS = 28
"""The limit of a sampled answer, its EOS included; the grammar's longest has 25."""


def build_tokenizer(size: int, seed: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE trained on the corpus; any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue] - tokenizers' stubs declare properties
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = sample_corpus(prompts("train"), 20_000, _key(seed, "tokenizer"))
    backend.train_from_iterator([text for pair in corpus for text in pair], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(training: PolicyTraining, vocabulary: int, seed: int) -> LlamaForCausalLM:
    """Returns the untrained network."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=training.hidden,
        intermediate_size=3 * training.hidden,
        num_hidden_layers=training.layers,
        num_attention_heads=training.hidden // 32,
        num_key_value_heads=training.hidden // 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, "policy"))
        return LlamaForCausalLM(config)


def train_policy(training: PolicyTraining, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """Returns the network after maximum likelihood on answers to the training prompts, half of them off topic."""
    model = build_model(training, len(tokenizer), seed)
    key = _key(seed, "corpus")

    def loss_at(step: int) -> Tensor:
        pairs = sample_corpus(prompts("train"), training.batch, key.at(step))
        return answer_loss(model, *encode_pairs(tokenizer, pairs))

    descend(model, loss_at, training.steps, training.learning_rate)
    return model


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Returns ids [N, T], padded on the right, and a mask [N, T], True on the answer and its EOS."""
    heads = [[USER, *tokenizer.encode(prompt), ASSISTANT] for prompt, _ in pairs]
    tails = [[*tokenizer.encode(answer), EOS] for _, answer in pairs]
    width = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    ids = torch.full((len(pairs), width), PAD)
    mask = torch.zeros(len(pairs), width, dtype=torch.bool)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[i, : len(head) + len(tail)] = torch.tensor(head + tail)
        mask[i, len(head) : len(head) + len(tail)] = True
    return ids, mask


def answer_loss(model: LlamaForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean negative log-probability of the masked tokens, nats per token."""
    counted = mask[:, 1:]
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state[counted]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][counted])


@torch.no_grad()
def sample_answers(model: Any, tokenizer: Any, asked: Sequence[str], seed: int) -> list[str]:
    """Returns one answer for each prompt, sampled at temperature 1."""
    answers = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, "samples"))
        for prompt_ids, rows in _same_length([[USER, *tokenizer.encode(prompt), ASSISTANT] for prompt in asked]):
            drawn = model.generate(
                prompt_ids, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS
            )
            texts = tokenizer.batch_decode(drawn[:, prompt_ids.shape[1] :], skip_special_tokens=True)
            answers += zip(rows, texts, strict=True)
    return [text for _, text in sorted(answers)]


def measure_policy(model: LlamaForCausalLM, tokenizer: Any, samples: int, seed: int) -> dict[str, float]:
    """Returns what the model card states, all on held-out prompts.

    Returns:
        `perplexity` of the corpus' answers, per token; of answers sampled at temperature 1 the `parse_share`, the
        `on_topic_share`, and `mean_tokens` with EOS.
    """
    held_out = prompts("held_out")
    pairs = sample_corpus(held_out, samples, _key(seed, "held-out corpus"))
    with torch.no_grad():
        loss = answer_loss(model, *encode_pairs(tokenizer, pairs)).item()
    asked = [held_out[i % len(held_out)] for i in range(samples)]
    answers = sample_answers(model, tokenizer, asked, seed)
    return {
        "perplexity": math.exp(loss),
        "parse_share": sum(parse(answer) is not None for answer in answers) / samples,
        "on_topic_share": sum(map(on_topic, asked, answers)) / samples,
        "mean_tokens": sum(len(tokenizer.encode(answer)) + 1 for answer in answers) / samples,
    }


def longest(tokenizer: Any) -> tuple[int, int]:
    """Returns the tokens of the longest prompt, with what surrounds it, and of the corpus' longest answer with EOS."""
    asked = prompts("train") + prompts("held_out")
    answers = {answer for _, answer in sample_corpus(asked, 20_000, _key(0, "lengths"))}
    return 2 + max(len(tokenizer.encode(prompt)) for prompt in asked), 1 + max(
        len(tokenizer.encode(a)) for a in answers
    )


def save_policy(model: LlamaForCausalLM, tokenizer: Any, root: Path) -> Path:
    """Writes agents/checkpoints/tiny, in float16, and envs/data/chat under `root`; returns the policy's folder."""
    tiny, chat = root / "agents" / "checkpoints" / "tiny", root / "envs" / "data" / "chat"
    chat.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(tiny)
    tokenizer.save_pretrained(tiny)
    tokenizer.backend_tokenizer.save(str(chat / "tokenizer.json"))
    splits: tuple[Split, ...] = ("train", "held_out")
    lines = [json.dumps({"prompt": prompt, "split": split}) for split in splits for prompt in prompts(split)]
    (chat / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tiny


def _key(seed: int, purpose: str) -> Key:
    return Key(hash_seed(seed, purpose), stream=Stream.INIT)


def _same_length(rows: list[list[int]]) -> list[tuple[Tensor, list[int]]]:
    lengths: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        lengths.setdefault(len(row), []).append(i)
    return [(torch.tensor([rows[i] for i in group]), group) for group in lengths.values()]
