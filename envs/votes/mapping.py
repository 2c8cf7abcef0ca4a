"""Layouts of a user's own: which field is the prompt, the responses, and the verdict, and what its values say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from envs.votes.formats import LABEL, SHARE, WORDS, Format, Record, Rule, one_of
from preference_duel.names import nearest

MAPPED = (
    "prompt",
    "system",
    "chosen",
    "rejected",
    "response",
    "label",
    "first",
    "second",
    "winner",
    "outcome",
    "first_wins",
    "second_wins",
    "tie",
    "chosen_item",
    "rejected_item",
    "first_item",
    "second_item",
    "annotator",
)
"""Names that `data.fields` may give."""
VALUES = "first_wins", "second_wins", "tie"
"""Those of them that are values of the field `winner`."""


def parse_fields(text: str) -> dict[str, str]:
    """Reads "prompt=history,first=human_ref_A,...".

    Raises:
        ValueError: if it has another form.
    """
    fields = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and value) or name in fields:
            raise ValueError(f"data.fields must be NAME=FIELD,NAME=FIELD with each name once, got '{text}'")
        fields[name] = value
    return fields


def mapped(fields: Mapping[str, str], record: Record, pairs: bool = True) -> Format:
    """Returns the format that a user's mapping describes.

    Args:
        fields: of MAPPED, what the file calls each; "a.0.b" goes into objects and lists. first_wins, second_wins and
            tie are values of `winner`, alternatives separated by "|".
        record: a record, whose fields must be there.
        pairs: whether responses or items are needed.

    Raises:
        ValueError: if it names what is not there, or does not say who won.
    """
    _require_names(fields, record)
    if {"response", "label"} & set(fields):
        return _singles(fields)
    roles, seats = ("chosen", "rejected"), ("first", "second")
    ways = [pair for pair in (roles, seats) if {*pair, f"{pair[0]}_item", f"{pair[1]}_item"} & set(fields)]
    if not pairs and not ways:
        if "prompt" not in fields:
            raise ValueError(f"data.fields must name the prompt, got {', '.join(fields)}")
        return Format("fields", (fields["prompt"],), prompt=fields["prompt"], rows=_walk(fields))
    if len(ways) != 1:
        raise ValueError(f"data.fields must name chosen and rejected, or first and second, got {', '.join(fields)}")
    pair = ways[0]
    items = tuple(f"{side}_item" for side in pair)
    for both in (pair, items):
        if len(set(both) & set(fields)) == 1:
            raise ValueError(f"data.fields must name both {both[0]} and {both[1]}, got {', '.join(fields)}")
    verdict = [name for name in ("winner", "outcome") if name in fields]
    if set(VALUES) & set(fields) and verdict != ["winner"]:
        raise ValueError(f"data.fields: {', '.join(VALUES)} are values of winner, which is not named")
    if len(verdict) != (pair == seats):
        wanted = (
            "winner or outcome beside first and second" if pair == seats else "no winner beside chosen and rejected"
        )
        raise ValueError(f"data.fields must name {wanted}, got {', '.join(fields)}")
    first, second = (fields.get(side) for side in pair)
    return Format(
        "fields",
        tuple(fields[name] for name in ("prompt", *pair, *items, *verdict) if name in fields),
        first,
        second,
        fields[verdict[0]] if verdict else None,
        SHARE if verdict == ["outcome"] else _user_rule(fields),
        prompt=fields.get("prompt"),
        items=((fields[items[0]], fields[items[1]]),) if items[0] in fields else (),
        annotators=(fields["annotator"],) if "annotator" in fields else (),
        seated=pair == seats,
        rows=_walk(fields),
    )


def _singles(fields: Mapping[str, str]) -> Format:
    """Returns the format of single responses: thumbs, or demonstrations if they have no label."""
    if not {"prompt", "response"} <= set(fields) <= {"prompt", "response", "label", "system"}:
        raise ValueError(
            f"data.fields of thumbs must name prompt, response and label, of demonstrations prompt and response, got "
            f"{', '.join(fields)}"
        )
    return Format(
        "fields",
        tuple(fields[name] for name in ("prompt", "response", "label") if name in fields),
        response=fields["response"],
        winner=fields.get("label"),
        rule=LABEL,
        prompt=fields["prompt"],
        rows=_walk(fields),
    )


def _require_names(fields: Mapping[str, str], record: Record) -> None:
    """Raises if a mapping names what no preference has, or what the file has not."""
    for name, field in fields.items():
        if name not in MAPPED:
            hint = nearest(name, MAPPED) or "."
            raise ValueError(f"data.fields: '{name}' is nothing of a preference{hint} Known: {', '.join(MAPPED)}.")
        if name not in VALUES and get(record, field) is None:
            hint = nearest(field, record) or "."
            raise ValueError(f"data.fields: there is no field '{field}'{hint} It has {sorted(record)}.")


def _user_rule(fields: Mapping[str, str]) -> Rule:
    if not set(VALUES) & set(fields):
        return dataclasses.replace(WORDS, expected=f"{WORDS.expected} (or say first_wins=, second_wins=, tie=)")
    if not {"first_wins", "second_wins"} <= set(fields):
        raise ValueError("data.fields must say both first_wins and second_wins, the values of winner")
    return one_of(*(fields[name].split("|") if name in fields else [] for name in VALUES))


def _walk(fields: Mapping[str, str]) -> Callable[[Record], Iterator[dict[str, Any]]]:
    wanted = {name: field for name, field in fields.items() if name not in VALUES}

    def rows(record: Record) -> Iterator[dict[str, Any]]:
        for name, field in wanted.items():
            if name not in ("system", "annotator") and get(record, field) is None:
                raise ValueError(f"has no field '{field}', the {name} of data.fields. It has {sorted(record)}.")
        values = {field: get(record, field) for field in wanted.values()}
        yield {**values, "system": values[wanted["system"]]} if "system" in wanted else values

    return rows


def get(record: Any, field: str) -> Any:
    """Returns a field, or what "a.0.b" leads to; None if there is none."""
    if isinstance(record, Mapping) and field in record:
        return record[field]
    for part in field.split("."):
        if isinstance(record, Mapping):
            record = record.get(part)
        elif isinstance(record, list) and part.isdecimal() and int(part) < len(record):
            record = record[int(part)]
        else:
            return None
    return record
