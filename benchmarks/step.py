"""One step, ours and TRL's, in turns: `python -m benchmarks.step` (needs trl==1.16.0).

Self-play IPO beside TRL's OnlineDPO, or, by `--peer grpo`, our `grpo` beside TRL's. Both sample two responses to every
prompt from the same random Llama, score them by the same function of the text (of grpo: by the same comparisons), and
take one AdamW step on the same loss, or one of the same cost, against the frozen start. Every response has the same
number of tokens. Without trl installed, ours is measured alone. The floor is the model's multiplications over the rate
of a large matrix product on this machine, with nothing lost in between.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents import make
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.loading import load_tokenizer
from agents.policies.lm_config import SAMPLERS, HFConfig, LoRAConfig
from benchmarks.memory import Peak
from benchmarks.models import SIZES, free_text, write_model
from benchmarks.timing import (
    PROCESSOR_TIME,
    check_processor_time,
    machine,
    matrix_rate,
    now,
    write_measurement,
)
from envs import DuelArena
from envs.tasks.task import Task
from oracles.adapters.trl import duel_reward

PHASES = "sample", "score", "learn"
WARM = 2
"""Steps that are not timed: caches fill, optimisers make their state; in the last one memory is measured instead."""
MEASURED = WARM - 1
PEERS = {"online_dpo": "ipo", "grpo": "grpo", "none": "ipo"}
"""Our agent beside each trainer of TRL."""
TAU = 0.04
"""KL coefficient of grpo, of both."""


@dataclass(frozen=True)
class Took:
    """One step: seconds of each phase; or, of the one step before all others, the peak of memory in bytes."""

    sample: float
    score: float
    learn: float
    memory: int = 0

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.sample + self.score + self.learn


def quality(text: str) -> float:
    """Returns the score of a response: how many different words it has."""
    return len(set(text.split()))


class Longer:
    """Prefers the response of higher quality, as both libraries are told to."""

    antisymmetric = True

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns 1, 1/2 or 0 for each of N pairs."""
        margins = [quality(a) - quality(b) for a, b in zip(first, second, strict=True)]
        return (torch.tensor(margins, dtype=torch.float64).sign() + 1) / 2


def ours(folder: Path, task: Task, options: argparse.Namespace) -> Iterator[Took]:
    """Makes one step of ours each time it is asked."""
    policy = HFConfig(
        str(folder),
        micro_tokens=options.micro_tokens,
        checkpointing=options.checkpointing,
        sampler=options.sampler,
        lora=LoRAConfig(rank=options.lora),
        dtype="bfloat16" if options.lora and options.device == "cuda" else "float32",
    ).build(task=task, device=options.device)
    optimiser = OptimiserConfig(method="adamw", learning_rate=1e-6, smoothing=0.999, warmup=0)
    more: dict[str, Any] = {"tau": TAU} if options.peer == "grpo" else {}
    responses = options.responses
    agent: Any = make(
        PEERS[options.peer], policy=policy, responses=responses, average=False, optimiser=optimiser, **more
    )
    arena = DuelArena(task, Longer(), None)
    for step in itertools.count():
        with Peak(options.device, step == MEASURED) as peak:
            marks = [now(options)]
            proposal = agent.propose(arena.reset())
            marks.append(now(options))
            duel = arena.play(proposal)
            marks.append(now(options))
            agent.update(duel)
            marks.append(now(options))
        assert all(len(y.ids) == options.new_tokens for row in duel.left for y in row)
        sample, score, learn = (b - a for a, b in itertools.pairwise(marks))
        yield Took(sample, score, learn, peak.bytes)


def trl(folder: Path, task: Task, options: argparse.Namespace, between: Callable[[], None]) -> list[Took]:
    """Makes steps of TRL's trainer, and calls `between` after each."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    dtype = torch.bfloat16 if options.lora and options.device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    found: list[Took] = []

    class Clock(TrainerCallback):
        """Times the steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Starts the clock."""
            spent.update(dict.fromkeys(PHASES, 0.0))
            self.peak = Peak(options.device, len(found) == MEASURED).__enter__()
            self.start = now(options)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Stops it."""
            total = now(options) - self.start
            self.peak.__exit__(None, None, None)
            learn = total - spent["sample"] - spent["score"]
            found.append(Took(spent["sample"], spent["score"], learn, self.peak.bytes))
            between()

    lora = None
    if options.lora:
        from peft import LoraConfig

        lora = LoraConfig(r=options.lora, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    parts = {
        "model": model,
        "processing_class": AutoTokenizer.from_pretrained(folder, padding_side="left"),
        "train_dataset": Dataset.from_dict({"prompt": list(task.prompts)}),
        "peft_config": lora,
        "callbacks": [Clock()],
    }
    settings = {
        "output_dir": str(folder / "trl"),
        "max_steps": options.steps + WARM,
        "temperature": 1.0,
        "generation_kwargs": {"min_new_tokens": options.new_tokens},
        "learning_rate": 1e-6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "gradient_checkpointing": options.checkpointing,
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
    }
    trainer, score = {"online_dpo": online_dpo, "grpo": grpo}[options.peer](parts, settings, options)
    _time(trainer, "_generate", spent, "sample", options)
    _time(trainer, score, spent, "score", options)
    trainer.train()
    return found


def online_dpo(parts: dict[str, Any], settings: dict[str, Any], options: argparse.Namespace) -> tuple[Any, str]:
    """Returns the trainer, and the name of its method that scores responses."""
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer  # pyright: ignore[reportMissingImports] - optional

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return [quality(text) for text in completions]

    config = OnlineDPOConfig(
        loss_type="ipo",
        per_device_train_batch_size=options.prompts,
        max_new_tokens=options.new_tokens,
        max_length=options.prompt_tokens + options.new_tokens,
        **settings,
    )
    return OnlineDPOTrainer(reward_funcs=reward, args=config, **parts), "_calculate_rewards_from_functions"


def grpo(parts: dict[str, Any], settings: dict[str, Any], options: argparse.Namespace) -> tuple[Any, str]:
    """Returns the trainer, and the name of its method that scores responses."""
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports] - optional

    config = GRPOConfig(
        loss_type="grpo",
        beta=TAU,
        num_generations=options.responses,
        per_device_train_batch_size=options.prompts * options.responses,
        max_completion_length=options.new_tokens,
        **settings,
    )
    reward = duel_reward(Longer(), num_generations=options.responses)
    return GRPOTrainer(reward_funcs=reward, args=config, **parts), "_calculate_rewards"


