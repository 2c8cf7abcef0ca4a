"""General preference models as their authors publish them: a language model with a value head and a prompt head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from oracles.readers.batching import Budget, Memory
from oracles.readers.classifier import ReaderConfig
from oracles.readers.loading import load_network, require_readable
from preference_duel.chat import PlainText, filled_template, with_contents
from preference_duel.planes import quarter_turn
from preference_duel.types import messages_of

_log = logging.getLogger(__name__)
VALUE, PROMPT = "value_head.weight", "prompt_head.weight"
_LIMIT = 2048
"""Ids of an input, as in the released code; what is over is cut from the end."""
Question = tuple[str, str]


def find_heads(model: str, revision: str | None = None) -> dict[str, Tensor] | None:
    """Returns the heads of a published checkpoint by name; None where a model is something else.

    Args:
        model: a directory, or a hub id.
        revision: branch, tag or commit of a hub id.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
        except (OSError, ValueError):
            return None
    heads = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            heads |= {name: file.get_tensor(name).float() for name in (VALUE, PROMPT) if name in file.keys()}  # noqa: SIM118 - it is no dict
    return heads if VALUE in heads else None


class PublishedGPM:
    """Reads embeddings v(x, y), unit vectors, and how much each of their planes counts for the prompt.

    Zhang et al. 2024 (arXiv:2410.02197), by the recipe of the code released with GPM-Llama-3.1-8B-Instruct: the chat
    template's text, its last id made EOS, v the value head there; the planes' weights are the softmax of the prompt
    head where the prompt ends, 1 each without such a head.

    Args:
        network: the language model without its own head.
        tokenizer: its transformers tokenizer.
        heads: [2k, d] "value_head.weight", and [k, d] "prompt_head.weight" where there is one.
        config: limits and budgets.

    Raises:
        ValueError: if there is no chat template or EOS, or the heads do not fit.
    """

    def __init__(self, network: Any, tokenizer: Any, heads: dict[str, Tensor], config: ReaderConfig) -> None:
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            raise ValueError("a general preference model's tokenizer needs a chat template and an EOS token")
        value, prompt = heads[VALUE], heads.get(PROMPT)
        if value.shape[0] % 2 or (prompt is not None and 2 * prompt.shape[0] != value.shape[0]):
            shapes = {name: list(tensor.shape) for name, tensor in heads.items()}
            raise ValueError(f"the value head must have 2k rows and the prompt head k, got {shapes}")
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self._texts = PlainText(tokenizer)
        self._value = value.to(network.device)
        self._prompt = None if prompt is None else prompt.to(network.device)
        self.limit = config.max_length or _LIMIT
        self.cut = 0
        """Inputs that were longer so far."""
        self._budget = Budget(config.token_budget, config.square_budget)
        self._memory: Memory[Question, tuple[float, ...]] = Memory(config.cache_size)

    @classmethod
    def load(cls, model: str, heads: dict[str, Tensor], config: ReaderConfig, device: str) -> PublishedGPM:
        """Reads the network of a checkpoint whose heads were found.

        Raises:
            ValueError: if tensors are missing.
        """
        advice = "pass a directory or a hub id as --oracle.model"
        network, tokenizer = load_network("AutoModel", "preference model", model, config, device, advice)
        return cls(network, tokenizer, heads, config)

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns [N, 3k] float32 on the CPU: v, then the planes' weights."""
        return torch.tensor(self._memory.answers(list(zip(prompts, responses, strict=True)), self._ask))

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def require_readable(self, prompts: Sequence[str]) -> None:
        """Raises ValueError if the chat template refuses prompts; see `oracles.readers.loading.require_readable`."""
        require_readable("preference model", lambda prompt: self.encode(prompt, "a"), prompts)

    def encode(self, prompt: str, response: str) -> tuple[list[int], int]:
        """Returns the ids of an input, and where its prompt ends; typed special tokens are mere text.

        Raises:
            ValueError: if the chat template refuses the messages.
        """
        turns = messages_of(prompt)
        before = self._ids(turns)
        ids = self._ids([*turns, {"role": "assistant", "content": response}])
        end = max(0, min(len(before), len(ids)) - 1)
        return [*ids[:-1], self.tokenizer.eos_token_id], end

    def _ids(self, turns: Sequence[dict[str, str]]) -> list[int]:
        def fill(contents: Sequence[str]) -> str:
            return filled_template(self.tokenizer, with_contents(turns, contents))

        ids = self._texts.encode_filled(fill, [turn["content"] for turn in turns], add_special_tokens=True)
        if len(ids) > self.limit:
            self.cut += 1
            if self.cut == 1:
                _log.warning("the preference model reads %s ids and cuts longer texts; `cut` counts them", self.limit)
        return ids[: self.limit]

    def _ask(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        inputs = [self.encode(*question) for question in questions]
        answers: list[tuple[float, ...]] = [()] * len(inputs)
        for part in self._budget.batches([len(ids) for ids, _ in inputs]):
            for i, row in zip(part, self._read([inputs[i] for i in part]).tolist(), strict=True):
                answers[i] = tuple(row)
        return answers

    @torch.inference_mode()
    def _read(self, inputs: Sequence[tuple[list[int], int]]) -> Tensor:
        """Returns [n, 3k]; padding stands on the right, where no token sees it."""
        width, device = max(len(ids) for ids, _ in inputs), self.network.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row, _ in inputs], device=device)
        last = torch.tensor([len(row) - 1 for row, _ in inputs], device=device)
        ends = torch.tensor([end for _, end in inputs], device=device)
        mask = (torch.arange(width, device=device) <= last[:, None]).long()
        states = self.network(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        rows = torch.arange(len(inputs), device=device)
        embedding = F.normalize(states[rows, last].float() @ self._value.T, dim=-1)
        if not embedding.isfinite().all():
            raise ValueError(f"the preference model gives {embedding.tolist()} in {self.network.dtype}; try float32")
        if self._prompt is None:
            planes = torch.ones(len(inputs), embedding.shape[1] // 2, device=device)
        else:
            planes = (states[rows, ends].float() @ self._prompt.T).softmax(-1)
        return torch.cat([embedding, planes], dim=-1)


def published_logits(left: Tensor, right: Tensor, tau: float) -> Tensor:
    """Returns [..., K, L] nats <R_x v_a, v_b> / tau, R_x a quarter turn in each plane by that plane's weight.

    Args:
        left: [..., K, 3k] embeddings, then weights, which are the prompt's and the same for all its responses.
        right: [..., L, 3k].
        tau: temperature, > 0.
    """
    width = 2 * (left.shape[-1] // 3)
    turned = quarter_turn(left[..., :width]) * left[..., width:].repeat_interleave(2, dim=-1)
    return turned @ right[..., :width].mT / tau
