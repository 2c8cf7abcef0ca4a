"""A language model behind an OpenAI-compatible endpoint as a judge: it names the better response by a letter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oracles.judging.unread import Unread, UnreadPairs
from preference_duel.checks import at_least, positive, require, within
from preference_duel.deferred import deferred
from preference_duel.types import Unanswered

if TYPE_CHECKING:
    from torch import Tensor

with deferred("httpx"):
    import httpx

_log = logging.getLogger(__name__)
_LABELS = "A", "B"
_ACCOUNT = 401, 402, 403
"""Answers that another key or more credit mends."""
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A place of a question that is filled in; all other braces are text."""
_FILLED = "prompt", "first", "second"
_VERDICT = re.compile(
    r"[\W_]*((the[\W_]+)?(better[\W_]+)?(answer|assistant|response|option|winner)[\W_]+(is[\W_]+)?)?(?P<label>[AB])[\W_]*",
    re.IGNORECASE,
)
"""A first line that names a letter and nothing else, such as B, **B**, Answer: B, {"winner": "B"}."""
_FEWER = 5
"""Log-probabilities that are asked for if an endpoint refuses more: the limit of OpenAI's."""
_ADVICE = (
    "is it a chat model, and does it answer with a letter? Change the question (--oracle.endpoint.template), "
    "--oracle.endpoint.least_mass or the model"
)
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
    """The question, with {prompt}, {first} and {second}; it asks for A or B. Braces around anything but a name are
    text."""
    least_mass: float = 0.5
    """Share of the probability that the letters A and B must hold together, in [0, 1]; with less an answer is
    unread."""
    max_tokens: int = 1
    """Most tokens of an answer, >= 1; models that think first need more."""
    temperature: float | None = 0.0
    """Of the answer, >= 0; None: the endpoint's own."""
    top_logprobs: int = 20
    """Log-probabilities to ask for, >= 1."""
    extra: str = "{}"
    """Further fields of a request, as JSON; they replace those above of the same name, and null leaves a field out:
    {"max_tokens": null, "max_completion_tokens": 500, "reasoning_effort": "low"}."""
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
        require(self, "endpoint.", max_tokens=at_least(1), top_logprobs=at_least(1), least_mass=within("[0, 1]"))
        require(self, "endpoint.", temperature=at_least(0).or_none())
        places = _PLACE.findall(self.template)
        missing = [f"{{{name}}}" for name in _FILLED if name not in places]
        if missing:
            raise ValueError(f"endpoint.template lacks {', '.join(missing)}")
        unknown = [f"{{{name}}}" for name in dict.fromkeys(places) if name not in _FILLED]
        if unknown:
            raise ValueError(
                f"endpoint.template has {', '.join(unknown)}; only {{prompt}}, {{first}}, {{second}} are filled in"
            )
        _ = self.parameters

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields of a request beside model and messages.

        Raises:
            ValueError: if `extra` is no JSON object.
        """
        try:
            extra = json.loads(self.extra)
        except JSONDecodeError as error:
            raise ValueError(f"endpoint.extra must be JSON, got {self.extra!r}: {error}") from None
        if not isinstance(extra, dict):
            raise ValueError(f'endpoint.extra must be a JSON object such as {{"seed": 1}}, got {self.extra!r}')
        logprobs = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.logprobs else {}
        fields = {"temperature": self.temperature, "max_tokens": self.max_tokens, **logprobs, **extra}
        return {name: value for name, value in fields.items() if value is not None}


class EndpointJudge:
    """Asks in both orders; P is the mean of the letters' probabilities.

    An answer is unread if it names no letter as a whole word, or if A and B hold less than `least_mass` of the first
    token's probability. A pair is unread if the answer in either order is; nothing is put in its place. An endpoint
    that fails for good raises. If it refuses
    max_tokens, temperature or the number of log-probabilities by name, the request goes on without, which is logged.

    Attributes:
        unread: the pairs that were unread in either order.

    Args:
        address: of the endpoint, such as http://localhost:8000/v1.
        config: question, requests and cache.
        unread: what an unread pair leads to.

    Raises:
        Unanswered: if it lists no models, where none is named.
    """

    antisymmetric = True

    def __init__(self, address: str, config: EndpointConfig, unread: Unread = "drop") -> None:
        self.address, self.config = address.rstrip("/"), config
        self.leaves_unread = unread == "drop"
        self._parameters, self._lock = config.parameters, threading.Lock()
        key = os.environ.get(config.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout)
        self.model = config.model or self._send("GET", "/models", None, lambda answer: answer["data"][0]["id"])
        self._kept = None if config.cache is None else _Kept(Path(config.cache))
        self.unread = UnreadPairs(self.model, unread, _ADVICE)

    @property
    def description(self) -> str:
        """The judge's model and address, for the first line of a run."""
        return f"judge {self.model} at {self.address}"

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64, NaN if unread; equal texts are 1/2 without a question.

        Raises:
            Unanswered: if a question found no answer after all repetitions, or one is unread and stops the run.
            ValueError: if the endpoint refuses the question, or hardly ever answers with a letter.
        """
        straight, turned = self.both_orders(prompts, first, second)
        return (straight + (1 - turned)) / 2

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        NaN stands for an unread answer.

        Raises:
            Unanswered: as `prob`.
            ValueError: as `prob`.
        """
        pairs = list(zip(prompts, first, second, strict=True))
        different = list(dict.fromkeys(one for one in pairs if one[1] != one[2]))
        questions = [question for x, a, b in different for question in ((x, a, b), (x, b, a))]
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            answers = list(pool.map(self._chance, questions))
        chances = [math.nan if answer is None else answer for answer in answers]
        prob = dict(zip(different, zip(chances[::2], chances[1::2], strict=True), strict=True))
        self.unread.add(len(prob), sum(math.isnan(sum(both)) for both in prob.values()))
        both = torch.tensor([prob.get(one, (0.5, 0.5)) for one in pairs], dtype=torch.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _chance(self, question: Question) -> float | None:
        """Returns the chance of the letter A; None if the answer is unread."""
        name = None
        if self._kept is not None:
            settings = json.dumps([self.config.parameters, self.config.logprobs, self.config.least_mass])
            name = _digest(self.address, self.model, self.config.template, settings, *question)
            chance, known = self._kept.get(name)
            if known:
                return chance
        values: dict[str, str] = dict(zip(_FILLED, question, strict=True))
        text = _PLACE.sub(lambda place: values[place[1]], self.config.template)
        content = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        chance = self._send("POST", "/chat/completions", content, self._read)
        if self._kept is not None and name is not None:
            self._kept.put(name, chance)
        return chance

    def _read(self, answer: Any) -> float | None:
        """Returns the chance of A in an answer; None if it is unread.

        Raises:
            KeyError, TypeError, IndexError, AttributeError: if it is none.
            ValueError: if there are no log-probabilities, which were asked for.
        """
        choice = answer["choices"][0]
        if not self.config.logprobs:
            verdict = _VERDICT.fullmatch((choice["message"]["content"] or "").strip().partition("\n")[0])
            return None if verdict is None else float(verdict["label"].upper() == _LABELS[0])
        steps = (choice.get("logprobs") or {}).get("content")
        if steps is None:
            raise ValueError(
                f"{self.address} gives no log-probabilities; with --oracle.endpoint.no-logprobs the letter itself "
                f"counts, as 0 or 1"
            )
        mass = dict.fromkeys(_LABELS, 0.0)
        for one in steps[0]["top_logprobs"] if steps else ():
            if (letter := one["token"].strip()) in mass:
                mass[letter] += math.exp(one["logprob"])
        total = sum(mass.values())
        return None if total == 0 or total < self.config.least_mass else mass[_LABELS[0]] / total

    def _send(self, verb: str, path: str, content: Any, read: Callable[[Any], Any]) -> Any:
        """Returns what `read` makes of an answer, repeated after a failure."""
        wait, failure = self.config.backoff, ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(wait)
                wait = min(30.0, 2 * wait)
            try:
                response = self._request(verb, path, content)
                if response.is_success:
                    return read(response.json())
                failure = f"{response.status_code}: {response.text[:200]}"
                if response.status_code in _ACCOUNT:
                    raise Unanswered(f"{self.address}{path} refuses the account or its key with {failure}")
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    raise ValueError(
                        f"{self.address}{path} refuses the question with {failure}; fields of the request are set by "
                        f"--oracle.endpoint.max_tokens, temperature, top_logprobs, logprobs and extra"
                    )
                with contextlib.suppress(KeyError, ValueError):
                    wait = min(30.0, max(wait, float(response.headers["retry-after"])))
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {error}"
            except _GARBAGE as error:
                failure = f"no answer in the expected form ({type(error).__name__}: {error})"
        raise Unanswered(f"{self.address}{path} failed {self.config.retries + 1} times, the last time with {failure}")

    def _request(self, verb: str, path: str, content: Any) -> httpx.Response:
        """Returns the answer to one request, sent again with other parameters as long as one is refused by name."""
        while True:
            sent = self._parameters
            body = None if content is None else content | sent
            response = self._client.request(verb, self.address + path, json=body)
            if body is None or response.status_code not in (400, 422) or not self._step_down(sent, response.text):
                return response

    def _step_down(self, sent: dict[str, Any], refusal: str) -> bool:
        """Replaces a parameter that was refused by its name, each once; returns whether to ask again."""
        named = _refused(refusal)
        with self._lock:
            if self._parameters is not sent:
                return True  # another question was refused first
            if "max_tokens" in named and "max_tokens" in sent:
                name, new = "max_tokens", {"max_completion_tokens": sent["max_tokens"]}
            elif "temperature" in named and "temperature" in sent:
                name, new = "temperature", {}
            elif "top_logprobs" in named and sent.get("top_logprobs", 0) > _FEWER:
                name, new = "top_logprobs", {"top_logprobs": _FEWER}
            else:
                return False
            self._parameters = {key: value for key, value in sent.items() if key != name} | new
        instead = ", ".join(f"{key}={value}" for key, value in new.items()) or f"the endpoint's own {name}"
        _log.warning("%s refuses %s=%s, so %s is taken: %s", self.address, name, sent[name], instead, refusal[:200])
        return True


def _refused(refusal: str) -> set[str]:
    """Returns the names in a refusal: the parameter if it says which, else all words of it."""
    with contextlib.suppress(*_GARBAGE):
        if isinstance(name := json.loads(refusal)["error"]["param"], str):
            return {name}
    return set(re.findall(r"\w+", refusal))


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
