"""Speed-up of learning many seeds in one batch: `python -m benchmarks.stack`.

A game of 64 responses to one prompt (`cyclic`, lam 1/2), single outcomes, 2,000 updates of tables by an agent with its
default settings: all seeds in one batch, and one after another. Both are the bare loop of `runners.duel`, without
logging, in one thread. Printed: seconds of the processor, which other work on the machine does not change, the ratio,
and the largest relative difference of any final measure.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.timing import machine
from runners.benchmark.batched_seeds import batch_seeds
from runners.run.build import Experiment, build_experiment
from runners.run.cli import parse
from runners.run.config import RunConfig, Settings
from runners.run.loop import steps

GAME = "--task symbols --task.length 3 --task.prompts 1 --oracle cyclic --policy tabular --policy.spread 1"


def settings(agent: str, seed: int, steps: int) -> Settings:
    """Returns the settings of one seed."""
    more = ["--run.batch_size", "None", "--run.eval_tau", "0.1", "--run.seed", str(seed), "--run.steps", str(steps)]
    return parse(["--agent", agent, *GAME.split(), *more]).settings


def play(experiment: Experiment, run: RunConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """Returns the processor's seconds of a run's steps, and the measures after them, by prompt."""
    agent = experiment.agent
    start = time.process_time()
    for _ in steps(experiment, run):
        pass
    return time.process_time() - start, experiment.evaluation.by_prompt(agent.policy, agent.average)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="sppo")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--alone", type=int, metavar="N", help="seeds that learn one after another (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [settings(options.agent, seed, options.steps) for seed in range(options.seeds)]
    begun = time.process_time()
    together = batch_seeds(runs)
    building = time.process_time() - begun
    seconds, ours = play(together, runs[0].run)
    print(f"one batch of {options.seeds} seeds: {seconds:.1f} s, and {building:.1f} s to build it", flush=True)
    alone, worst = 0.0, 0.0
    chosen = runs[: options.alone]
    for seed, one in enumerate(chosen):
        took, theirs = play(build_experiment(one, "cpu"), one.run)
        alone += took
        worst = max(worst, *(float((ours[tag][seed] / theirs[tag][0] - 1).abs()) for tag in theirs))
        if (seed + 1) % 10 == 0:
            print(f"{seed + 1} seeds one after another: {alone:.1f} s", flush=True)
    ratio = alone / len(chosen) * len(runs) / (seconds + building)
    print(f"{options.agent}: {ratio:.1f} times as fast, largest relative difference {worst:.1e}; {machine()}")


if __name__ == "__main__":
    main()
