"""The peak of memory while something runs."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import torch


class Peak:
    """Measures how much more memory was held at most inside the block than before it.

    On the CPU it is the process' resident memory as Linux counts it, on CUDA what torch allocated.

    Attributes:
        bytes: the peak, once the block is left.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.bytes = 0
        self._device = device

    def __enter__(self) -> Self:
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
            self._before = _status("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = torch.cuda.max_memory_allocated() if self._device == "cuda" else _status("VmHWM")
        self.bytes = held - self._before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
