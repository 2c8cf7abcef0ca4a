"""Generative reward models in NVIDIA's form: two roles for the responses, and scores with a ranking as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from oracles.judging.verdicts import Verdict, only
from preference_duel.types import messages_of

_SCORES = "score_1", "score_2"
"""1 to 5, the better the higher."""
_RANKING = "ranking"
"""1, the first response is much better, to 6, the second is."""


def messages(prompt: str, first: str, second: str) -> list[dict[str, str]]:
    """Returns a question: the conversation, then each response in a role of its own, as the model's template wants."""
    responses = {"response_1": first, "response_2": second}
    return [*messages_of(prompt), *({"role": role, "content": text} for role, text in responses.items())]


def read(text: str) -> Verdict:
    """Returns the verdict of an answer with {"score_1": 1..5, "score_2": 1..5, "ranking": 1..6}, text around it or not.

    The higher score is better, and the ranking decides between equal ones. An answer is unread if a number is out of
    range, the ranking and the scores contradict each other, or two objects do.
    """
    return only({_verdict(found) for found in _objects(text) if found.keys() & {*_SCORES, _RANKING}})


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects in a text; of {"overall": {...}} what is inside."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
            yield found["overall"] if isinstance(found.get("overall"), dict) else found
        except (ValueError, RecursionError):  # no JSON, digits without end, or braces
            end = start + 1
        start = text.find("{", end)


def _verdict(found: dict[str, Any]) -> Verdict:
    scores, ranking = [found.get(name) for name in _SCORES], found.get(_RANKING, 3.5)
    if not _number(ranking, 6) or not (scores == [None, None] or all(_number(score, 5) for score in scores)):
        return "unread"
    lead = 0.0 if scores[0] is None or scores[1] is None else scores[0] - scores[1]
    sides = {value > 0 for value in (lead, 3.5 - ranking) if value}
    if len(sides) > 1:
        return "unread"
    return "tie" if not sides else "first" if sides.pop() else "second"


def _number(value: Any, highest: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= highest