def _time(thing: Any, name: str, spent: dict[str, float], phase: str, options: argparse.Namespace) -> None:
    """Adds the seconds that a method takes to `spent[phase]`."""
    method = getattr(thing, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        start = now(options)
        result = method(*arguments, **named)
        spent[phase] += now(options) - start
        return result

    setattr(thing, name, timed)


def floor(options: argparse.Namespace, rate: float) -> dict[str, float]:
    """Returns the least seconds of sampling and learning.

    Two multiplications a weight and token forward, four backward (two where only adapters learn). Prompts are read once
    for all responses while sampling; learning reads prompt and response, the start's log-probabilities included.
    """
    size = SIZES[options.size]
    written = options.responses * options.prompts * options.new_tokens
    sampled = 2 * size.matrices * (written + options.prompts * options.prompt_tokens)
    learned = 2 * size.matrices * read(options) * (2 + (1 if options.lora else 2))
    return {"sample": sampled / rate, "learn": learned / rate}


def read(options: argparse.Namespace) -> int:
    """Returns the tokens that learning reads: prompts and responses."""
    return options.responses * options.prompts * (options.prompt_tokens + options.new_tokens)


def profiled(stepper: Iterator[Took], device: str) -> str:
    """Makes one more step and returns the operators of most time, without those that they call."""
    with torch.profiler.profile() as trace:
        next(stepper)
    by = f"self_{device}_time_total"
    return trace.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40)


def main() -> None:
    """Measures, prints the table, and writes what was measured as JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--peer", choices=PEERS, default="online_dpo", help="TRL's trainer; none: ours alone")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--responses", type=int, default=2, help="to each; OnlineDPO takes 2")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0: all weights learn")
    parser.add_argument("--micro-tokens", type=int, default=8192, help="our tokens in one pass that learns")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--sampler", choices=SAMPLERS, default="transformers", help="who draws for ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="show the operators that one more step of ours takes")
    parser.add_argument("--processor-time", action="store_true", help=PROCESSOR_TIME)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.peer == "online_dpo" and options.responses != 2:
        parser.error(f"OnlineDPO takes 2 responses, got {options.responses}; take --peer grpo or none")
    check_processor_time(parser, options)
    torch.set_num_threads(options.threads)
    rate = matrix_rate(options.device, lambda: now(options))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dtype = torch.bfloat16 if options.size == "7b" else torch.float32
        write_model(folder, SIZES[options.size], dtype, device=options.device)
        task = free_text(load_tokenizer(str(folder)), options.prompts, options.prompt_tokens, options.new_tokens)
        stepper, mine, theirs = ours(folder, task, options), [], []
        if options.peer == "none" or importlib.util.find_spec("trl") is None:
            mine += [next(stepper) for _ in range(options.steps + WARM)]
        else:
            theirs = trl(folder, task, options, lambda: mine.append(next(stepper)))
        if options.profile:
            print(profiled(stepper, options.device))
    report(options, rate, {"ours": mine, "TRL": theirs})


def report(options: argparse.Namespace, rate: float, found: dict[str, list[Took]]) -> None:
    """Prints and writes the medians."""
    least = floor(options, rate)
    table = Table(
        title=f"{options.size}: {options.prompts} prompts x {options.responses} x {options.new_tokens} tokens"
    )
    columns = "", "step, s", *(f"{phase}, s" for phase in PHASES), "tokens/s", "learnt/s", "of the rate", "peak, MiB"
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    tokens = options.responses * options.prompts * options.new_tokens
    for who, all_steps in found.items():
        steps = all_steps[WARM:]
        if steps:
            step, learn = median(one.total for one in steps), median(one.learn for one in steps)
            phases = [f"{median(getattr(one, phase) for one in steps):.3f}" for phase in PHASES]
            speed = f"{tokens / step:,.0f}", f"{read(options) / learn:,.0f}", f"{least['learn'] / learn:.0%}"
            table.add_row(who, f"{step:.3f}", *phases, *speed, f"{all_steps[MEASURED].memory / 2**20:,.0f}")
    total = sum(least.values())
    speed = f"{tokens / total:,.0f}", f"{read(options) / least['learn']:,.0f}", "100%"
    table.add_row("floor", f"{total:.3f}", f"{least['sample']:.3f}", "", f"{least['learn']:.3f}", *speed, "")
    console = Console(width=120)
    console.print(table)
    console.print(f"{rate / 1e9:,.0f} GFLOP/s in large matrix products; {machine(options.device)}")
    if found["TRL"]:
        pairs = [a.total / b.total for a, b in zip(found["ours"][WARM:], found["TRL"][WARM:], strict=True)]
        console.print(
            f"ours / TRL: {median(pairs):.2f}, from {min(pairs):.2f} to {max(pairs):.2f} over {len(pairs)} steps"
        )
    every = {who: [asdict(one) for one in steps] for who, steps in found.items()}
    write_measurement(options, rate, least, steps=every)


if __name__ == "__main__":
    main()
