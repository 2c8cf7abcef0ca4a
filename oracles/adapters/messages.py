"""Texts of prompts and completions that trainers pass as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preference_duel.json_text import short
from preference_duel.types import Conversation

Messages = str | Sequence[Mapping[str, Any]]
"""Text, or messages {"role": ..., "content": ...}; a content is text or parts {"type": "text", "text": ...}."""


def prompt_text(prompt: Messages) -> str:
    """Returns a prompt as oracles read it: text, a single message of the user its content, others a `Conversation`.

    Raises:
        ValueError: if it is neither text nor messages of text.
    """
    if isinstance(prompt, str):
        return prompt
    turns = [{"role": str(turn.get("role")), "content": _content(turn)} for turn in _turns("prompt", prompt)]
    return turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "user" else Conversation(turns)


def completion_text(completion: Messages) -> str:
    """Returns the text of a completion, of messages the contents joined by newlines.

    Raises:
        ValueError: if it is neither text nor messages of text.
    """
    if isinstance(completion, str):
        return completion
    return "\n".join(_content(turn) for turn in _turns("completion", completion))


def _turns(what: str, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(turn, Mapping) for turn in messages):
        raise ValueError(f"a {what} must be text or a list of messages, got {short(messages)}")
    return messages


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ValueError(f"a message must have text as its content, got {short(turn)}")
