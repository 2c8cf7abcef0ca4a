"""Messages of conversations in the ways of public preference data: what was asked, and the response to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from preference_duel.json_text import short

Message = dict[str, str]
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""Roles of ShareGPT and its like, in the words of chat templates."""
HUMAN = re.compile(r"\s*\n\nHuman:")
TURN = re.compile(r"\n\n(Human|Assistant):")
HELPSTEER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
"""Marks of HelpSteer2's prompts of several turns, which begin with the user's."""
SPOKEN = {"Human": "user", "User": "user", "Assistant": "assistant"}


def messages_in(name: str, value: Any) -> list[Message] | None:
    """Returns the messages that a field holds; None if it is plain text.

    Lists of messages, a single message, both in the words of chat templates (role, content) or of ShareGPT (from,
    value), contents in parts of text, lists written as JSON in a cell of a CSV file, and one string with "Human:" and
    "Assistant:" turns (Bai et al. 2022, arXiv:2204.05862) or HelpSteer2's marks are understood.

    Raises:
        ValueError: if it is neither text nor messages, naming the field.
    """
    if isinstance(value, str):
        if value[:1] in "[{" and (decoded := _decoded(value)) is not None:
            return messages_in(name, decoded)
        return _turns(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} must be text or a list of messages, got {short(value)}")
    return [_message(name, i, turn) for i, turn in enumerate(value)]


def _decoded(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    return value if turns and all(isinstance(turn, dict) and {"role", "from"} & set(turn) for turn in turns) else None


def _turns(text: str) -> list[Message] | None:
    if HUMAN.match(text):
        _, *parts = TURN.split(text)
    elif HELPSTEER.search(text):
        parts = ["User", *HELPSTEER.split(text)]
    else:
        return None
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": SPOKEN[role], "content": content.strip()} for role, content in turns]


def _message(name: str, i: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{name}: message {i} must be {{'role': text, 'content': text}}, got {short(turn)}")
    role, content = (turn.get("role") or turn.get("from"), turn.get("content", turn.get("value")))
    if turn.get("tool_calls") or turn.get("function_call"):
        raise ValueError(f"{name}: message {i} calls tools, which a text can't hold")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_part(name, i, part) for part in content)
    if not isinstance(role, str) or not role or not isinstance(content, str):
        raise ValueError(f"{name}: message {i} must be {{'role': text, 'content': text}}, got {short(turn)}")
    return {"role": ROLES.get(role, role), "content": content}


def _part(name: str, i: int, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise ValueError(f"{name}: message {i} must have parts {{'type': 'text', 'text': text}} alone, got {short(part)}")


def checked_text(name: str, text: Any) -> str:
    """Returns a response.

    Raises:
        ValueError: if it is no text, blank, or no Unicode text, naming the field.
    """
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text or a list of messages, got {short(text)}")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a surrogate pair, which is no text, got {short(text)}") from None
    return text


def context_and_response(name: str, value: Any) -> tuple[list[Message] | None, str]:
    """Returns the messages before a response, None of a plain text, and the response.

    Raises:
        ValueError: if the last message is not the assistant's, or the field is neither text nor messages.
    """
    messages = messages_in(name, value)
    if messages is None:
        return None, value
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"the last message of {name} must be the assistant's, got role {messages[-1]['role']!r}")
    return messages[:-1], messages[-1]["content"]


def prompt_messages(name: str, value: Any) -> list[Message] | None:
    """Returns the messages of a prompt field, without the empty turn that the response fills; None for plain text.

    Raises:
        ValueError: if it is neither text nor messages.
    """
    messages = messages_in(name, value)
    if messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip():
        return messages[:-1]
    return messages


def merged(prompt: Any, named: str, system: str | None, shared: Sequence[Message]) -> str | Sequence[Message]:
    """Returns what was asked, text or messages: a prompt field, a system text, and the messages before the responses.

    Whatever is left out is equal to a part of what stays.

    Args:
        prompt: the field; None: the row has none.
        named: what it is called.
        system: the system text; None or blank: the row has none.
        shared: the messages before both responses; empty if the fields hold the responses alone.

    Raises:
        ValueError: if they disagree, or nothing was asked.
    """
    given = None if prompt is None else prompt_messages(named, prompt)
    messages = _agreed(prompt, given, named, list(shared))
    if messages is None:
        messages = [{"role": "user", "content": prompt}]
    if system and system.strip():
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        elif messages[0]["content"] != system:
            raise ValueError(f"system and the system message differ, got {short(system)}")
    single = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if single and not _listed(prompt) else messages


def _agreed(prompt: Any, given: list[Message] | None, named: str, shared: list[Message]) -> list[Message] | None:
    """Returns the longer one of a prompt's messages and the responses' context, None for a text without context."""
    if given is None and not shared:
        if prompt is None:
            raise ValueError("the responses have no message in common before them, and there is no prompt")
        return None
    if given is None:
        asked = [turn["content"].strip() for turn in shared if turn["role"] == "user"]
        if prompt is not None and prompt.strip() not in asked:
            raise ValueError(f"{named} is none of the user's messages before the responses, got {short(prompt)}")
        return shared
    if not shared or given[-len(shared) :] == shared:
        return given
    if shared[: len(given)] == given:
        return shared
    raise ValueError(f"{named} and the messages before the responses differ, got {short(given)}")


def _listed(prompt: Any) -> bool:
    return prompt is not None and not isinstance(prompt, str)


def common_beginning(first: str, second: str) -> str:
    """Returns the beginning that two texts share, up to the end of a word.

    TRL's page "Dataset formats" calls it an implicit prompt; its own code also cuts inside of words.
    """
    pairs = zip(first, second, strict=False)
    size = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    while size and not first[size - 1].isspace():
        size -= 1
    return first[:size].rstrip()
