"""Peak memory of a step of self-play IPO, beside its weights: `python -m benchmarks.memory`.

It grows with the tokens of one pass that learns (`--policy.micro_tokens`), not with prompts or responses. Each row is a
process of its own, which makes one step to warm up and measures the next: on the CPU the process' resident memory as
Linux counts it, on CUDA what torch allocated.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.table import Table

from agents import make
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.loading import load_tokenizer
from agents.policies.lm_config import HFConfig
from benchmarks.models import SIZES, free_text, write_model
from benchmarks.timing import machine
from envs import DuelArena
from oracles import make as make_oracle

NEW_TOKENS, PROMPT_TOKENS = 48, 16
ROWS = (
    *((prompts, 2, 8192, 0) for prompts in (64, 256, 1024)),
    *((64, responses, 8192, 0) for responses in (8, 32)),
    *((64, 8, tokens, 0) for tokens in (1024, 2048, 4096, 8192, 16_384, 32_768)),
    *((64, 8, tokens, 1) for tokens in (8192, 32_768)),
)
"""Prompts, responses to each, tokens of a pass that learns, whether layers are computed again."""


class Peak:
    """Measures how much more memory was held at most inside the block than before it.

    Attributes:
        bytes: the peak, once the block is left.

    Args:
        device: "cpu" or "cuda".
        wanted: whether to measure at all; on the CPU it takes time.
    """

    def __init__(self, device: str, wanted: bool = True) -> None:
        self.bytes = 0
        self._device, self._wanted = device, wanted

    def __enter__(self) -> Self:
        if not self._wanted:
            return self
        gc.collect()
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
            self._before = _status("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._wanted:
            return
        held = torch.cuda.max_memory_allocated() if self._device == "cuda" else _status("VmHWM")
        self.bytes = held - self._before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def measure(folder: Path, prompts: int, responses: int, micro_tokens: int, again: bool, device: str) -> int:
    """Returns the bytes of one step."""
    task = free_text(load_tokenizer(str(folder)), prompts, PROMPT_TOKENS, NEW_TOKENS)
    policy = HFConfig(str(folder), micro_tokens=micro_tokens, checkpointing=again).build(task=task, device=device)
    optimiser = OptimiserConfig(method="adamw", learning_rate=1e-6)
    agent: Any = make("ipo", policy=policy, responses=responses, average=False, optimiser=optimiser)
    arena = DuelArena(task, make_oracle("bt"), None)
    agent.update(arena.play(agent.propose(arena.reset())))
    with Peak(device) as peak:
        agent.update(arena.play(agent.propose(arena.reset())))
    return peak.bytes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="of the table, from its first")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, *numbers = options.one
        prompts, responses, tokens, again = map(int, numbers)
        print(measure(Path(folder), prompts, responses, tokens, bool(again), options.device))
        return
    table = Table(title=f"{options.size}: peak of one step, MiB")
    for column in ("prompts", "responses", "tokens in all", "tokens in a pass", "checkpointing", "MiB"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SIZES[options.size], torch.float32, device=options.device)
        for prompts, responses, tokens, again in ROWS[: options.rows]:
            command = [sys.executable, "-m", "benchmarks.memory", "--device", options.device, "--one", folder]
            numbers = [str(number) for number in (prompts, responses, tokens, again)]
            found = subprocess.run([*command, *numbers], check=True, capture_output=True, text=True).stdout
            total = prompts * responses * (PROMPT_TOKENS + NEW_TOKENS)
            table.add_row(
                *numbers[:2], f"{total:,}", f"{tokens:,}", "yes" if again else "", f"{int(found) / 2**20:,.0f}"
            )
    Console().print(table)
    Console().print(machine(options.device))


if __name__ == "__main__":
    main()
