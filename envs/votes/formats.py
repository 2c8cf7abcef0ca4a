"""Formats of preference data: which fields hold prompt, responses, items and the verdict, and what its values say."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from envs.votes.messages import Message, checked_text
from preference_duel.json_text import short
from preference_duel.names import nearest

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """Meaning of the values of a verdict's field.

    Attributes:
        expected: the values that are understood, for messages.
        outcome: value -> 1 if the first won, 0 if the second did, 1/2 for a tie, a share between; None: not understood.
        soft: the same with a verdict's strength as a share; None: there is no strength.
    """

    expected: str
    outcome: Callable[[Any], float | None]
    soft: Callable[[Any], float | None] | None = None


def _plain(value: Any) -> Any:
    """Returns numbers that were written as text as numbers, and words without case and spaces around."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value.strip().casefold()


def _number(value: Any) -> float | None:
    plain = _plain(value)
    return float(plain) if isinstance(plain, (int, float)) and math.isfinite(plain) else None


def one_of(first: Sequence[Any], second: Sequence[Any], tie: Sequence[Any] = ()) -> Rule:
    """Returns the rule of a field with a few values: those that name the first, the second, and ties."""
    values = {_plain(v): won for won, names in ((1.0, first), (0.0, second), (0.5, tie)) for v in names}

    def outcome(value: Any) -> float | None:
        return values.get(_plain(value)) if isinstance(value, (str, int, float)) else None

    return Rule(" or ".join(str(v) for names in (first, second, tie) for v in names), outcome)


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _strength(value: Any) -> float | None:
    number = _number(value)
    return None if number is None or abs(number) > 3 else 0.5 - 0.5 * math.copysign(1, number) if number else 0.5


def _soft_strength(value: Any) -> float | None:
    number = _number(value)
    return None if number is None or abs(number) > 3 else 0.5 - number / 6


def _from_one_to_two(value: Any) -> float | None:
    number = _number(value)
    return 2 - number if number is not None and 1 <= number <= 2 else None


def _label(value: Any) -> float | None:
    plain = _plain(value)
    return {"true": 1.0, "false": 0.0}.get(plain) if isinstance(plain, str) else _share(value)


SHARE = Rule("1 (the first won), 0, or a share between them", _share)
STRENGTH = Rule("a number from -3 (the first is much better) to 3", _strength, _soft_strength)
LABEL = Rule("true, false or a share in [0, 1]", _label)
ARENA = one_of(["model_a"], ["model_b"], ["tie", "tie (bothbad)", "both_bad"])
WORDS = one_of(
    ["first", "left", "model_a", "a", "chosen"],
    ["second", "right", "model_b", "b", "rejected"],
    ["tie", "tie (bothbad)", "both_bad", "both"],
)
"""Words that a field may have which is named by the user."""


@dataclass(frozen=True)
class Format:
    """The fields of one layout.

    Attributes:
        name: what `data.format` calls it.
        needs: the fields by which it is known.
        first: field of the first response, text or messages; None: rows name items and hold no texts.
        second: field of the other one.
        winner: field of the verdict; None: the first was preferred.
        rule: what the verdict's values say.
        prompt: field of the prompt, text or messages; None: what the responses' messages or texts begin with.
        items: pairs of fields that name what gave the first and the second response; the first pair that is there.
        annotators: fields that name the voter; the first that is there.
        prompts: fields that together name the prompt of a vote; those that are there. None: the prompt itself.
        seated: whether the first is the one that was shown first.
        ranked: whether the file lists the better one first.
        response: field of the only response, if a row's verdict is about one; None: it is about two.
        rows: a record -> records with the fields above, where the file nests or lists them.
    """

    name: str
    needs: tuple[str, ...]
    first: str | None = None
    second: str | None = None
    winner: str | None = None
    rule: Rule = SHARE
    prompt: str | None = "prompt"
    items: tuple[tuple[str, str], ...] = ()
    annotators: tuple[str, ...] = ()
    prompts: tuple[str, ...] | None = None
    seated: bool = False
    ranked: bool = False
    response: str | None = None
    rows: Callable[[Record], Iterator[dict[str, Any]]] | None = None

    @property
    def holds_pairs(self) -> bool:
        """Whether rows compare two responses."""
        return self.first is not None or bool(self.items)


