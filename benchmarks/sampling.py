"""Tokens a second of whoever draws: `python -m benchmarks.sampling`.

The same random Llama, prompts and law: ours token by token with a cache, on a GPU also with its step recorded,
`generate` of transformers, and vLLM where it is installed. Every response has the same number of tokens. Timed in
turns; what starts an engine and its first batch is told apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.loading import load_tokenizer
from benchmarks.models import SIZES, free_text, write_model
from benchmarks.timing import clock, machine, matrix_rate, write_measurement
from preference_duel.keyed_random import Key


def main() -> None:
    """Measures, prints the table, and writes what was measured as JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--responses", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matrix_rate(options.device)
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), SIZES[options.size], torch.float32, device=options.device)
        samplers, started = prepare(name, options)
        times: dict[str, list[float]] = {who: [] for who in samplers}
        first = {who: _timed(draw, -1, options.device) for who, draw in samplers.items()}
        for i in range(options.repeats):
            for who, draw in samplers.items():
                times[who].append(_timed(draw, i, options.device))
    tokens = options.prompts * options.responses * options.new_tokens
    table = Table(
        title=f"{options.size}: {options.prompts} prompts x {options.responses} x {options.new_tokens} tokens"
    )
    for column in ("", "tokens/s", "s", "first batch, s", "start, s"):
        table.add_column(column, justify="right" if column else "left")
    for who, seconds in times.items():
        took = median(seconds)
        table.add_row(who, f"{tokens / took:,.0f}", f"{took:.3f}", f"{first[who]:.1f}", f"{started[who]:.1f}")
    read = tokens + options.prompts * options.prompt_tokens
    least = 2 * SIZES[options.size].matrices * read / rate
    table.add_row("floor", f"{tokens / least:,.0f}", f"{least:.3f}", "", "")
    Console().print(table)
    Console().print(f"{rate / 1e9:,.0f} GFLOP/s in large matrix products; {machine(options.device)}")
    write_measurement(options, rate, least, seconds=times)


def prepare(name: str, options: argparse.Namespace) -> tuple[dict[str, Callable[[int], object]], dict[str, float]]:
    """Returns each sampler, which makes its i-th batch, and the seconds that it took to start."""
    task = free_text(load_tokenizer(name), options.prompts, options.prompt_tokens, options.new_tokens)
    samplers: dict[str, Callable[[int], object]] = {}
    started = {}
    kinds: dict[str, dict[str, Any]] = {"ours": {}}
    if options.device == "cuda":
        kinds["ours, CUDA graphs"] = {"cuda_graphs": True}
    if importlib.util.find_spec("vllm"):
        kinds["vLLM"] = {"sampler": "vllm"}
    for who, settings in kinds.items():
        start = time.perf_counter()
        policy = HFPolicy(name, task, options.device, **settings)
        started[who] = time.perf_counter() - start
        samplers[who] = lambda i, policy=policy: policy.draw(task.prompts, options.responses, Key(0, i + 1))
        if who == "ours":
            ids = torch.tensor([policy.tokenizer.prompt(x) for x in task.prompts], device=options.device)
            law = {"do_sample": True, "top_k": 0, "num_return_sequences": options.responses}
            law |= {"min_new_tokens": options.new_tokens, "max_new_tokens": options.new_tokens}
            samplers["transformers"] = lambda _, policy=policy, ids=ids, law=law: policy.model.generate(
                ids, attention_mask=torch.ones_like(ids), **law
            )
            started["transformers"] = started[who]
    return samplers, started


@torch.no_grad()
def _timed(draw: Callable[[int], object], i: int, device: str) -> float:
    start = clock(device)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        draw(i)
    return clock(device) - start


if __name__ == "__main__":
    main()
