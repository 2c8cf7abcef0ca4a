"""Settings of what a language model is asked about a pair, and of how its answer is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from oracles.judging import genrm
from oracles.judging.formats import FORMATS, THOUGHT, FormatName, read_answer
from oracles.judging.question import Question
from oracles.judging.verdicts import Reading, reading
from preference_duel.checks import at_least, one_of, require, within

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A place of a question that is filled in; all other braces are text."""
_FILLED = "prompt", "first", "second"


@dataclass(frozen=True)
class QuestionConfig:
    """Question, format and votes; the base of the settings of judges that answer in text."""

    PART: ClassVar[str] = ""
    """Ahead of a field in messages."""
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
    """Random seed of the first vote; None: 0 with several votes or a local model, otherwise none is sent."""
    max_tokens: int | None = None
    """Most tokens of an answer, >= 1; None: 1 for letters, 1,024 in the other formats, 16,384 with reasoning."""
    temperature: float | None = 0.0
    """Of the answer, >= 0; None: the endpoint's own."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range, or would be ignored."""
        part = self.PART
        require(self, part, format=one_of(FormatName), least_mass=within("[0, 1]"), votes=at_least(1))
        require(self, part, max_tokens=at_least(1).or_none(), temperature=at_least(0).or_none())
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"{part}votes at temperature 0 are one vote: set {part}temperature, or leave votes out")
        if self.votes > 1 and self.reads_logprobs:
            raise ValueError(
                f"{part}votes: log-probabilities are the mean of all votes already; pass "
                f"--oracle.{part}no-logprobs or another format, or leave votes out"
            )
        if self.question is None:
            if self.template is not None:
                raise ValueError(f"{part}template: format {self.format!r} asks in roles of its own; leave it out")
            return
        places = _PLACE.findall(self.question)
        missing = [f"{{{name}}}" for name in _FILLED if name not in places]
        if missing:
            raise ValueError(f"{part}template lacks {', '.join(missing)}")
        unknown = [f"{{{name}}}" for name in dict.fromkeys(places) if name not in _FILLED]
        if unknown:
            raise ValueError(
                f"{part}template has {', '.join(unknown)}; only {{prompt}}, {{first}}, {{second}} are filled in"
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
    def most_tokens(self) -> int:
        """Most tokens of an answer."""
        return self.max_tokens or (THOUGHT if self.reasoning else FORMATS[self.format].max_tokens)

    def messages(self, question: Question) -> list[dict[str, str]]:
        """Returns what the model is sent, a dict with "role" and "content" for each message."""
        if self.question is None:
            return genrm.messages(*question)
        values: dict[str, str] = dict(zip(_FILLED, question, strict=True))
        return [{"role": "user", "content": _PLACE.sub(lambda place: values[place[1]], self.question)}]

    def read(self, text: str | None, cut: bool) -> Reading:
        """Returns what an answer in text says; see `read_answer`."""
        whole = self.format == "letters" and not self.reasoning  # one token is cut off by design
        return reading(read_answer(self.format, text, cut and not whole))