def need(record: Record, name: str) -> Any:
    """Returns a field.

    Raises:
        ValueError: if the record has it not, with what it has.
    """
    if record.get(name) is None:
        raise ValueError(
            f"has no field '{name}'{nearest(name, record) or '.'} It has {sorted(given_fields([record]))}."
        )
    return record[name]


def _pairs(prompt: Any, name: str, answers: Sequence[Sequence[Any]], best: int) -> Iterator[dict[str, Any]]:
    """Yields every pair of a field's (response, item, number), numbers being scores if best is 1, ranks if it is -1.

    A pair's `share` is what its list says of it: sigma of the difference of two scores, 1 or 0 of two ranks. Scores
    also give it a `margin`, their distance.
    """
    for i, (text, _, number) in enumerate(answers):
        checked_text(f"{name}[{i}]", text)
        if _number(number) is None:
            raise ValueError(f"{name}[{i}] must have a number that ranks it, got {short(number)}")
    for (first, item, a), (second, other, b) in combinations(answers, 2):
        gap = best * (float(a) - float(b))
        outcome = 0.5 if gap == 0 else float(gap > 0)
        yield {
            "prompt": prompt,
            "first": first,
            "second": second,
            "first_item": item,
            "second_item": other,
            "outcome": outcome,
            "share": 0.5 + 0.5 * math.tanh(gap / 2) if best == 1 else outcome,
            **({"margin": abs(gap)} if best == 1 else {}),
        }


def _listed(name: str, value: Any, least: int = 2) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < least:
        raise ValueError(f"{name} must be a list of at least {least}, got {short(value)}")
    return list(value)


def _fields(name: str, value: Any, *fields: str) -> list[Any]:
    if not isinstance(value, Mapping) or fields[0] not in value:
        raise ValueError(f"{name} must be an object with {', '.join(fields)}, got {short(value)}")
    return [value.get(field) for field in fields]


def _nectar(record: Record) -> Iterator[dict[str, Any]]:
    answers = _listed("answers", need(record, "answers"))
    texts = [_fields(f"answers[{i}]", one, "answer", "model", "rank") for i, one in enumerate(answers)]
    return _pairs(need(record, "prompt"), "answers", texts, best=-1)


def _answers(record: Record, responses: str, numbers: str, models: Sequence[str]) -> list[tuple[Any, Any, Any]]:
    """Returns (response, model, number) of lists in fields of their own; the first of `models` that is there."""
    texts, values = _listed(responses, need(record, responses)), _listed(numbers, need(record, numbers))
    items = next((record[name] for name in models if record.get(name)), [None] * len(texts))
    if not len(texts) == len(values) == len(_listed(models[0], items)):
        got = ", ".join(str(len(values)) for values in (texts, values, items))
        raise ValueError(f"{responses}, {numbers} and {models[0]} must be of one length, got {got}")
    return list(zip(texts, items, values, strict=True))


def _ranking(record: Record) -> Iterator[dict[str, Any]]:
    answers = _answers(record, "responses", "scores", ("models",))
    return _pairs(need(record, "prompt"), "responses", answers, best=1)


def _distilabel(record: Record) -> Iterator[dict[str, Any]]:
    answers = _answers(record, "generations", "ratings", ("generation_models", "model_names"))
    return _pairs(need(record, "instruction"), "generations", answers, best=1)


def _ranked(record: Record) -> Iterator[dict[str, Any]]:
    answers = _answers(record, "responses", "ranking", ("models",))
    ranks = [number for _, _, number in answers]
    if sorted(_number(rank) or 0 for rank in ranks) != list(range(1, len(ranks) + 1)):
        raise ValueError(
            f"ranking must hold each of 1 (the best) to {len(ranks)} once, without ties and gaps, got {short(ranks)}; "
            f"a list with ties has scores"
        )
    return _pairs(need(record, "prompt"), "responses", answers, best=-1)


def _ultrafeedback(record: Record) -> Iterator[dict[str, Any]]:
    completions = _listed("completions", need(record, "completions"))
    fields = "response", "model", "overall_score"
    texts = [_fields(f"completions[{i}]", one, *fields) for i, one in enumerate(completions)]
    return _pairs(need(record, "instruction"), "completions", texts, best=1)


