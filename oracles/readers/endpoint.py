"""A language model behind an OpenAI-compatible endpoint as a judge: it names the better response by a letter."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import Tensor

from preference_duel.checks import at_least, positive, require
from preference_duel.protocols import Unanswered

_log = logging.getLogger(__name__)
_LABELS = "A", "B"
_TRIED = 20
"""Pairs after which a judge that answers less than half of them is no judge."""
_GARBAGE = KeyError, TypeError, IndexError, AttributeError, JSONDecodeError, UnicodeDecodeError
"""Errors of reading an answer that is not in the expected form."""
Question = tuple[str, str, str]

TEMPLATE = """Two assistants answered the same request. Which answer is better?
Reply with one letter, A or B, and nothing else.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}"""


@dataclass(frozen=True)
class EndpointConfig:
    """Question, requests and cache of an endpoint."""

    model: str | None = None
    """Its name there; None: the first that the endpoint lists."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the endpoint wants one; it is written nowhere."""
    logprobs: bool = True
    """Read the letters' log-probabilities; False: only which letter is written, for endpoints that give none."""
    template: str = TEMPLATE
    """The question, with {prompt}, {first} and {second}; it asks for A or B."""
    retries: int = 6
    """Repetitions of a question after a failure, >= 0."""
    backoff: float = 1.0
    """Seconds before the first repetition, > 0, twice as many before each further one, 30 at most."""
    timeout: float = 60.0
    """Seconds to wait for an answer, > 0."""
    concurrency: int = 16
    """Questions under way at once, >= 1."""
    cache: str | None = None
    """A file that keeps every answer; None: none are kept."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        require(self, "endpoint.", retries=at_least(0), concurrency=at_least(1), backoff=positive, timeout=positive)
        missing = [name for name in ("{prompt}", "{first}", "{second}") if name not in self.template]
        if missing:
            raise ValueError(f"endpoint.template lacks {', '.join(missing)}")


class EndpointJudge:
    """Asks in both orders; P is the mean of the letters' probabilities.

    Where one order brings no letter the other one counts alone, where neither does the pair is a draw, 1/2; both are
    counted, and nothing else is ever made up: an endpoint that fails for good raises.

    Attributes:
        unread: answers without a letter so far.
        draws: pairs without a letter in either order so far.

    Args:
        address: of the endpoint, such as http://localhost:8000/v1.
        config: question, requests and cache.

    Raises:
        Unanswered: if it lists no models, where none is named.
    """

    antisymmetric = True

    def __init__(self, address: str, config: EndpointConfig) -> None:
        self.address, self.config = address.rstrip("/"), config
        self.unread = self.draws = self._asked = 0
        key = os.environ.get(config.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout)
        self.model = config.model or self._send("GET", "/models", None, lambda answer: answer["data"][0]["id"])
        self._kept = None if config.cache is None else _Kept(Path(config.cache))

    @property
    def description(self) -> str:
        """The judge's model and address, for the first line of a run."""
        return f"judge {self.model} at {self.address}"

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64; equal texts are 1/2 without a question.

        Raises:
            Unanswered: if a question found no answer after all repetitions.
            ValueError: if the endpoint refuses the question, or hardly ever answers with a letter.
        """
        pairs = list(zip(prompts, first, second, strict=True))
        different = list(dict.fromkeys(one for one in pairs if one[1] != one[2]))
        questions = [question for x, a, b in different for question in ((x, a, b), (x, b, a))]
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            answers = list(pool.map(self._chance, questions))
        prob = {
            pair: self._together(straight, turned)
            for pair, straight, turned in zip(different, answers[::2], answers[1::2], strict=True)
        }
        return torch.tensor([prob.get(one, 0.5) for one in pairs], dtype=torch.float64)

    def _together(self, straight: float | None, turned: float | None) -> float:
        """Returns P of one pair, of the chances of the letter A in either order."""
        chances = [p for p in (straight, None if turned is None else 1 - turned) if p is not None]
        self._asked += 1
        self.unread += 2 - len(chances)
        if chances:
            return sum(chances) / len(chances)
        self.draws += 1
        if self.draws == 1:
            _log.warning("the judge named neither A nor B for a pair, which counts as a draw; `draws` counts them")
        if self._asked >= _TRIED and self.draws > self._asked / 2:
            raise ValueError(
                f"{self.model} named neither A nor B for {self.draws} of {self._asked} pairs; is it a chat model? "
                f"Change the question (--oracle.endpoint.template) or the model"
            )
        return 0.5

    def _chance(self, question: Question) -> float | None:
        """Returns the chance of the letter A; None where neither letter was written."""
        name = None
        if self._kept is not None:
            name = _digest(self.address, self.model, self.config.template, str(self.config.logprobs), *question)
            chance, known = self._kept.get(name)
            if known:
                return chance
        prompt, first, second = question
        text = self.config.template.format(prompt=prompt, first=first, second=second)
        content = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 1,
            **({"logprobs": True, "top_logprobs": 20} if self.config.logprobs else {}),
        }
        chance = self._send("POST", "/chat/completions", content, self._read)
        if self._kept is not None and name is not None:
            self._kept.put(name, chance)
        return chance

    def _read(self, answer: Any) -> float | None:
        """Returns the chance of A in an answer.

        Raises:
            KeyError, TypeError, IndexError, AttributeError: if it is none.
            ValueError: if there are no log-probabilities, which were asked for.
        """
        choice = answer["choices"][0]
        if not self.config.logprobs:
            text = (choice["message"]["content"] or "").strip().strip("*[(\"'")[:1].upper()
            return None if text not in _LABELS else float(text == _LABELS[0])
        steps = (choice.get("logprobs") or {}).get("content")
        if steps is None:
            raise ValueError(
                f"{self.address} gives no log-probabilities; with --oracle.endpoint.no-logprobs the letter itself "
                f"counts, as 0 or 1"
            )
        mass = dict.fromkeys(_LABELS, 0.0)
        for one in steps[0]["top_logprobs"]:
            if (letter := one["token"].strip()) in mass:
                mass[letter] += math.exp(one["logprob"])
        total = sum(mass.values())
        return None if total == 0 else mass[_LABELS[0]] / total

    def _send(self, verb: str, path: str, content: Any, read: Callable[[Any], Any]) -> Any:
        """Returns what `read` makes of an answer, repeated after a failure."""
        wait, failure = self.config.backoff, ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(wait)
                wait = min(30.0, 2 * wait)
            try:
                response = self._client.request(verb, self.address + path, json=content)
                if response.is_success:
                    return read(response.json())
                failure = f"{response.status_code}: {response.text[:200]}"
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    raise ValueError(f"{self.address}{path} refuses the question with {failure}")
                with contextlib.suppress(KeyError, ValueError):
                    wait = min(30.0, max(wait, float(response.headers["retry-after"])))
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {error}"
            except _GARBAGE as error:
                failure = f"no answer in the expected form ({type(error).__name__}: {error})"
        raise Unanswered(f"{self.address}{path} failed {self.config.retries + 1} times, the last time with {failure}")


class _Kept:
    """Answers in a file, which several processes may share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.execute("create table if not exists answers (question text primary key, chance real)")

    def get(self, question: str) -> tuple[float | None, bool]:
        """Returns the answer, and whether there is one."""
        with self._open() as base:
            row = base.execute("select chance from answers where question = ?", (question,)).fetchone()
        return (None, False) if row is None else (row[0], True)

    def put(self, question: str, chance: float | None) -> None:
        """Keeps an answer."""
        with self._open() as base:
            base.execute("insert or replace into answers values (?, ?)", (question, chance))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        base = sqlite3.connect(self._path, timeout=60)
        try:
            with base:
                yield base
        finally:
            base.close()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
