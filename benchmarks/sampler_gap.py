"""Distance between the log-probabilities of what samples and of what learns: `python -m benchmarks.sampler_gap`.

The same weights sample, token by token by transformers and by vLLM where it is installed, and read the samples as a
step does that learns. Differences of a response's tokens add up, of either sign: what `policy/sampler_gap` averages.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.loading import load_tokenizer
from agents.policies.lm_config import COMPUTES, SAMPLERS, TINY, HFConfig
from benchmarks.models import SIZES, free_text, write_model
from benchmarks.timing import machine
from envs.tasks.task import Task, make_task
from preference_duel.keyed_random import Key


def gaps(policy: HFPolicy, prompts: tuple[str, ...], responses: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns |log p_sampler - log p| of each sampled token [M], and of each response [N]."""
    drawn, _ = policy.draw(prompts, responses, Key(0))
    with torch.no_grad():
        read, mask = policy.token_logprob(prompts, drawn)
    read = read.cpu().double()
    sampled = torch.zeros_like(read)
    for b, row in enumerate(drawn):
        for k, y in enumerate(row):
            assert y.token_logprob is not None
            sampled[b, k, : len(y.token_logprob)] = torch.tensor(y.token_logprob)
    return (sampled - read)[mask.cpu()].abs(), (sampled - read).sum(-1).abs().flatten()


def policies(size: str, folder: Path, options: argparse.Namespace) -> Iterator[tuple[HFConfig, HFPolicy, Task]]:
    """Yields the policy with each sampler and arithmetic, its settings and its task."""
    path = TINY if size == "tiny" else folder
    if size != "tiny":
        write_model(folder, SIZES[size], torch.float32, device=options.device)
    tokenizer = load_tokenizer(str(path))
    words = options.prompts, options.prompt_tokens, options.new_tokens
    task = make_task("chat", tokenizer=tokenizer) if size == "tiny" else free_text(tokenizer, *words)
    for sampler in SAMPLERS:
        if sampler == "vllm" and importlib.util.find_spec("vllm") is None:
            continue
        for compute in COMPUTES[1:]:
            config = HFConfig(str(path), sampler=sampler, compute=compute)
            yield config, HFPolicy(path, task, options.device, sampler=sampler, compute=compute), task


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["tiny", *SIZES], default=["tiny", "0.5b"])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--responses", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=16, help="but for tiny, whose task is chat")
    parser.add_argument("--new-tokens", type=int, default=32, help="but for tiny, whose task is chat")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title="|log p_sampler - log p_trainer|, nats")
    for column in ("model", "sampler", "trainer", "token: mean", "largest", "response: mean", "largest"):
        table.add_column(column, justify="right" if ":" in column or column == "largest" else "left")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for config, policy, task in policies(size, Path(folder), options):
                found = gaps(policy, task.prompts[: options.prompts], options.responses)
                numbers = [f"{f(x).item():.1e}" for x in found for f in (torch.mean, torch.max)]
                table.add_row(size, config.sampler, config.compute, *numbers)
    Console(width=120).print(table)
    print(machine(options.device))


if __name__ == "__main__":
    main()
