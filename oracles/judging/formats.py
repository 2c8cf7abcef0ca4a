"""Formats of a judge's answers by name: what it is asked, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from oracles.judging import arena_brackets, brackets, genrm, letters, score_pair
from oracles.judging.verdicts import Verdict

FormatName = Literal["letters", "brackets", "arena", "scores", "genrm"]


class Format(NamedTuple):
    """A way to ask and to answer.

    Attributes:
        template: of the question, with {prompt}, {first} and {second}; None: the responses have roles of their own.
        read: returns the verdict of an answer, its thought taken off.
        max_tokens: of an answer without a thought.
    """

    template: str | None
    read: Callable[[str], Verdict]
    max_tokens: int


FORMATS: dict[str, Format] = {
    "letters": Format(letters.TEMPLATE, letters.read, 1),
    "brackets": Format(brackets.TEMPLATE, brackets.read, 1024),
    "arena": Format(arena_brackets.TEMPLATE, arena_brackets.read, 1024),
    "scores": Format(score_pair.TEMPLATE, score_pair.read, 1024),
    "genrm": Format(None, genrm.read, 1024),
}
THOUGHT = 16_384
"""Tokens of an answer that begins with a thought."""
_BEGIN, _END = "<think>", "</think>"


def read_answer(name: str, text: str | None, cut: bool) -> Verdict:
    """Returns the verdict of an answer.

    Args:
        name: of the format.
        text: the answer; None: there is none, as in a refusal.
        cut: whether the answer ends because its tokens were spent: a verdict before that end is not a final one.
    """
    said = None if cut or text is None else without_thought(text)
    return "unread" if said is None else FORMATS[name].read(said)


def without_thought(text: str) -> str | None:
    """Returns what follows the thought, all of a text without one; None if the thought is unfinished.

    Some chat templates open the thought themselves, so that only its end is in the text.
    """
    _, _, after = text.rpartition(_END)
    return None if _BEGIN in after else after.strip()
