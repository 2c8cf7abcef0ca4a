"""Times of a function, and the machine they were taken on."""

from __future__ import annotations

import json
import platform
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
PROCESSOR_TIME = "the processor's seconds, which other work on the machine hardly changes; with --threads 1"
"""Help of the flag --processor-time, which `now` heeds."""


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


def clock(device: str) -> float:
    """Returns the time in seconds, once the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def check_processor_time(parser: ArgumentParser, options: Namespace) -> None:
    """Ends the command if the processor's seconds would not be those of the work."""
    if options.processor_time and (options.device, options.threads) != ("cpu", 1):
        parser.error("--processor-time adds up what threads wait for each other: take --device cpu --threads 1")


def now(options: Namespace) -> float:
    """Returns the time in seconds, the clock's or, with --processor-time, the processor's."""
    return time.process_time() if options.processor_time else clock(options.device)


def matrix_rate(device: str, now: Callable[[], float] | None = None) -> float:
    """Returns the multiplications and additions a second of a large matrix product, bfloat16 on CUDA.

    Args:
        device: "cpu" or "cuda".
        now: returns the time; None: `clock`.
    """
    now = partial(clock, device) if now is None else now
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        start = now()
        for _ in range(3):
            torch.mm(a, a)
        best = max(best, 3 * 2 * size**3 / (now() - start))
    return best


def write_measurement(options: Namespace, rate: float, floor: Any, **found: Any) -> None:
    """Writes what was measured as JSON where `options.json` says, with the machine and what it was asked.

    Args:
        options: a benchmark's command line.
        rate: of `matrix_rate`.
        floor: the least seconds.
        **found: what else there is.
    """
    if options.json is None:
        return
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    content = {"machine": machine(options.device), "settings": settings, "flops": rate, "floor": floor, **found}
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine(device: str = "cpu") -> str:
    """Returns processor or GPU, threads, torch's version and the date."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}, {date.today()}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
