"""Log-probabilities of tokens from hidden states, and their gradient: `python -m benchmarks.fused_head`.

Ours (agents/policies/lm/fused_logprob.py), the plain way that holds all logits, and, where they are installed, TRL's
chunks and Cut Cross-Entropy, whose kernel is for GPUs. Each gives a number for each token, which a loss may weigh as it
likes. In turns, of the same random states, in float32 on the CPU and bfloat16 on CUDA; memory is beside the inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.policies.lm.fused_logprob import fused_logprob
from benchmarks.memory import Peak
from benchmarks.timing import (
    PROCESSOR_TIME,
    check_processor_time,
    machine,
    matrix_rate,
    now,
    write_measurement,
)

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Returns nats [M] of hidden states [M, d], the output layer [V, d] and tokens [M]."""


def ours(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """Returns the nats by the project's function."""
    return fused_logprob(hidden, weight, tokens, lambda logits, _: logits.float(), 1.0)


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """Returns the nats by torch's own operations."""
    logits = (hidden @ weight.T).float()
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)


def heads(device: str) -> dict[str, Head]:
    """Returns what is measured, by name."""
    found: dict[str, Head] = {"ours": ours, "plain": plain}
    if importlib.util.find_spec("trl") is not None:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # pyright: ignore[reportMissingImports] - optional
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE  # pyright: ignore[reportMissingImports] - optional

        found["TRL"] = lambda hidden, weight, tokens: ChunkedLogProbFunction.apply(
            hidden, weight, None, tokens, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ()
        )[0]
    if device == "cuda" and importlib.util.find_spec("cut_cross_entropy") is not None:
        from cut_cross_entropy import linear_cross_entropy  # pyright: ignore[reportMissingImports] - optional

        found["Cut Cross-Entropy"] = lambda *inputs: -linear_cross_entropy(*inputs, reduction="none")
    return found


def one_pass(head: Head, inputs: tuple[Tensor, Tensor, Tensor], grad: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nats and the gradient of the hidden states, of a pass forward and back."""
    hidden, weight, tokens = inputs
    hidden.grad = weight.grad = None
    nats = head(hidden, weight, tokens)
    nats.backward(grad)
    assert hidden.grad is not None
    return nats.detach(), hidden.grad


def measured(vocabulary: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns seconds, peak in bytes and the largest distance from the plain numbers and gradients, by name."""
    device, dtype = options.device, torch.bfloat16 if options.device == "cuda" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, options.width, device=device) / options.width**0.5).to(dtype).requires_grad_()
    inputs = hidden, weight, torch.randint(vocabulary, (options.tokens,), device=device)
    grad = torch.randn(options.tokens, device=device)
    times: dict[str, list[float]] = {}
    found: dict[str, dict[str, float]] = {}
    wanted = one_pass(plain, inputs, grad)
    for name, head in heads(device).items():
        with Peak(device) as peak:
            result = one_pass(head, inputs, grad)
        apart = max((a.float() - b.float()).abs().max().item() for a, b in zip(result, wanted, strict=True))
        times[name], found[name] = [], {"peak": peak.bytes, "apart": apart}
        del result
    for _ in range(options.repeats):
        for name, head in heads(device).items():
            start = now(options)
            one_pass(head, inputs, grad)
            times[name].append(now(options) - start)
    return {name: {**values, "seconds": median(times[name])} for name, values in found.items()}


def main() -> None:
    """Measures, prints the table, and writes what was measured as JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 152_000])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processor-time", action="store_true", help=PROCESSOR_TIME)
    options = parser.parse_args()
    check_processor_time(parser, options)
    torch.set_num_threads(options.threads)
    rate = matrix_rate(options.device, lambda: now(options))
    table = Table(title=f"{options.tokens:,} tokens of width {options.width}, forward and back")
    for column in ("vocabulary", "", "s", "times ours", "peak, MiB", "from plain"):
        table.add_column(column, justify="right" if column else "left")
    found, least = {}, {}
    for vocabulary in options.vocabularies:
        found[vocabulary] = measured(vocabulary, options)
        least[vocabulary] = 6 * options.tokens * options.width * vocabulary / rate
        for name, one in found[vocabulary].items():
            times = one["seconds"] / found[vocabulary]["ours"]["seconds"]
            size, seconds = f"{one['peak'] / 2**20:,.0f}", f"{one['seconds']:.3f}"
            table.add_row(f"{vocabulary:,}", name, seconds, f"{times:.2f}", size, f"{one['apart']:.0e}")
        table.add_row(f"{vocabulary:,}", "floor", f"{least[vocabulary]:.3f}", "", "", "")
    Console(width=100).print(table)
    print(f"{rate / 1e9:,.0f} GFLOP/s in large matrix products; {machine(options.device)}")
    write_measurement(options, rate, least, found=found)


if __name__ == "__main__":
    main()
