"""Ctrl-C and the scheduler's SIGTERM, kept until the step is over."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import torch

from preference_duel import distributed

SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupt:
    """Remembers the first signal instead of raising in the middle of an update; the second one raises.

    Attributes:
        signal: the number of the signal that came; None so far.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Lets every process of a run know of a signal that one of them got: all of them end with the same step."""
        known = int(distributed.largest(torch.tensor(self.signal or 0)))
        self.signal = known or self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, b"\nfinishing this step and saving; once more to stop at once\n")  # print is not re-entrant
