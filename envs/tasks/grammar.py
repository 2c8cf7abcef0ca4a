"""The embedded language: short help answers that differ in tone, length, detail and in what they are about.

    answer := [opener] advice [", then " advice] "." [closer]
    advice := what to do [detail with an amount]

Both pieces of advice speak of one subject. The words are in `envs.tasks.subjects`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from envs.tasks.subjects import CLOSERS, OPENERS, QUESTIONS, TOPICS
from preference_duel.keyed_random import Key, Stream

T = TypeVar("T")
Split = Literal["train", "held_out"]
Style = Literal["warm", "concise", "specific", "plain", "mixed"]

STYLES: tuple[Style, ...] = ("warm", "concise", "specific")
"""The three pure styles: opener, advice and closer; one piece of advice; two pieces with their details."""

CORPUS: dict[Style, float] = {"warm": 0.25, "concise": 0.25, "specific": 0.25, "plain": 0.1, "mixed": 0.15}
"""Share of each style in the corpus; plain is two pieces of advice without details."""

DRAWS = 10
"""Number of uniforms that one answer takes."""

HELD_OUT = 4
"""Number of a subject's ten questions that are held out."""

_NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Advice:
    """A piece of advice, and a detail with a choice of amounts ({} is where the amount stands)."""

    action: str
    detail: str
    amounts: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A subject of prompts, with pieces of advice on it."""

    topic: str
    do: str
    doing: str
    advice: tuple[Advice, ...]


@dataclass(frozen=True)
class Parsed:
    """Content and style of an answer of the grammar.

    Attributes:
        topic: one of the eight.
        subject: the subject's verb phrase, such as "cook rice".
        length: words.
        warmth: 0, 1/2 or 1: half for an opener, half for a closer.
        specificity: 0, 1/2 or 1: half for each detail with an amount.
    """

    topic: str
    subject: str
    length: int
    warmth: float
    specificity: float

    @property
    def brevity(self) -> float:
        """1 up to five words, 0 from ten on, linear between."""
        return min(1.0, max(0.0, (10 - self.length) / 5))

    @property
    def style_shares(self) -> tuple[float, float, float]:
        """How warm, concise and specific the answer is, in shares that sum to at most 1.

        An answer can't have all of every style: what blends them has less of each.
        """
        warm, concise, specific = self.warmth, self.brevity, self.specificity
        total = max(1.0, warm + concise + specific)
        return warm / total, concise / total, specific / total


def _read(topic: str, table: str) -> Iterator[Subject]:
    lines = table.strip().splitlines()
    for start in range(0, len(lines), 4):
        do, doing = lines[start].split(", ")
        yield Subject(topic, do, doing, tuple(map(_advice, lines[start + 1 : start + 4])))


def _advice(line: str) -> Advice:
    action, detail = line.strip().split(" | ")
    amounts = re.search(r"\d+(/\d+)*", detail)
    assert amounts is not None, line
    return Advice(action, detail.replace(amounts[0], "{}"), tuple(amounts[0].split("/")))


SUBJECTS = tuple(subject for topic, table in TOPICS.items() for subject in _read(topic, table))
"""All subjects, topic by topic."""

_ASKED = {
    question.format(do=subject.do, doing=subject.doing): (
        subject,
        "held_out" if (q + 3 * i) % 10 < HELD_OUT else "train",
    )
    for i, subject in enumerate(SUBJECTS)
    for q, question in enumerate(QUESTIONS)
}
_ADVICE = {
    text: (subject, advice, detailed)
    for subject in SUBJECTS
    for advice in subject.advice
    for text, detailed in ((advice.action, False), (f"{advice.action} {advice.detail}", True))
}
_AMOUNTS = {amount for subject in SUBJECTS for advice in subject.advice for amount in advice.amounts}


def prompts(split: Split) -> tuple[str, ...]:
    """Returns the training or the held-out prompts, shuffled the same way every time.

    Every subject and every question form is in both splits; a held-out prompt is a combination that training
    never shows.
    """
    chosen = [prompt for prompt, (_, home) in _ASKED.items() if home == split]
    order = Key(0, stream=Stream.INIT).uniform(k=range(len(chosen))).argsort()
    return tuple(chosen[i] for i in order)


def subject_of(prompt: str) -> Subject:
    """Returns what a prompt asks about.

    Raises:
        ValueError: if it is no prompt of the grammar.
    """
    if prompt not in _ASKED:
        raise ValueError(f"no prompt of the grammar: {prompt!r}; `prompts` lists them all")
    return _ASKED[prompt][0]


def parse(answer: str) -> Parsed | None:
    """Returns what an answer says and how; None where the text is not in the grammar. Space around it is no matter."""
    body = answer.strip()
    opener = next((opener for opener in OPENERS if body.startswith(f"{opener} ")), "")
    body = body.removeprefix(f"{opener} ") if opener else body
    closer = next((closer for closer in CLOSERS if body.endswith(f". {closer}")), "")
    body = body.removesuffix(f" {closer}") if closer else body
    if not body.endswith(".") or not body[0].isupper():
        return None
    pieces = (body[0].lower() + body[1:-1]).split(", then ")
    found = [_find(piece) for piece in pieces]
    known = [entry for entry in found if entry is not None]
    if len(known) != len(pieces) or len({subject.do for subject, _, _ in known}) != 1:
        return None
    if len({advice.action for _, advice, _ in known}) != len(pieces) or len(pieces) > 2:
        return None
    subject = known[0][0]
    warmth, specificity = (bool(opener) + bool(closer)) / 2, sum(detailed for _, _, detailed in known) / 2
    return Parsed(subject.topic, subject.do, len(answer.split()), warmth, specificity)


def style_of(answer: str) -> str:
    """Returns the pure style that makes up more than half of an answer, "mixed" if none does, or "not parsed"."""
    parsed = parse(answer)
    if parsed is None:
        return "not parsed"
    return next((style for style, part in zip(STYLES, parsed.style_shares, strict=True) if part > 0.5), "mixed")


def pure_answers(prompt: str, key: Key) -> list[str]:
    """Returns one answer on topic in each of `STYLES`."""
    rows = key.uniform(k=range(DRAWS), l=[[i] for i in range(len(STYLES))]).tolist()
    return [sample_answer(prompt, style, True, row) for style, row in zip(STYLES, rows, strict=True)]


def on_topic(prompt: str, answer: str) -> bool:
    """Returns whether an answer is in the grammar and speaks of what the prompt asks about."""
    parsed = parse(answer)
    return parsed is not None and parsed.subject == subject_of(prompt).do


def sample_answer(prompt: str, style: Style, on_topic: bool, uniforms: Sequence[float]) -> str:
    """Returns one answer of the grammar.

    Args:
        prompt: a prompt of the grammar.
        style: how to answer; "mixed" blends warmth and details freely.
        on_topic: whether the answer speaks of the prompt's subject, or of any of the others.
        uniforms: `DRAWS` numbers in [0, 1) that make every choice.
    """
    draw = iter(uniforms)
    subject = subject_of(prompt)
    other = _pick([candidate for candidate in SUBJECTS if candidate is not subject], next(draw))
    subject = subject if on_topic else other
    opener, closer = _pick(OPENERS, next(draw)), _pick(CLOSERS, next(draw))
    first, second = _pick(list(itertools.permutations(subject.advice, 2)), next(draw))
    plain = first.action, second.action
    detailed = tuple(f"{a.action} {a.detail.format(_pick(a.amounts, next(draw)))}" for a in (first, second))
    mixture = [
        (opener, [detailed[0]], ""),
        ("", [detailed[0]], closer),
        (opener, [detailed[0]], closer),
        (opener, [plain[0], plain[1]], ""),
        ("", [plain[0], plain[1]], closer),
        (opener, [detailed[0], plain[1]], ""),
        ("", [plain[0], detailed[1]], closer),
        ("", [detailed[0]], ""),
    ]
    shapes = {
        "warm": (opener, [plain[0]], closer),
        "concise": ("", [plain[0]], ""),
        "specific": ("", list(detailed), ""),
        "plain": ("", list(plain), ""),
        "mixed": _pick(mixture, next(draw)),
    }
    before, pieces, after = shapes[style]
    body = ", then ".join(pieces)
    return " ".join(filter(None, (before, f"{body[0].upper()}{body[1:]}.", after)))


def sample_corpus(asked: Sequence[str], count: int, key: Key, on_topic: float = 0.5) -> list[tuple[str, str]]:
    """Returns `count` pairs of prompt and answer in the styles' shares of `CORPUS`.

    Args:
        asked: the prompts, drawn uniformly.
        count: how many pairs.
        key: names every draw; pair i takes its numbers from row l = i.
        on_topic: the chance that an answer is about what was asked.
    """
    uniforms = key.uniform(k=range(DRAWS + 3), l=[[i] for i in range(count)])
    return [
        (prompt, sample_answer(prompt, draw_style(row[1]), row[2] < on_topic, row[3:]))
        for row in uniforms.tolist()
        for prompt in (_pick(asked, row[0]),)
    ]


def draw_style(uniform: float) -> Style:
    """Returns the style that a number in [0, 1) stands for, by the shares of `CORPUS`."""
    for style, edge in zip(CORPUS, itertools.accumulate(CORPUS.values()), strict=True):
        if uniform < edge:
            return style
    return "mixed"


def _find(piece: str) -> tuple[Subject, Advice, bool] | None:
    amounts = _NUMBER.findall(piece)
    if "{" in piece or not set(amounts) <= _AMOUNTS:
        return None
    return _ADVICE.get(_NUMBER.sub("{}", piece))


def _pick(choices: Sequence[T], uniform: float) -> T:
    return choices[int(uniform * len(choices))]