def _summarize(record: Record) -> Iterator[dict[str, Any]]:
    info = need(record, "info") if isinstance(need(record, "info"), Mapping) else {}
    post = info.get("post") or info.get("article")
    if post is None:
        raise ValueError(f"info must have a post or an article, got {short(record['info'])}")
    summaries = _listed("summaries", need(record, "summaries"))
    if len(summaries) != 2:
        raise ValueError(f"summaries must be two, got {len(summaries)}")
    texts = [_fields(f"summaries[{i}]", one, "text", "policy") for i, one in enumerate(summaries)]
    (first, item), (second, other) = texts
    for i, (text, _) in enumerate(texts):
        checked_text(f"summaries[{i}]", text)
    yield {
        **record,
        "prompt": post,
        "first": first,
        "second": second,
        "first_item": item,
        "second_item": other,
    }


def _alpaca(record: Record) -> Iterator[dict[str, Any]]:
    question = "\n".join(str(part) for part in (need(record, "instruction"), record.get("input")) if part)
    turns: list[Message] = []
    for turn in _listed("history", record["history"], 1) if record.get("history") else ():
        user, assistant = _listed("history", turn)[:2]
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    prompt = [*turns, {"role": "user", "content": question}] if turns else question
    yield {**record, "prompt": prompt}


_MODELS = ("chosen_model", "rejected_model"), ("chosen-model", "rejected-model")
_LISTED: dict[str, Any] = {
    "first": "first",
    "second": "second",
    "winner": "outcome",
    "items": (("first_item", "second_item"),),
    "ranked": True,
}
_CHOSEN: dict[str, Any] = {"first": "chosen", "second": "rejected", "items": _MODELS}
FORMATS = {
    one.name: one
    for one in (
        Format("chosen_rejected", ("prompt", "chosen", "rejected"), **_CHOSEN),
        Format(
            "first_second",
            ("prompt", "first", "second", "outcome"),
            "first",
            "second",
            "outcome",
            items=(("first_item", "second_item"),),
            annotators=("annotator",),
            seated=True,
        ),
        Format("duels", ("prompt", "left", "right", "prob"), "left", "right", "prob", seated=True),
        Format(
            "arena",
            ("model_a", "model_b", "winner"),
            "conversation_a",
            "conversation_b",
            "winner",
            ARENA,
            prompt=None,
            items=(("model_a", "model_b"),),
            annotators=("judge", "judge_hash", "evaluation_session_id", "annotator"),
            prompts=("question_id", "turn"),
            seated=True,
        ),
        Format(
            "crowd",
            ("winner", "left", "right", "model_x", "model_y"),
            winner="winner",
            rule=one_of(["left"], ["right"], ["tie"]),
            items=(("left", "right"),),
            annotators=("worker",),
            prompts=("prompt",),
            seated=True,
        ),
        Format(
            "winner_loser",
            ("winner", "loser"),
            items=(("winner", "loser"),),
            annotators=("annotator", "worker", "judge"),
            prompts=("prompt", "question_id"),
        ),
        Format(
            "helpsteer2",
            ("prompt", "response_1", "response_2", "preference_strength"),
            "response_1",
            "response_2",
            "preference_strength",
            STRENGTH,
            seated=True,
        ),
        Format(
            "helpsteer3",
            ("context", "response1", "response2", "overall_preference"),
            "response1",
            "response2",
            "overall_preference",
            STRENGTH,
            prompt="context",
            seated=True,
        ),
        Format(
            "pku",
            ("prompt", "response_0", "response_1", "better_response_id"),
            "response_0",
            "response_1",
            "better_response_id",
            one_of([0], [1]),
            items=(("response_0_source", "response_1_source"),),
        ),
        Format(
            "pku_safer",
            ("prompt", "response_0", "response_1", "safer_response_id"),
            "response_0",
            "response_1",
            "safer_response_id",
            one_of([0], [1]),
            items=(("response_0_source", "response_1_source"),),
        ),
        Format(
            "shp",
            ("history", "human_ref_A", "human_ref_B", "labels"),
            "human_ref_A",
            "human_ref_B",
            "labels",
            one_of([1], [0]),
            prompt="history",
        ),
        Format(
            "alpaca_eval",
            ("instruction", "output_1", "output_2", "preference"),
            "output_1",
            "output_2",
            "preference",
            Rule("a number from 1 (the first) to 2 (the second)", _from_one_to_two),
            prompt="instruction",
            items=(("generator_1", "generator_2"),),
            annotators=("annotator",),
        ),
        Format(
            "summarize",
            ("info", "summaries", "choice"),
            "first",
            "second",
            "choice",
            one_of([0], [1]),
            items=(("first_item", "second_item"),),
            annotators=("worker",),
            rows=_summarize,
        ),
        Format("nectar", ("prompt", "answers"), **_LISTED, rows=_nectar),
        Format("ranking", ("prompt", "responses", "scores"), **_LISTED, rows=_ranking),
        Format("ranked", ("prompt", "responses", "ranking"), **_LISTED, rows=_ranked),
        Format("distilabel", ("instruction", "generations", "ratings"), **_LISTED, rows=_distilabel),
        Format("ultrafeedback", ("instruction", "completions"), **_LISTED, rows=_ultrafeedback),
        Format("sharegpt", ("conversations", "chosen", "rejected"), **_CHOSEN, prompt="conversations"),
        Format("alpaca", ("instruction", "chosen", "rejected"), **_CHOSEN, rows=_alpaca),
        Format("orca", ("question", "chosen", "rejected"), **_CHOSEN, prompt="question"),
        Format("messages", ("messages", "chosen", "rejected"), **_CHOSEN, prompt="messages"),
        Format("implicit_prompt", ("chosen", "rejected"), **_CHOSEN, prompt=None),
        Format("thumbs", ("prompt", "response", "label"), response="response", winner="label", rule=LABEL),
        Format("kto", ("prompt", "completion", "label"), response="completion", winner="label", rule=LABEL),
        Format("demonstrations", ("prompt", "response"), response="response"),
        Format("completions", ("prompt", "completion"), response="completion"),
        Format("prompts", ("prompt",)),
    )
}
"""By name. Of those whose fields a file has, the one with the most is taken, the first of equals."""
OWN = ("chosen", "rejected"), ("first", "second", "outcome"), ("left", "right", "prob")
"""The ways of saying who won of which a row has one."""
HOW = (
    "name the fields: data.fields prompt=FIELD,chosen=FIELD,rejected=FIELD, or prompt=FIELD,first=FIELD,second=FIELD,"
    "winner=FIELD,first_wins=VALUE,second_wins=VALUE,tie=VALUE; of votes first_item=FIELD,second_item=FIELD,"
    "winner=...; of thumbs prompt=FIELD,response=FIELD,label=FIELD, of demonstrations without label"
)


