"""TRL's GRPOTrainer on duels: `python -m benchmarks.trl_grpo` (needs trl==1.16.0).

The shipped `tiny` learns by TRL from comparisons inside each prompt's group, and our evaluation measures it on held-out
prompts against its start, before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from agents.policies.lm_config import TINY, HFConfig, TinyConfig
from benchmarks.timing import machine
from envs.tasks.task import make_task
from oracles.adapters.trl import duel_reward
from oracles.registry import make
from runners.run.evaluator import Evaluation


def learn(options: argparse.Namespace, prompts: Sequence[str], folder: Path) -> None:
    """Trains by TRL and saves the model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports] - optional

    group = options.num_generations
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32),
        reward_funcs=duel_reward("pairrm", num_generations=group, schedule=options.schedule),
        processing_class=AutoTokenizer.from_pretrained(TINY, padding_side="left"),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in prompts]}),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            num_generations=group,
            per_device_train_batch_size=options.prompts * group,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            max_completion_length=options.new_tokens,
            scale_rewards="none",
            use_cpu=True,
            bf16=False,
            seed=options.seed,
            save_strategy="no",
            logging_steps=5,
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the held-out win rates; returns 1 if the one after does not lie above 1/2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_grpo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=16, help="of a step (default: 16)")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--schedule", default="circular")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    task = make_task("chat", tokenizer=TinyConfig().load_tokenizer())
    options.new_tokens = task.max_new_tokens
    start = TinyConfig().build(task=task, device="cpu", seed=0)
    evaluation = Evaluation(task, make("pairrm"), start.frozen(), prompts=128, pairs=4, seed=1, tau=0.1)
    rates = [evaluation.scalars(start)]
    with tempfile.TemporaryDirectory() as name:
        learn(options, task.prompts, Path(name))
        rates.append(evaluation.scalars(HFConfig(f"{name}/model").build(task=task, device="cpu", seed=0)))
    print(f"TRL's GRPO, {options.schedule}, {options.steps} steps of {options.prompts} prompts; {machine()}")
    for when, rate in zip(("before", "after"), rates, strict=True):
        low, high = rate["eval/win_rate_low"], rate["eval/win_rate_high"]
        print(f"{when + ':':8} win rate {rate['eval/win_rate_vs_ref']:.3f} [{low:.3f}, {high:.3f}] against the start")
    return int(rates[1]["eval/win_rate_low"] <= 0.5)


if __name__ == "__main__":
    raise SystemExit(main())
