"""The population whose votes train the embedded PairRM: consistent people, a cyclic majority."""

from __future__ import annotations

import math
from dataclasses import dataclass

from envs.tasks.grammar import parse, subject_of

STYLE_GAP = 3.0
"""Nats between an annotator's first and second, and second and third style."""

ON_TOPIC = 8.0
"""Nats that every annotator adds for an answer to the question asked; more than all of style (6)."""

NOT_IN_GRAMMAR = -4.0
"""Everyone's reward for a text outside the grammar; the worst answer in it has 0."""


@dataclass(frozen=True)
class Annotator:
    """One kind of person: rewards add up, and votes follow Bradley and Terry (1952) on their difference.

    Attributes:
        warm: reward of a purely warm answer, nats.
        concise: reward of a purely concise answer, nats.
        specific: reward of a purely specific answer, nats.
    """

    warm: float
    concise: float
    specific: float

    def reward(self, prompt: str, answer: str) -> float:
        """Returns the nats that this person gives an answer."""
        parsed = parse(answer)
        if parsed is None:
            return NOT_IN_GRAMMAR
        warm, concise, specific = parsed.style_shares
        taste = self.warm * warm + self.concise * concise + self.specific * specific
        return taste + (ON_TOPIC if parsed.subject == subject_of(prompt).do else 0.0)

    def prob(self, prompt: str, first: str, second: str) -> float:
        """Returns P(this person prefers the first answer)."""
        return _sigmoid(self.reward(prompt, first) - self.reward(prompt, second))


ANNOTATORS = (
    Annotator(warm=2 * STYLE_GAP, concise=STYLE_GAP, specific=0.0),
    Annotator(warm=0.0, concise=2 * STYLE_GAP, specific=STYLE_GAP),
    Annotator(warm=STYLE_GAP, concise=0.0, specific=2 * STYLE_GAP),
)
"""Three equally common kinds. Two of three prefer warm to concise, concise to specific, and specific to warm."""


def population_prob(prompt: str, first: str, second: str) -> float:
    """Returns P(first beats second | prompt) in a vote of one annotator drawn at random.

    Raises:
        ValueError: if the prompt is not in the grammar.
    """
    return math.fsum(annotator.prob(prompt, first, second) for annotator in ANNOTATORS) / len(ANNOTATORS)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else 1 - 1 / (1 + math.exp(logit))
