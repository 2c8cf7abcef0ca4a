"""Reads prompt and response with a transformers sequence classifier: a reward, and with more labels an embedding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from oracles.readers.batching import Budget, Memory
from oracles.readers.loading import NetworkConfig, load_network, require_readable
from preference_duel.chat import PlainText, filled_template, with_contents
from preference_duel.types import messages_of

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_ADVICE = "pass a directory with config.json, weights and tokenizer, or no model for a reward drawn at random"
_UNLIMITED = 10**9
Question = tuple[str, str]
Ids = tuple[list[int], list[int]]
"""The ids of an input, and the segment of each."""
Row = tuple[float, ...]


@dataclass(frozen=True)
class ReaderConfig(NetworkConfig):
    """Input format, precision and batches of a model that reads a prompt and a response."""

    form: Literal["auto", "chat", "pair", "join"] = "auto"
    """Format of the input: the tokenizer's chat template, a pair of texts (prompt [SEP] response), or both texts joined
    into one; "auto": chat if there is a template, else pair if there is [SEP]."""
    max_length: int | None = None
    """Most ids that it reads, >= 1; what is over is cut and counted. None: what its files say."""


def require_idle(oracle: str, config: Any, unread: Sequence[str]) -> None:
    """Raises if a field that the oracle will not read was set.

    Args:
        oracle: its name, for the message.
        config: its configuration, which has a field `model`.
        unread: names of fields.

    Raises:
        ValueError: naming them.
    """
    given = type(config)()
    idle = [f.name for f in fields(config) if f.name in unread and getattr(config, f.name) != getattr(given, f.name)]
    if idle:
        raise ValueError(
            f"oracle '{oracle}' {'without' if config.model is None else 'with'} a model reads no {', '.join(idle)}"
        )


class RewardModel:
    """Gives the logits of a classifier as rows of numbers, each (prompt, response) read once; the first is the reward.

    Inputs are padded on the right and masked, so a reward depends on its own texts alone. Where the library finds the
    last token by comparing ids with the padding's, and the model names no padding, the padding is an id with which
    no text of the batch ends.

    Args:
        network: an AutoModelForSequenceClassification with F labels.
        tokenizer: its transformers tokenizer.
        config: form, limits and budgets.

    Raises:
        ValueError: if the form does not fit the tokenizer.
    """

    def __init__(self, network: Any, tokenizer: Any, config: ReaderConfig) -> None:
        self.network, self.tokenizer = network.eval(), tokenizer
        self._texts = PlainText(tokenizer)
        self.form = _form(config.form, tokenizer)
        """Format of the input: "chat", "pair" or "join"."""
        self.limit = _limit(network.config, tokenizer) if config.max_length is None else config.max_length
        """Most ids of one input; None: no limit."""
        self.cut = 0
        """Inputs that were longer so far."""
        self._budget = Budget(config.token_budget, config.square_budget)
        self._memory: Memory[Question, Row] = Memory(config.cache_size)
        self._typed = getattr(network.config, "type_vocab_size", 0) > 1
        self._pad: int | None = network.config.get_text_config().pad_token_id

    @classmethod
    def load(cls, model: str, config: ReaderConfig, device: str, embeds: bool = False) -> RewardModel:
        """Reads a model from a directory or the Hugging Face hub.

        Args:
            model: directory or hub id.
            config: how it reads.
            device: where.
            embeds: whether it has an embedding in planes beside its reward: 1 + 2k labels.

        Raises:
            ValueError: if it is a classifier with another number of labels, or tensors are missing.
            OSError: if it cannot be found or fetched.
        """
        network, tokenizer = load_network(
            "AutoModelForSequenceClassification", "reward model", model, config, device, _ADVICE,
            partial(_require_labels, embeds=embeds),
        )  # fmt: skip
        if network.dtype != torch.float32:
            _keep_head_in_float32(network)
        return cls(network, tokenizer, config)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns the rewards, [N] float32 on the CPU; see `rows`."""
        return self.rows(prompts, responses)[:, 0]

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns reward and embedding, [N, F] float32 on the CPU.

        Args:
            prompts: texts, or conversations that keep their `messages` for the chat template.
            responses: N texts.
        """
        rows = self._memory.answers(list(zip(prompts, responses, strict=True)), self._ask)
        return torch.tensor(rows).view(len(rows), self.network.config.num_labels)

    def save(self, folder: Path) -> None:
        """Writes what `load` reads: config.json, model.safetensors and the tokenizer's files."""
        self.network.config.get_text_config().pad_token_id = self._pad
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def _ask(self, questions: Sequence[Question]) -> list[Row]:
        """Reads different questions, in batches of like length."""
        inputs = [self.encode(*question) for question in questions]
        empty = [question for question, (ids, _) in zip(questions, inputs, strict=True) if not ids]
        if empty:
            raise ValueError(f"the reward model's tokenizer makes no ids of {empty[0]}; it needs a BOS or EOS token")
        answers: list[Row] = [()] * len(inputs)
        for rows in self._budget.batches([len(ids) for ids, _ in inputs]):
            for i, row in zip(rows, self._read([inputs[i] for i in rows]), strict=True):
                answers[i] = tuple(row)
        return answers

    def require_readable(self, prompts: Sequence[str]) -> None:
        """Raises ValueError if the chat template refuses prompts; see `oracles.readers.loading.require_readable`."""
        if self.form == "chat":
            require_readable("reward model", lambda prompt: self.encode(prompt, "a"), prompts)

    def encode(self, prompt: str, response: str) -> Ids:
        """Returns the ids of an input and the segment of each, cut to the limit; typed special tokens are mere text.

        A pair loses the ends of its longer text, anything else its beginning: the response counts most.

        Raises:
            ValueError: if the chat template refuses the messages.
        """
        if self.form == "chat":
            turns = [*messages_of(prompt), {"role": "assistant", "content": response}]

            def fill(contents: Sequence[str]) -> str:
                return filled_template(self.tokenizer, with_contents(turns, contents))

            return self._tail(self._texts.encode_filled(fill, [turn["content"] for turn in turns]))
        if self.form == "join":
            return self._tail(self._texts.encode(str(prompt) + response, add_special_tokens=True))
        pair = self._texts.spelled(str(prompt)), self._texts.spelled(response)
        read = partial(self.tokenizer, *pair, return_token_type_ids=True, split_special_tokens=True)
        whole = read()
        if self.limit is not None and len(whole.input_ids) > self.limit:
            self._report_cut()
            whole = read(truncation="longest_first", max_length=self.limit)
        return whole.input_ids, whole.token_type_ids

    def _tail(self, ids: list[int]) -> tuple[list[int], list[int]]:
        if self.limit is not None and len(ids) > self.limit:
            self._report_cut()
            ids = ids[-self.limit :]
        return ids, [0] * len(ids)

    def _report_cut(self) -> None:
        self.cut += 1
        if self.cut == 1:
            _log.warning("the reward model reads %s ids and cuts longer texts; `cut` counts them", self.limit)

    def _read(self, inputs: Sequence[Ids]) -> list[list[float]]:
        with torch.inference_mode():
            rows = self.logits(inputs)
        if not rows.isfinite().all():
            raise ValueError(f"the reward model gives {rows.tolist()} in {self.network.dtype}; try dtype='float32'")
        return rows.tolist()

    def logits(self, inputs: Sequence[Ids]) -> Tensor:
        """Returns [N, F] float32, differentiable, on the network's device.

        Args:
            inputs: N encoded questions.
        """
        length = max(len(ids) for ids, _ in inputs)
        pad = self._pad_id([ids for ids, _ in inputs])
        device = self.network.device
        fields = {
            "input_ids": [ids + [pad] * (length - len(ids)) for ids, _ in inputs],
            "attention_mask": [[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in inputs],
        }
        if self._typed:
            fields["token_type_ids"] = [kinds + [0] * (length - len(kinds)) for _, kinds in inputs]
        tensors = {name: torch.tensor(rows, device=device) for name, rows in fields.items()}
        return self.network(**tensors).logits.float()

    def _pad_id(self, rows: Sequence[Sequence[int]]) -> int:
        if self._pad is not None:
            return self._pad
        last = {ids[-1] for ids in rows}
        pad = next(i for i in range(len(last) + 1) if i not in last)
        self.network.config.get_text_config().pad_token_id = pad
        return pad


def _keep_head_in_float32(network: Any) -> None:
    """Has the output layer compute in float32: bfloat16 numbers near a reward of 8 lie .06 apart."""
    head = getattr(network, "score", None) or getattr(network, "classifier", None)
    if isinstance(head, torch.nn.Module):
        head.float().register_forward_pre_hook(lambda _, states: tuple(state.float() for state in states))


def _require_labels(settings: Any, embeds: bool) -> None:
    """Raises unless the classifier has as many labels as are read."""
    labels = settings.num_labels
    if embeds and labels not in range(3, _UNLIMITED, 2):
        raise ValueError(f"a model with an embedding in k planes has 1 + 2k labels, 3, 5, ..., this one has {labels}")
    if not embeds and labels != 1:
        raise ValueError(f"a reward model has one label, this one has {labels}")


def _form(form: str, tokenizer: Any) -> str:
    """Returns the form that the tokenizer can make."""
    can = {"chat": tokenizer.chat_template is not None, "pair": tokenizer.sep_token_id is not None, "join": True}
    if form == "auto":
        return next(name for name, possible in can.items() if possible)
    if form not in can:
        raise ValueError(f"form must be auto, {', '.join(can)}, got '{form}'")
    if not can[form]:
        raise ValueError(f"form '{form}' needs a tokenizer with a {'chat template' if form == 'chat' else 'separator'}")
    return form


def _limit(settings: Any, tokenizer: Any) -> int | None:
    """Returns the most ids that the model can read."""
    limits = (tokenizer.model_max_length, getattr(settings.get_text_config(), "max_position_embeddings", None))
    known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    return min(known) if known else None
