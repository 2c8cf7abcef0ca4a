"""Counts the bytes that a drawn token and a pass that learns move, at the sizes of Llama 3.1 8B, without numbers.

    python -m tests.accelerator.traffic

The project's own sampling and its own pass run on the pretend accelerator, whose tensors have shapes alone. Every
operation that is launched reads its inputs and writes its results once, views are free, and attention and norms are one
operation each, as on CUDA. A token's bytes are the difference between samples of three tokens and of two.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

import tests.accelerator.device as accelerator
from agents.policies.lm import lora
from agents.policies.lm.decoder import forward_arguments
from agents.policies.lm.generation import generate
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.loading import load_tokenizer, recompute_layers
from agents.policies.lm.scoring import Root
from agents.policies.lm_config import HFConfig, LoRAConfig
from agents.policies.norms import exchange_norms
from benchmarks.copies import SHAPE
from benchmarks.models import SIZES, free_text, write_model
from preference_duel.types import Completion

ROWS, CACHED = 21, 1024
"""Responses that are drawn at once, and tokens in the cache when the last is drawn, but for one."""
EQUAL = (CACHED - 1,) * ROWS
UNEQUAL = tuple(CACHED - 1 - 10 * i for i in range(ROWS))
"""Tokens of the prompts."""
PROMPT, RESPONSE, READ = 512, 1024, 5
"""Tokens of a prompt and of a response, and the responses of a pass that learns."""
RANK = 16
"""Of the adapters."""
_PRODUCTS = "mm", "addmm", "bmm"
_KERNELS = {*_PRODUCTS, "attention", "attention_backward"}
_FREE = "empty", "new_empty", "_unsafe_view"
_PARTS = {"index", "index_select", "gather", "embedding", "slice_scatter"}
"""Operations that read as much of their first input as they write."""


class Traffic(TorchDispatchMode):
    """Bytes by operation.

    Attributes:
        bytes: of everything, by operation.
        casts: of casts to another dtype, by shape.
        repeats: of what is as large as a layer's keys and neither product nor attention.
        launches: operations that moved anything.

    Args:
        cache: numbers of a layer's keys.
    """

    def __init__(self, cache: int) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.casts: Counter[tuple[int, ...]] = Counter()
        self.repeats = self.launches = 0
        self._cache = cache

    def beyond(self, other: Traffic) -> Traffic:
        """Returns what is moved beside what another has moved."""
        found = Traffic(self._cache)
        found.bytes, found.casts, found.repeats = self.bytes.copy(), self.casts.copy(), self.repeats - other.repeats
        found.launches = self.launches - other.launches
        found.bytes.subtract(other.bytes)
        found.casts.subtract(other.casts)
        return found

    def casts_of(self, model: nn.Module) -> int:
        """Returns the bytes of casts of a model's matrices, those of adapters left out."""
        named = model.named_parameters()
        return sum(self.casts[shape] for shape in {tuple(x.shape) for name, x in named if "lora_" not in name})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        inputs = [x for x in _tensors([*args, *(kwargs or {}).values()]) if _on_device(x)]
        results = [x for x in _tensors([result]) if _on_device(x)]
        if func.is_view or name.startswith(_FREE) or not (inputs or results):
            return result
        written = sum(map(_size, results))
        read = sum(map(_size, inputs))
        if name in _PARTS:
            read += min(0, written - _size(inputs[0]))
        elif name in ("copy_", "fill_", "zero_"):
            read -= _size(inputs[0])
        elif name == "scatter_add_":  # only what is named by the indices
            read, written = read + _size(inputs[2]) - _size(inputs[0]), _size(inputs[2])
        self.bytes[name] += read + written
        self.launches += 1
        if name == "_to_copy" and inputs and results and inputs[0].dtype != results[0].dtype:
            self.casts[tuple(inputs[0].shape)] += read + written
        if name not in _KERNELS and inputs and results and results[0].numel() >= self._cache:
            self.repeats += read + written
        return result


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        found += _tensors(value) if isinstance(value, list | tuple) else [value] if isinstance(value, Tensor) else []
    return found


def _on_device(x: Tensor) -> bool:
    return x.device.type == accelerator.NAME


def _size(x: Tensor) -> int:
    """Returns the bytes of a tensor's numbers; those that are read again and again count once."""
    numbers = 1
    for length, stride in zip(x.shape, x.stride(), strict=True):
        numbers *= length if stride else 1
    return numbers * x.element_size()


