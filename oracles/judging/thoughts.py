"""The answer that follows a reasoning model's thought."""

from __future__ import annotations

BEGIN, END = "<think>", "</think>"


def without_thought(text: str) -> str | None:
    """Returns what follows the thought, all of a text without one; None if the thought is unfinished.

    Some chat templates open the thought themselves, so that only its end is in the text.
    """
    _, _, after = text.rpartition(END)
    return None if BEGIN in after else after.strip()
