"""Weights that AdamW moves in bfloat16 and in float32, by learning rate: `python -m benchmarks.vanishing_updates`.

A step of AdamW is about as long as the learning rate, and a bfloat16 weight moves only if that is at least half the
distance to its neighbour, .2 to .4 % of the weight. The shipped model learns random tokens, the same in both.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM

from agents.policies.lm_config import TINY
from benchmarks.timing import machine


def moved(dtype: torch.dtype, rate: float, steps: int, device: str) -> tuple[float, float]:
    """Returns the share of the weights with a gradient that moved, and how far on average, in learning rates."""
    model: Any = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype)
    model.to(device)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    adam = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.999), weight_decay=0)
    ids = torch.randint(4, model.config.vocab_size, (8, 32), generator=torch.Generator().manual_seed(0)).to(device)
    for _ in range(steps):
        adam.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        adam.step()
    used = [parameter.grad != 0 for parameter in model.parameters()]
    ways = [(a.detach().float() - b.float())[seen] for a, b, seen in zip(model.parameters(), start, used, strict=True)]
    way: Tensor = torch.cat(ways)
    return (way != 0).float().mean().item(), way.abs().mean().item() / rate


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 1e-4, 3e-5, 1e-5, 1e-6, 5e-7])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    table = Table(title=f"Weights that have moved after {options.steps} steps of AdamW; mean way in learning rates")
    for column in ("learning rate", "bfloat16: moved", "way", "float32: moved", "way"):
        table.add_column(column, justify="right")
    for rate in options.rates:
        found = [moved(dtype, rate, options.steps, options.device) for dtype in (torch.bfloat16, torch.float32)]
        table.add_row(f"{rate:g}", *(text for share, way in found for text in (f"{share:.1%}", f"{way:.2f}")))
    Console().print(table)
    print(machine(options.device))


if __name__ == "__main__":
    main()
