"""Pairs of responses to ask an oracle about: drawn from policies, read from a file, or those of given verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from envs.tasks.prompts import read_prompt
from envs.votes.containers import Broken, read_batches
from envs.votes.formats import given_fields, need
from envs.votes.messages import checked_text
from envs.votes.options import ReadOptions
from envs.votes.preferences import load_preferences
from envs.votes.rows import Reading, Rows
from envs.votes.statistics.vote_game import POOLED
from envs.votes.table import Indices, Matrix
from envs.votes.vote_files import load_votes
from preference_duel.json_text import short
from preference_duel.types import messages_of
from runners.evaluation.entrants import Entrant, draw_all


@dataclass(frozen=True)
class Question:
    """Two different responses to a prompt.

    Attributes:
        prompt: with its messages, if it has several.
        texts: the responses, in alphabetical order.
        items: the policies that gave them, or None.
        place: "FILE:LINE", or "" of drawn responses.
    """

    prompt: str
    texts: tuple[str, str]
    items: tuple[str, str] | None = None
    place: str = ""

    @property
    def key(self) -> str:
        """Equal for the same prompt and responses alone."""
        return hashlib.sha256(json.dumps([messages_of(self.prompt), self.texts]).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on questions.

    Attributes:
        questions: each once.
        question: [M] index of each verdict's question.
        outcome: [M] 1 if the question's first response won, 0 if the second did, 1/2 for a tie, or a share.
        reading: what was read of the file.
        named: whether the responses are names of items, since the file holds no texts.
    """

    questions: Sequence[Question]
    question: Indices
    outcome: Matrix
    reading: Reading
    named: bool


def sorted_question(prompt: str, first: str, second: str, items: tuple[str, str] | None, place: str = "") -> Question:
    """Returns a question with its responses in alphabetical order."""
    if second < first:
        return Question(prompt, (second, first), items and (items[1], items[0]), place)
    return Question(prompt, (first, second), items, place)


def drawn_questions(
    entrants: Sequence[Entrant], prompts: Sequence[str], draws: int, seed: int
) -> tuple[list[Question], int]:
    """Returns each pair of policies on each prompt, draw against draw, and how many pairs have equal texts.

    All pairs of draws, if there is one policy.
    """
    texts = draw_all(entrants, prompts, draws, seed, "label")
    if len(entrants) == 1:
        sides = [((0, n), (0, m)) for n, m in combinations(range(draws), 2)]
    else:
        sides = [((i, n), (j, n)) for i, j in combinations(range(len(entrants)), 2) for n in range(draws)]
    found = []
    for b, prompt in enumerate(prompts):
        for (i, n), (j, m) in sides:
            items = None if i == j else (entrants[i].label, entrants[j].label)
            found.append(sorted_question(prompt, texts[i][b][n], texts[j][b][m], items))
    different = [one for one in found if one.texts[0] != one.texts[1]]
    return different, len(found) - len(different)


def read_questions(path: str, split: str | None = None) -> tuple[list[Question], int]:
    """Reads records with prompt and responses (a list), or prompt, first and second; optionally models, of a list.

    Returns:
        All pairs of each record, and how many have equal texts.

    Raises:
        ValueError: with the place and the field that is wrong.
        OSError: if the file cannot be read.
    """
    found = [
        sorted_question(given.prompt, given.texts[i], given.texts[j], given.pair(i, j), given.place)
        for given in read_responses(path, split)
        for i, j in combinations(range(len(given.texts)), 2)
    ]
    if not found:
        raise ValueError(f'{path}: is empty; write {{"prompt": ..., "responses": [..., ...]}} a line')
    different = [one for one in found if one.texts[0] != one.texts[1]]
    return different, len(found) - len(different)


@dataclass(frozen=True)
class Given:
    """The responses that a record gives to a prompt.

    Attributes:
        prompt: with its messages, if it has several.
        texts: the responses.
        models: the policies that gave them, or None.
        place: "FILE:LINE".
    """

    prompt: str
    texts: Sequence[str]
    models: Sequence[str] | None
    place: str

    def pair(self, i: int, j: int) -> tuple[str, str] | None:
        """Returns the policies of two responses."""
        return None if self.models is None else (self.models[i], self.models[j])


def read_responses(path: str, split: str | None = None, least: int = 2) -> Iterator[Given]:
    """Yields the records of a file with prompt and responses (a list), or prompt, first and second.

    Raises:
        ValueError: with the place and the field that is wrong, one of them a list of fewer than `least` responses.
        OSError: if the file cannot be read.
    """
    for batch in read_batches(path, split):
        for i, record in enumerate(batch.records):
            place = batch.place(i)
            try:
                yield _given(record, place, least)
            except ValueError as error:
                raise ValueError(f"{place}: {str(error).removeprefix(f'{place}: ')}") from error


def _given(record: object, place: str, least: int) -> Given:
    if isinstance(record, Broken):
        raise ValueError(record.message)
    if not isinstance(record, Mapping):
        raise ValueError(f"must be an object with prompt and responses, got {short(record)}")
    prompt = read_prompt(place, need(record, "prompt"))
    if record.get("responses") is None and record.get("first") is not None:
        names, texts = ["first", "second"], [need(record, "first"), need(record, "second")]
    else:
        texts = need(record, "responses")
        if not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) < least:
            raise ValueError(f"responses must be a list of at least {least} texts, got {short(texts)}")
        names = [f"responses[{i}]" for i in range(len(texts))]
    texts = [checked_text(name, text) for name, text in zip(names, texts, strict=True)]
    models = record.get("models")
    if models is not None and (not isinstance(models, list) or len(models) != len(texts)):
        raise ValueError(f"models must be a list of {len(texts)} names, one of each response, got {short(models)}")
    return Given(prompt, texts, None if models is None else [str(model) for model in models], place)


def read_verdicts(path: str, options: ReadOptions) -> Verdicts:
    """Reads verdicts on texts, or on names of items if the file holds no texts.

    Raises:
        ValueError: with the place that is wrong; if the file holds no verdicts between two responses.
        OSError: if it cannot be read.
    """
    rows: list[tuple[str, str, str, float, str]]
    if named := _holds_names(path, options):
        table, reading = load_votes(path, options)
        prompts = reading.prompts if table.prompts is not None else [POOLED]
        of_row = np.zeros(len(table), dtype=np.int64) if table.prompts is None else table.prompts
        columns = zip(of_row.tolist(), table.first.tolist(), table.second.tolist(), table.outcome.tolist(), strict=True)
        rows = [(prompts[p], table.items[int(a)], table.items[int(b)], won, "") for p, a, b, won in columns]
    else:
        pairs, reading = load_preferences(path, options)
        rows = [(one.prompt, one.first, one.second, one.outcome, one.place) for one in pairs]
    index: dict[tuple[str, tuple[str, str]], int] = {}
    questions: list[Question] = []
    places, outcomes = [], []
    for prompt, first, second, outcome, place in rows:
        question = sorted_question(prompt, first, second, None, place)
        key = (json.dumps(messages_of(prompt)), question.texts)
        if key not in index:
            index[key] = len(questions)
            questions.append(question)
        places.append(index[key])
        outcomes.append(outcome if question.texts[0] == first else 1 - outcome)
    return Verdicts(questions, np.array(places, dtype=np.int64), np.array(outcomes), reading, named)


def _holds_names(path: str, options: ReadOptions) -> bool:
    """Returns whether rows name items and hold no texts."""
    for batch, one in Rows(path, options, "votes").batches():
        return one.first is None or (one.prompt is None and one.first not in given_fields(batch.records))
    return False
