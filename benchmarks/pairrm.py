"""All pairs of K responses to every prompt, by our PairRM and by llm-blender's: `python -m benchmarks.pairrm`.

The checkpoint has the sizes of a DeBERTa-v3 and random weights; texts have log-normal lengths. Both give M(a, b) of
every ordered pair. llm-blender 0.0.2 runs in a process of its own, in turns with ours, where `--blender` names the
Python of an environment in which it is installed (`pip install llm-blender==0.0.2 'transformers<4.50'`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timing import clock, machine, matrix_rate, write_measurement
from oracles.pairrm.oracle import PairRMConfig, PairRMOracle

GOLDEN = Path(__file__).parents[1] / "tests/golden/pairrm"
SIZES = {"small": (768, 6, 12, 3072), "large": (1024, 24, 16, 4096)}
"""Hidden, layers, heads, intermediate: microsoft/deberta-v3-small and -large."""

Questions = tuple[list[str], list[str], list[str]]


def write_checkpoint(folder: Path, size: str) -> None:
    """Writes a PairRM of random weights in llm-blender's layout, with a backbone that llm-blender can load."""
    from transformers import DebertaV2Config, DebertaV2Model

    from oracles.pairrm.network import PairRM

    shutil.copytree(GOLDEN / "PairRM", folder)
    settings = json.loads((GOLDEN / "backbone/config.json").read_text(encoding="utf-8"))
    hidden, layers, heads, intermediate = SIZES[size]
    settings |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    settings |= {"intermediate_size": intermediate, "vocab_size": len(_vocabulary(folder)), "initializer_range": 0.05}
    config = DebertaV2Config(**{name: value for name, value in settings.items() if name != "model_type"})
    torch.manual_seed(0)
    network = PairRM(config)
    network.pretrained_model.save_pretrained(folder / "backbone")
    assert isinstance(network.pretrained_model, DebertaV2Model)
    marks = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    kind = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm", **marks}
    (folder / "backbone/tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
    shutil.copy(folder / "tokenizer.json", folder / "backbone/tokenizer.json")
    ranker = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"model_name": "backbone"}
    (folder / "config.json").write_text(json.dumps(ranker), encoding="utf-8")
    from safetensors.torch import save_file

    save_file(dict(network.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})


def _vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)


def questions(prompts: int, responses: int) -> Questions:
    """Returns every ordered pair of the responses to every prompt; a text has a median of 8 words, a tenth over 20."""
    rng = np.random.default_rng(0)

    def text() -> str:
        words = int(np.clip(rng.lognormal(np.log(8), 0.7), 2, 100))
        return " ".join("".join(rng.choice(list("aeinorst"), 3)) for _ in range(words))

    found: Questions = ([], [], [])
    for _ in range(prompts):
        prompt, answers = text(), [text() for _ in range(responses)]
        for a, b in permutations(answers, 2):
            for column, one in zip(found, (prompt, a, b), strict=True):
                column.append(one)
    return found


class Blender:
    """llm-blender in its own process.

    Args:
        python: of its environment.
        arguments: of benchmarks/pairrm_blender.py.
    """

    def __init__(self, python: str, *arguments: str) -> None:
        command = [python, str(Path(__file__).with_name("pairrm_blender.py")), *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=arguments[0],
        )

    def compare(self, batch_size: int) -> tuple[float, torch.Tensor]:
        """Returns seconds and logits."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch_size}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                answer = json.loads(line.removeprefix("ANSWER "))
                return answer["seconds"], torch.tensor(answer["logits"])
        raise RuntimeError(f"llm-blender ended with exit code {self._process.wait()}")


def ours(oracle: PairRMOracle, asked: Questions, device: str) -> tuple[float, torch.Tensor]:
    """Returns seconds and logits; nothing is remembered from the time before."""
    oracle.forget()
    oracle.encoder.text_ids.cache_clear()
    start = clock(device)
    logits = oracle.logits(*asked)
    return clock(device) - start, logits


def floor(oracle: PairRMOracle, asked: Questions, rate: float) -> float:
    """Returns the seconds of the matrix products with weights and of attention, nothing padded."""
    config = oracle.network.config
    d, width = config.hidden_size, config.intermediate_size
    total = 0.0
    for question in zip(*asked, strict=True):
        length = len(oracle.encoder.encode(*question).ids)
        total += config.num_hidden_layers * (2 * length * (4 * d * d + 2 * d * width) + 8 * length * length * d)
    return total / rate


def main() -> None:
    """Measures, prints the table, and writes what was measured as JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--responses", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--blender", help="the Python of an environment with llm-blender 0.0.2; none: ours alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked = questions(options.prompts, options.responses)
    times: dict[str, list[float]] = {}
    logits: dict[str, torch.Tensor] = {}

    def measure(name: str, work: Callable[[], tuple[float, torch.Tensor]]) -> None:
        seconds, logits[name] = work()
        times.setdefault(name, []).append(seconds)

    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name) / "checkpoint", Path(name) / "questions.json"
        write_checkpoint(folder, options.size)
        file.write_text(json.dumps(asked), encoding="utf-8")
        config = PairRMConfig(str(folder), backbone=str(folder / "backbone"))
        oracle = config.build(device=options.device)
        rate = matrix_rate(options.device)
        least = floor(oracle, asked, rate)
        ours(oracle, questions(2, options.responses), options.device)
        other = None
        if options.blender:
            other = Blender(options.blender, str(folder), str(file), str(options.threads), options.device)
        for _ in range(options.repeats):
            measure("ours", lambda: ours(oracle, asked, options.device))
            for size in options.batch_sizes if other is not None else ():
                measure(f"llm-blender, by {size}", lambda size=size: other.compare(size))  # pyright: ignore[reportOptionalMemberAccess] - checked above
                measure("ours", lambda: ours(oracle, asked, options.device))
    report(options, times, logits, least, rate)


def report(
    options: argparse.Namespace, times: dict[str, list[float]], logits: dict[str, Any], least: float, rate: float
) -> None:
    """Prints and writes medians, and how far logits lie from ours."""
    mine, count = median(times["ours"]), len(logits["ours"])
    table = Table(
        title=f"{options.size}: {options.prompts} prompts, {options.responses} responses, {count} ordered pairs"
    )
    for column in ("", "s", "pairs/s", "times ours", "logits apart"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in times.items():
        apart = (logits[name] - logits["ours"]).abs().max().item()
        row = (
            f"{median(seconds):.1f}",
            f"{count / median(seconds):.1f}",
            f"{median(seconds) / mine:.2f}",
            f"{apart:.1e}",
        )
        table.add_row(name, *row)
    table.add_row("floor", f"{least:.1f}", f"{count / least:.1f}", "", "")
    Console().print(table)
    Console().print(f"standard deviation of the logits: {logits['ours'].std().item():.2g}")
    Console().print(f"{rate / 1e9:,.0f} GFLOP/s in large matrix products; {machine(options.device)}")
    write_measurement(options, rate, least, seconds=times)


if __name__ == "__main__":
    main()
