"""Small random models in the conventions of published families: special tokens, chat template, ends, architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'system' %}{{ m.content }}\n{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM = "{% if messages[0].role != 'system' %}<|im_start|>system\nbe kind<|im_end|>\n{% endif %}" + CHATML


@dataclass(frozen=True)
class Family:
    """One family's conventions.

    Attributes:
        kind: architecture, as transformers names it.
        special: special tokens, which get the first ids in this order.
        eos: the tokenizer's.
        closing: what ends an assistant's turn in its template, or `eos`.
        ends: tokens in generation_config.json.
        template: the chat template; None: a base model.
        bos: the token that begins every text; None: there is none.
        roles: messages whose roles the template takes.
        shape: further fields of the architecture.
    """

    kind: str
    special: tuple[str, ...]
    eos: str
    closing: str
    ends: tuple[str, ...]
    template: str | None
    bos: str | None = None
    system: bool = True
    shape: Mapping[str, Any] = field(default_factory=dict)


_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WINDOW = {"sliding_window": 4, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "llama 3": Family(
        "llama", _LLAMA3, "<|end_of_text|>", "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>"), LLAMA3, _LLAMA3[0]
    ),
    "qwen 2.5 base": Family("qwen2", _QWEN, "<|endoftext|>", "<|im_end|>", (), CHATML),
    "qwen 3": Family(
        "qwen3", _QWEN, "<|im_end|>", "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), QWEN3, shape={"head_dim": 8}
    ),
    "gemma 2": Family(
        "gemma2", _GEMMA, "<eos>", "<end_of_turn>", ("<eos>", "<end_of_turn>"), GEMMA, "<bos>", system=False,
        shape=_WINDOW | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    ),
    "gemma 3": Family(
        "gemma3_text", _GEMMA, "<eos>", "<end_of_turn>", ("<eos>", "<end_of_turn>"), GEMMA3, "<bos>",
        shape=_WINDOW | {"query_pre_attn_scalar": 8},
    ),
    "mistral": Family(
        "mistral", ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "</s>", "</s>", ("</s>",), MISTRAL, "<s>",
        shape=_WINDOW,
    ),
    "phi 3": Family(
        "phi3", ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|user|>", "<|end|>"), "<|endoftext|>", "<|end|>",
        ("<|endoftext|>", "<|end|>"), PHI3, shape={"pad_token_id": 0},
    ),
    "smollm 2": Family("llama", _QWEN, "<|im_end|>", "<|im_end|>", ("<|im_end|>",), SMOLLM),
    "gpt-neox": Family("gpt_neox", ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",), None),
}  # fmt: skip


def write_chat_model(folder: Any, family: Family, seed: int = 0, **fields: Any) -> None:
    """Writes a random model of a family; tokens that end a turn are likely enough to be drawn."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*family.special, *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(family.special))
    if family.bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, vocabulary[family.bos])]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=family.eos, bos_token=family.bos, chat_template=family.template
    ).save_pretrained(folder)
    shape = {"vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 256, **family.shape, **fields}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
        for token in {family.eos, family.closing, *family.ends}:
            model.get_output_embeddings().weight[vocabulary[token]] *= 3
    ends = [vocabulary[token] for token in family.ends]
    model.generation_config = GenerationConfig(eos_token_id=ends or None)
    model.config.eos_token_id = vocabulary[family.eos]
    model.save_pretrained(folder)
