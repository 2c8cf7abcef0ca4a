"""Bytes of an agent's copies of its policy, at the sizes of Llama 3.1 8B: `python -m benchmarks.copies`.

The policy itself, its gradient and the optimiser's moments are not among them; the reference that a run keeps is.
Nothing is computed: tensors are on torch's device meta, as after some steps, when copies of the start are equal and
each renewed copy is another.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from agents import make
from agents.policies.lm import copies
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.loading import load_tokenizer
from agents.policies.lm.scoring import Root
from agents.policies.lm_config import COMPUTES, HFConfig
from benchmarks.models import SIZES, free_text, write_model

AGENTS = "ipo", "sppo", "dpo", "inpo", "egpo", "nash_md", "xpo", "spo", "grpo", "kto", "mnpo", "nash_ema"
RENEWED = "opponent", "half", "past"
"""Copies that an update replaces, by an agent's name for them."""
SHAPE: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


def large_policy(folder: Path, compute: Any) -> HFPolicy:
    """Returns a policy of the shape, whose weights have no numbers."""
    write_model(folder, SIZES["1m"], torch.float32)
    task = free_text(load_tokenizer(str(folder)), 2, 4, 4)
    policy: Any = HFConfig(str(folder), compute=compute).build(task=task)
    with torch.device("meta"):
        policy.model = LlamaForCausalLM(LlamaConfig(**SHAPE)).float().eval()
    object.__setattr__(policy, "_root", Root(policy.model))
    return policy


def held(name: str, policy: HFPolicy) -> Counter[str]:
    """Returns the bytes of all copies of a policy that an agent and its run hold, by "device" and "host"."""
    host: set[int] = set()

    def on_the_host(model: nn.Module) -> copies.Copies:
        moved = {id(p): nn.Parameter(torch.empty_like(p), requires_grad=False) for p in model.parameters()}
        host.update(p.untyped_storage()._cdata for p in moved.values())
        return moved

    with mock.patch.object(copies, "on_the_host", on_the_host):
        with mock.patch("torch.equal", lambda one, other: one.shape == other.shape):
            run = policy.snapshot(), make(name, policy=policy)
        with mock.patch("torch.equal", return_value=False):  # a step has changed all weights
            for copy in filter(None, (getattr(run[1], name, None) for name in RENEWED)):
                for one in copy if isinstance(copy, list) else [copy]:
                    one.load_state_dict(policy.state_dict())
    twins = [x for x in gc.get_objects() if isinstance(x, HFPolicy) and x is not policy]
    storages = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for x in twins for p in x.parameters()}
    del run
    found: Counter[str] = Counter()
    for storage, size in storages.items():
        found["host" if storage in host else "device"] += size
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", choices=COMPUTES[1:], default="bfloat16", help="arithmetic of passes")
    options = parser.parse_args()
    table = Table(title=f"Copies beside the policy, GiB; passes in {options.compute}")
    for column in ("agent", "device", "host"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    with tempfile.TemporaryDirectory() as folder:
        policy = large_policy(Path(folder), options.compute)
        for name in AGENTS:
            gc.collect()
            found = held(name, policy)
            table.add_row(name, *(f"{found[where] / 2**30:.1f}" for where in ("device", "host")))
    Console().print(table)


if __name__ == "__main__":
    main()