def small_policy(folder: Path) -> Any:
    """Returns a policy with a small model."""
    write_model(folder, SIZES["1m"], torch.float32)
    task = free_text(load_tokenizer(str(folder)), 2, PROMPT, RESPONSE)
    return HFConfig(str(folder), compute="bfloat16").build(task=task)


def enlarge(policy: Any, shape: dict[str, Any], dtype: torch.dtype, rank: int) -> None:
    """Gives a policy a model of the shape whose weights are on the device, without numbers."""
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**shape)).to(dtype).eval()
        if rank:
            lora.add_adapters(model, LoRAConfig(rank=rank), seed=0)
    exchange_norms(model)
    for part in model.modules():
        for name, x in [*part._parameters.items(), *part._buffers.items()]:
            if x is not None:
                moved = accelerator.DeviceTensor(x.detach())
                kept = nn.Parameter(moved, x.requires_grad) if isinstance(x, nn.Parameter) else moved
                setattr(part, name, kept)
    policy.model, policy.adapted = model, rank > 0
    words = nn.functional.pad(policy.constraints.words, (0, shape["vocab_size"] - len(policy.constraints.words)))
    policy.constraints = dataclasses.replace(policy.constraints, words=words, min_tokens=0)
    object.__setattr__(policy, "_root", Root(model))
    policy._arguments = forward_arguments(model)


def token(policy: HFPolicy, lengths: Sequence[int]) -> Traffic:
    """Returns what one more token of responses to prompts of these lengths moves."""
    config = policy.model.config
    cache = len(lengths) * config.num_key_value_heads * CACHED * (config.hidden_size // config.num_attention_heads)
    prompts = [" ".join(["w2"] * length) for length in lengths]
    found = []
    for limit in (2, 3):
        constraints = dataclasses.replace(policy.constraints, limit=limit)
        uniforms = torch.zeros(len(lengths), limit, dtype=torch.float64).to(accelerator.NAME)
        with Traffic(cache) as traffic, policy.gathered():
            generate(policy.decoder(prompts, range(len(prompts))), constraints, uniforms)
        found.append(traffic)
    fewer, more = found
    return more.beyond(fewer)


def learning_pass(policy: HFPolicy) -> Traffic:
    """Returns what the log-probabilities of a pass and their gradient move."""
    prompt, response = " ".join(["w2"] * PROMPT), Completion("", (2,) * RESPONSE)
    with Traffic(2**62) as traffic:
        policy.logprob([prompt], [[response] * READ]).sum().backward()
    return traffic


def main() -> None:
    """Prints a table of tokens, and the operations of a pass that learns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="layers of the model, >= 1")
    options = parser.parse_args()
    shape = SHAPE | {"num_hidden_layers": options.layers}
    with tempfile.TemporaryDirectory() as folder:
        policy = small_policy(Path(folder))
    tokens = Table(title=f"A token of {ROWS} responses, {CACHED} in the cache, GiB")
    for column in ("weights", "prompts"):
        tokens.add_column(column)
    for column in ("moved", "products", "attention", "matrices cast", "cache repeated", "launches"):
        tokens.add_column(column, justify="right")
    console = Console()
    with accelerator.attached(numbers=False):
        for name, dtype, rank in (("float32", torch.float32, 0), (f"bfloat16, LoRA {RANK}", torch.bfloat16, RANK)):
            enlarge(policy, shape, dtype, rank)
            for prompts, lengths in {"equal": EQUAL, "unequal": UNEQUAL}.items():
                found = token(policy, lengths)
                products = sum(found.bytes[name] for name in _PRODUCTS)
                parts = products, found.bytes["attention"], found.casts_of(policy.model), found.repeats
                row = sum(found.bytes.values()), *parts
                tokens.add_row(name, prompts, *(f"{part / 2**30:.1f}" for part in row), f"{found.launches:,}")
        console.print(tokens)
        for recomputes in ("", ", layers recomputed"):
            if recomputes:
                recompute_layers(policy.model)
            found = learning_pass(policy)
            moved = f"{sum(found.bytes.values()) / 2**30:,.0f} GiB"
            console.print(f"A pass of {READ} responses, {PROMPT} + {RESPONSE} tokens, LoRA {RANK}{recomputes}: {moved}")
            for name, size in found.bytes.most_common(12):
                console.print(f"  {size / 2**30:7.1f} {name}")


if __name__ == "__main__":
    main()
