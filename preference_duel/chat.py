"""Token ids of texts and filled chat templates in which special tokens that are typed stay text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_PLACE = re.compile("\ue000(\\d+)\ue001")
Fill = Callable[[Sequence[str]], str]
"""Returns a whole text with the given ones at their places."""


class UnreadablePromptError(ValueError):
    """A model's chat template refuses a prompt.

    Attributes:
        prompt: the first such prompt.
    """

    def __init__(self, prompt: str, message: str) -> None:
        super().__init__(message)
        self.prompt = prompt

    def at(self, place: str) -> ValueError:
        """Returns the error with the prompt's place in a file ahead of its message."""
        return ValueError(f"{place}: {self}")


class PlainText:
    """Encodes texts so that no part of them becomes a special token.

    Args:
        tokenizer: of the transformers library.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        marks = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        marks |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._marks = tuple(sorted(marks, key=len, reverse=True))
        self._special_ids = set(marks.values()) - {tokenizer.unk_token_id}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Returns the ids of a text; with `add_special_tokens` those around it that the tokenizer adds."""
        return self.tokenizer(
            self.spelled(text), add_special_tokens=add_special_tokens, split_special_tokens=True
        ).input_ids

    def spelled(self, text: str) -> str:
        """Returns the text as it must be passed with `split_special_tokens`.

        Some vocabularies spell a special token by itself even then (DeBERTa's `[SEP]`): it becomes `[ SEP]`.
        """
        if self._has_marks(text):
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
            if not self._special_ids.isdisjoint(ids):
                for mark in self._marks:
                    text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
        return text

    def encode_filled(self, fill: Fill, texts: Sequence[str], add_special_tokens: bool = False) -> list[int]:
        """Returns the ids of a filled template; texts that hold special tokens are encoded separately, as mere text.

        Args:
            fill: makes the whole text.
            texts: what is filled in.
            add_special_tokens: whether the tokenizer adds special tokens around the whole, as around any text.
        """
        if not any(map(self._has_marks, texts)):
            return self.tokenizer(fill(texts), add_special_tokens=add_special_tokens).input_ids
        ids: list[int] = []
        for i, part in enumerate(_PLACE.split(fill([_place(i, text) for i, text in enumerate(texts)]))):
            if i % 2:
                ids += self.encode(texts[int(part)].strip())
            else:
                ids += self.tokenizer(part, add_special_tokens=False).input_ids
        return self._surrounded(ids) if add_special_tokens else ids

    def _has_marks(self, text: str) -> bool:
        return any(mark in text for mark in self._marks)

    def _surrounded(self, ids: list[int]) -> list[int]:
        """Returns the ids between those that the tokenizer adds to a text."""
        whole, bare = self.tokenizer("a").input_ids, self.tokenizer("a", add_special_tokens=False).input_ids
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return [*whole[:first], *ids, *whole[first + len(bare) :]]


def _place(index: int, text: str) -> str:
    """Returns a place that a template trims as it would trim the text."""
    bare = text.strip()
    if not bare:
        return text
    before, _, after = text.partition(bare)
    return f"{before}\ue000{index}\ue001{after}"


def filled_template(tokenizer: Any, messages: Sequence[dict[str, str]], **options: Any) -> str:
    """Returns the tokenizer's chat template filled with messages.

    Args:
        tokenizer: of the transformers library.
        messages: dicts with "role" and "content".
        **options: of `apply_chat_template`.

    Raises:
        ValueError: with the template's own message if it refuses the roles.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in messages)
        raise ValueError(f"the model's chat template refuses messages of the roles {roles}: {error}") from error


def with_contents(messages: Sequence[dict[str, str]], contents: Sequence[str]) -> list[dict[str, str]]:
    """Returns the messages with other contents."""
    return [{**turn, "content": content} for turn, content in zip(messages, contents, strict=True)]


def closing_token(tokenizer: Any, **options: Any) -> int | None:
    """Returns the special token that the chat template writes right after an assistant's content, if any.

    Args:
        tokenizer: of the transformers library.
        **options: of `apply_chat_template`.
    """
    if not tokenizer.chat_template:
        return None
    content = "\ue000\ue001"
    turns = {"role": "user", "content": "a"}, {"role": "assistant", "content": content}
    try:
        filled = filled_template(tokenizer, turns, add_generation_prompt=False, **options)
    except ValueError:
        return None
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    tail = tokenizer(filled.rpartition(content)[2], add_special_tokens=False).input_ids
    for i, token in enumerate(tail):
        if token in special:
            return token
        if tokenizer.decode(tail[: i + 1]).strip():
            return None
    return None
