"""How long something takes, and on what machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(work: Callable[[], Result], repeats: int = 3) -> tuple[Result, float]:
    """Returns what some work gives, and the least of several times in seconds."""
    result, least = _once(work)
    for _ in range(repeats - 1):
        result, seconds = _once(work)
        least = min(least, seconds)
    return result, least


def _once(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def machine(device: str = "cpu") -> str:
    """Returns processor or GPU, threads, torch's version and the date."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}, {date.today()}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
