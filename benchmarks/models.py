"""Language models of random weights, to measure speed with: what they say means nothing, the work is the real one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.policies.lm.loading import ModelTokenizer
from envs.tasks.task import Task
from envs.tasks.tokenizers import response_tokens

_SPECIAL = ["<pad>", "<eos>"]


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def matrices(self) -> int:
        """Weights that every token is multiplied with, the output layer's included."""
        d = self.hidden
        attention = 2 * d * d + 2 * d * (d * self.kv_heads // self.heads)
        return self.layers * (attention + 3 * d * self.intermediate) + d * self.vocabulary


SIZES = {
    "1m": Size(2048, 128, 384, 4, 4, 4),
    "0.5b": Size(32_000, 1280, 3456, 24, 20, 20),
    "7b": Size(32_000, 4096, 11_008, 32, 32, 32),
}


def write_model(folder: Path, size: Size, dtype: torch.dtype, context: int = 2048, device: str = "cpu") -> None:
    """Writes a Llama of random weights and a tokenizer of as many words: w2, w3, ... .

    Args:
        folder: made where it is not there.
        size: its sizes.
        dtype: of its weights.
        context: tokens that it reads.
        device: where the weights are drawn.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*_SPECIAL, *(f"w{i}" for i in range(2, size.vocabulary))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue] - set by a setter in Rust
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], model_max_length=context
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=context,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=size.vocabulary < 4096,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)  # transformers' decorators hide what `to` takes
    model.to(dtype).save_pretrained(folder)


def free_text(tokenizer: ModelTokenizer, prompts: int, prompt_tokens: int, new_tokens: int) -> Task:
    """Returns a task whose prompts are random words and whose responses all have `new_tokens` tokens."""
    rng = np.random.default_rng(0)
    rows = rng.integers(2, tokenizer.vocab_size, (prompts, prompt_tokens))
    texts = tuple(" ".join(f"w{i}" for i in row) for row in rows.tolist())
    legal = response_tokens(tokenizer)
    return Task("random words", texts, texts, tokenizer, prompt_tokens, new_tokens, new_tokens, legal)
