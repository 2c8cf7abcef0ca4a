"""Answers that are a letter, A or B, or the log-probabilities of the letters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from oracles.judging.question import PAIR
from oracles.judging.verdicts import Reading, Verdict, likelier, reading

TEMPLATE = (
    """Two assistants answered the same request. Which answer is better?
Reply with one letter, A or B, and nothing else."""
    + PAIR
)
LABELS = "A", "B"
_VERDICT = re.compile(
    r"[\W_]*((the[\W_]+)?(better[\W_]+)?(answer|assistant|response|option|winner)[\W_]+(is[\W_]+)?)?(?P<label>[AB])[\W_]*",
    re.IGNORECASE,
)
"""A first line that names a letter and nothing else, such as B, **B**, Answer: B, {"winner": "B"}."""


def read(text: str) -> Verdict:
    """Returns the verdict of an answer whose first line names a letter and nothing else."""
    line = _VERDICT.fullmatch(text.strip().partition("\n")[0])
    if line is None:
        return "unread"
    return "first" if line["label"].upper() == LABELS[0] else "second"


def read_logprobs(steps: Sequence[Mapping[str, Any]], least_mass: float) -> Reading:
    """Returns the chance of A among the letters in the log-probabilities of an answer's first token.

    Args:
        steps: of each token of the answer, in the form of OpenAI's `logprobs.content`.
        least_mass: share of the probability that the letters must hold together.

    Raises:
        KeyError, TypeError, AttributeError: if they are not in that form.
    """
    mass = dict.fromkeys(LABELS, 0.0)
    for one in steps[0]["top_logprobs"] if steps else ():
        if (letter := one["token"].strip()) in mass:
            mass[letter] += math.exp(one["logprob"])
    total = sum(mass.values())
    return reading("unread") if total == 0 or total < least_mass else likelier(mass[LABELS[0]] / total)
