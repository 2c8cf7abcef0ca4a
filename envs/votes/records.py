"""Prompt, responses and outcome of one record in a known format."""

from __future__ import annotations

import math
from collections.abc import Sequence

from envs.tasks.prompts import read_prompt
from envs.votes.formats import Format, Record, need
from envs.votes.messages import (
    Message,
    checked_text,
    common_beginning,
    context_and_response,
    merged,
    messages_in,
)
from preference_duel.json_text import short

SYSTEM = "system", "system_prompt"


class NoVerdictError(ValueError):
    """A row that is well formed and holds no verdict between two responses."""


def asked(record: Record, one: Format) -> str:
    """Returns the prompt of a record.

    Raises:
        ValueError: if there is none, or fields that are left out differ from it.
    """
    if one.first is not None:
        return _conversation(record, one)[0]
    name = one.prompt or "prompt"
    return _checked_prompt(merged(need(record, name), name, _system(record), ()))


def texts(record: Record, one: Format) -> tuple[str, str, str]:
    """Returns the prompt and both responses of a record.

    Raises:
        NoVerdictError: if both conversations went different ways before the last message.
        ValueError: if a field is not what it should be, naming it.
    """
    if one.first is None or one.second is None:
        raise ValueError(f"format {one.name} names items and holds no texts")
    what, first, second = _conversation(record, one)
    return what, checked_text(one.first, first), checked_text(one.second, second)


def thumb(record: Record, one: Format) -> tuple[str, str]:
    """Returns the prompt and the only response of a record.

    Raises:
        ValueError: if a field is not what it should be, naming it.
    """
    assert one.response is not None
    shared, text = context_and_response(one.response, need(record, one.response))
    name = one.prompt or "prompt"
    prompt = _checked_prompt(merged(need(record, name), name, _system(record), shared or ()))
    return prompt, checked_text(one.response, text)


def _conversation(record: Record, one: Format) -> tuple[str, str, str]:
    assert one.first is not None
    assert one.second is not None
    (shared, first), (other, second) = (
        context_and_response(name, need(record, name)) for name in (one.first, one.second)
    )
    if shared and other and shared != other:
        raise NoVerdictError(f"{one.first} and {one.second} differ before their last message")
    plain, shared = shared is None and other is None, shared or other or []
    prompt = None if one.prompt is None else need(record, one.prompt)
    if prompt is None and plain:
        prompt = common_beginning(first, second)
        if not prompt:
            raise ValueError(f"there is no prompt: {one.first} and {one.second} begin with different words")
        first, second = first[len(prompt) :], second[len(prompt) :]
    extra = record.get("messages") if one.first == "chosen" and one.prompt != "messages" else None
    if extra is not None and shared and (messages_in("messages", extra) or shared)[: len(shared)] != shared:
        raise ValueError(f"messages and the messages before the responses differ, got {short(extra)}")
    return _checked_prompt(merged(prompt, one.prompt or "prompt", _system(record), shared)), first, second


def _system(record: Record) -> str | None:
    for name in SYSTEM:
        if record.get(name) is not None:
            if not isinstance(record[name], str):
                raise ValueError(f"{name} must be text, got {short(record[name])}")
            return record[name]
    return None


def _checked_prompt(value: str | Sequence[Message]) -> str:
    try:
        return read_prompt("", value if isinstance(value, str) else list(value))
    except ValueError as error:
        raise ValueError(str(error).removeprefix(": ")) from error


def outcome(record: Record, one: Format, soft: bool = False) -> float:
    """Returns who won: 1 the first, 0 the second, 1/2 a tie, a share between.

    Raises:
        ValueError: naming the field and what was expected.
    """
    if one.winner is None:
        return 1.0
    value = need(record, one.winner)
    outcome = (one.rule.soft if soft and one.rule.soft else one.rule.outcome)(value)
    if outcome is None:
        raise ValueError(f"{one.winner} must be {one.rule.expected}, got {short(value)}")
    return outcome


def margin(record: Record, one: Format) -> float | None:
    """Returns how much better the preferred response is, by the record itself; None if it does not say.

    A field `margin` (TRL's name for it) or the distance of two scores as they stand, of HelpSteer's strength the third,
    which are Llama 2's margins: 1 much better, 2/3 better, 1/3 slightly better, 0 a tie.
    """
    value = record.get("margin")
    if value not in (None, ""):
        return _number_at_least_0("margin", value)
    if one.winner is not None and one.rule.soft is not None:
        share = one.rule.soft(need(record, one.winner))
        return None if share is None else abs(2 * share - 1)
    return None


def _number_at_least_0(name: str, value: object) -> float:
    """Returns a number, which a table of text writes as one.

    Raises:
        ValueError: naming the field, if it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a number at least 0, got {short(value)}")
    return number