def given_fields(records: Sequence[Any]) -> dict[str, None]:
    """Returns the fields that have a value in some record, in order."""
    return {
        name: None
        for record in records
        if isinstance(record, Mapping)
        for name, value in record.items()
        if value is not None
    }


def detect(given: Collection[str], pairs: bool = True) -> Format:
    """Returns the format that has these fields.

    Args:
        given: the fields' names.
        pairs: whether the file must compare responses; otherwise its prompts do.

    Raises:
        ValueError: with the fields, the nearest format, and how to name them.
    """
    names = set(given)
    complete = [form for form in OWN if set(form) <= names]
    partly = [form for form in OWN if set(form) & names]
    known = [one for one in FORMATS.values() if set(one.needs) <= names and (one.name != "prompts" or not pairs)]
    if len(complete) > 1 or (not known and len(partly) > 1):
        given = " and ".join(name for form in partly for name in form if name in names)
        raise ValueError(f"has {given}; say who won in one way: chosen and rejected, or first, second and outcome")
    if known:
        return max(known, key=lambda one: len(one.needs))
    close = max(
        (one for one in FORMATS.values() if one.name != "prompts" or not pairs),
        key=lambda one: len(set(one.needs) & names) / len(one.needs),
    )
    if not set(close.needs) & names:
        close = FORMATS["chosen_rejected" if pairs else "prompts"]
    raise ValueError(f"{missing(close, names)} The nearest format is {close.name}: {', '.join(close.needs)}. Or {HOW}")


def missing(one: Format, given: Collection[str]) -> str:
    """Returns the sentence that a field of a format is not there."""
    name = next(name for name in one.needs if name not in given)
    return f"has no field '{name}'{nearest(name, given) or '.'} It has {sorted(given)}."


def named(name: str, given: Collection[str]) -> Format:
    """Returns a format by its name.

    Raises:
        ValueError: if there is none such, or the file has not its fields.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called '{name}'{nearest(name, FORMATS) or '.'} Known: {', '.join(FORMATS)}.")
    if not set(FORMATS[name].needs) <= set(given):
        raise ValueError(f"{missing(FORMATS[name], given)} Format {name} is: {', '.join(FORMATS[name].needs)}.")
    return FORMATS[name]
