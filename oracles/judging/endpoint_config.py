"""Settings of a judge behind an endpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, ClassVar

from oracles.judging.question_config import QuestionConfig
from preference_duel.checks import at_least, positive, require


@dataclass(frozen=True)
class EndpointConfig(QuestionConfig):
    """Question, answer, requests and cache of an endpoint."""

    PART: ClassVar[str] = "endpoint."
    model: str | None = None
    """Its name there; None: the first that the endpoint lists."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the endpoint wants one; it is written nowhere."""
    budget: int | None = None
    """Questions to the endpoint after which the run stops, >= 1; a resumed run has as many again. None: no limit."""
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
        super().__post_init__()
        require(self, self.PART, retries=at_least(0), concurrency=at_least(1), backoff=positive, timeout=positive)
        require(self, self.PART, top_logprobs=at_least(1), budget=at_least(1).or_none())
        _ = self.parameters

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
        fields = {"temperature": self.temperature, "max_tokens": self.most_tokens, **logprobs, **extra}
        return {name: value for name, value in fields.items() if value is not None}
