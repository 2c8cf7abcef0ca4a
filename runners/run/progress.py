"""Progress of a run: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

QUIET = 30.0
"""Seconds after which a log gets a line although nothing was evaluated."""


class Progress:
    """Shows steps and evaluations.

    Args:
        done: steps made before.
        total: steps in all.
    """

    def __init__(self, done: int, total: int) -> None:
        self.total = total
        self._start = self._spoken = time.monotonic()
        self._bar, self._task = None, None
        if sys.stdout.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(highlight=False))
            self._task = self._bar.add_task("step", total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stepped(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows that a step was made."""
        note = _losses(scalars)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif time.monotonic() - self._spoken > QUIET:
            self._say(f"{self._place(step)}  {note}")

    def evaluated(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows an evaluation."""
        self._say(f"{self._place(step)}  {evaluation_line(scalars)}")

    def _place(self, step: int) -> str:
        return f"step {step:>{len(str(self.total))}}/{self.total}  {time.monotonic() - self._start:6.1f} s"

    def _say(self, line: str) -> None:
        self._spoken = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(line, markup=False)
        else:
            print(line, flush=True)


def evaluation_line(scalars: Mapping[str, float]) -> str:
    """Returns an evaluation for people."""
    words = []
    if "eval/win_rate_vs_ref" in scalars:
        words.append(f"win rate {scalars['eval/win_rate_vs_ref']:.3f}")
    if "eval/win_rate_low" in scalars:
        words.append(f"[{scalars['eval/win_rate_low']:.3f}, {scalars['eval/win_rate_high']:.3f}]")
    if "eval/exploitability_lower" in scalars:
        words.append(f" exploitability at least {scalars['eval/exploitability_lower']:.3f}")
    if scalars.get("eval/unread"):
        words.append(f" unread {scalars['eval/unread']:.1%}")
    if "game/exploitability" in scalars:
        words.append(f" exploitability {scalars['game/exploitability']:.4f}")
    if "game/exploitability_average" in scalars:
        words.append(f"(average policy {scalars['game/exploitability_average']:.4f})")
    if "game/regularised_exploitability" in scalars:
        words.append(f" regularised {scalars['game/regularised_exploitability']:.4f}")
    return " ".join(words)


def _losses(scalars: Mapping[str, float]) -> str:
    return "  ".join(f"{tag} {value:.4g}" for tag, value in scalars.items() if tag.startswith(("loss/", "policy/kl")))
