"""Settings of a judge behind an endpoint."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

from oracles.judging.formats import FORMATS, THOUGHT, FormatName
from preference_duel.checks import at_least, one_of, positive, require, within

PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A place of a question that is filled in; all other braces are text."""
FILLED = "prompt", "first", "second"


@dataclass(frozen=True)
class EndpointConfig:
    """Question, answer, requests and cache of an endpoint."""

    model: str | None = None
    """Its name there; None: the first that the endpoint lists."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the endpoint wants one; it is written nowhere."""
    format: FormatName = "letters"
    """Form of the answer. letters: A or B. brackets: [[A]], [[B]], [[C]] for a tie, [[D]] if both are bad, as
    MT-bench's judges. arena: [[A>>B]], [[A>B]], [[A=B]] and so on, as Arena-Hard's. scores: two numbers from 1 to 10.
    genrm: JSON of NVIDIA's generative reward models, which get each response in a role of its own."""
    logprobs: bool = True
    """Of letters without reasoning, read the log-probabilities; False: only which letter is written, for endpoints that
    give none."""
    reasoning: bool = False
    """The model thinks first: the answer has the tokens for it, <think>...</think> is taken off, and an answer that its
    tokens cut off is unread."""
    template: str | None = None
    """The question, with {prompt}, {first} and {second}; it asks for an answer in the format. Braces around anything
    but a name are text. None: the format's own."""
    least_mass: float = 0.5
    """Share of the probability that the letters A and B must hold together, in [0, 1]; with less an answer is
    unread."""
    votes: int = 1
    """Answers to each question, with seeds that follow one another, >= 1; the chance is their mean, unread ones left
    out. Needs a temperature, and no log-probabilities."""
    seed: int | None = None
    """Random seed of the first vote; None: 0 with several votes, otherwise none is sent."""
    budget: int | None = None
    """Questions to the endpoint after which the run stops, >= 1; a resumed run has as many again. None: no limit."""
    max_tokens: int | None = None
    """Most tokens of an answer, >= 1; None: 1 for letters, 1,024 in the other formats, 16,384 with reasoning."""
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
    """A file that keeps every answer, of any endpoint, question and seed; None: none are kept."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range, or would be ignored."""
        require(self, "endpoint.", retries=at_least(0), concurrency=at_least(1), backoff=positive, timeout=positive)
        require(self, "endpoint.", format=one_of(FormatName), top_logprobs=at_least(1), least_mass=within("[0, 1]"))
        require(self, "endpoint.", max_tokens=at_least(1).or_none(), temperature=at_least(0).or_none())
        require(self, "endpoint.", votes=at_least(1), budget=at_least(1).or_none())
        _ = self.parameters
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(
                "endpoint.votes at temperature 0 are one vote: set endpoint.temperature, or leave votes out"
            )
        if self.votes > 1 and self.reads_logprobs:
            raise ValueError(
                "endpoint.votes: log-probabilities are the mean of all votes already; pass "
                "--oracle.endpoint.no-logprobs or another format, or leave votes out"
            )
        if self.question is None:
            if self.template is not None:
                raise ValueError(f"endpoint.template: format {self.format!r} asks in roles of its own; leave it out")
            return
        places = PLACE.findall(self.question)
        missing = [f"{{{name}}}" for name in FILLED if name not in places]
        if missing:
            raise ValueError(f"endpoint.template lacks {', '.join(missing)}")
        unknown = [f"{{{name}}}" for name in dict.fromkeys(places) if name not in FILLED]
        if unknown:
            raise ValueError(
                f"endpoint.template has {', '.join(unknown)}; only {{prompt}}, {{first}}, {{second}} are filled in"
            )

    @property
    def reads_logprobs(self) -> bool:
        """Whether the letters' log-probabilities are read."""
        return self.format == "letters" and self.logprobs and not self.reasoning

    @property
    def question(self) -> str | None:
        """The template in use; None: the responses have roles of their own."""
        own = FORMATS[self.format].template
        return None if own is None else self.template or own

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each vote."""
        return [self.seed] if self.votes == 1 else [(self.seed or 0) + vote for vote in range(self.votes)]

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields of a request beside model, messages and seed.

        Raises:
            ValueError: if `extra` is no JSON object.
        """
        try:
            extra = json.loads(self.extra)
        except JSONDecodeError as error:
            raise ValueError(f"endpoint.extra must be JSON, got {self.extra!r}: {error}") from None
        if not isinstance(extra, dict):
            raise ValueError(f'endpoint.extra must be a JSON object such as {{"seed": 1}}, got {self.extra!r}')
        logprobs = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.reads_logprobs else {}
        most = self.max_tokens or (THOUGHT if self.reasoning else FORMATS[self.format].max_tokens)
        fields = {"temperature": self.temperature, "max_tokens": most, **logprobs, **extra}
        return {name: value for name, value in fields.items() if value is not None}
