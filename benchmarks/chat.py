"""Results of each agent on the default task: `python -m benchmarks.chat [--agents ...]`.

Every run is `python -m runners.duel --agent NAME` with its defaults: task chat, policy tiny, the shipped PairRM.
Printed for each seed: the held-out win rate against the start before and after, with its 95 % interval over prompts,
the share of 4 answers to each held-out prompt that parse under the grammar, and the seconds of the whole command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agents.policies.lm_config import HFConfig
from agents.registry import AGENTS
from benchmarks.timing import machine
from envs.tasks.grammar import parse
from envs.tasks.task import make_task
from preference_duel.keyed_random import Key
from runners.run.checkpoint import steps
from runners.run.record import read_lines


def parse_share(policy: Path, seed: int) -> float:
    """Returns the share of 4 answers to each held-out prompt that are in the corpus' grammar."""
    config = HFConfig(str(policy))
    task = make_task("chat", tokenizer=config.load_tokenizer())
    rows, _ = config.build(task=task).draw(task.held_out, 4, Key(seed))
    texts = [response.text for row in rows for response in row]
    return sum(parse(text) is not None for text in texts) / len(texts)


def measure(agent: str, seed: int, threads: int, more: list[str]) -> tuple[list[dict[str, float]], float, float]:
    """Runs the command; returns its evaluations, the share of answers that parse, and its seconds."""
    command = [sys.executable, "-m", "runners.duel", "--agent", agent, "--run.seed", str(seed), "--run.device", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        run, start = Path(folder) / "run", time.perf_counter()
        limit = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([*command, *more, "--run.dir", str(run)], check=True, stdout=subprocess.DEVNULL, env=limit)
        seconds = time.perf_counter() - start
        lines = [line for line in read_lines(run / "metrics.jsonl") if "eval/win_rate_vs_ref" in line]
        return lines, parse_share(run / f"step-{steps(run)[-1]}" / "policy", seed), seconds


def main() -> None:
    """Prints the table; what follows the options of its own goes to `runners.duel`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = [agent for agent in AGENTS if agent not in ("dcppo", "pelhf", "psro") and "sb3" not in AGENTS[agent]]
    parser.add_argument("--agents", nargs="+", default=own, help="whose policy is one language model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    found, more = parser.parse_known_args()
    table = Table("agent", "seed", "before", "after", "95 %", "parses", "seconds", title=" ".join(["chat", *more]))
    for agent in found.agents:
        for seed in range(found.seeds):
            lines, share, seconds = measure(agent, seed, found.threads, more)
            before, after = (line["eval/win_rate_vs_ref"] for line in (lines[0], lines[-1]))
            ends = f"{lines[-1]['eval/win_rate_low']:.3f} - {lines[-1]['eval/win_rate_high']:.3f}"
            row = [agent, str(seed), f"{before:.3f}", f"{after:.3f}", ends, f"{share:.3f}", f"{seconds:.0f}"]
            table.add_row(*row)
            print(*row, sep=" | ", flush=True)
    Console(width=150).print(table)
    print(machine())


if __name__ == "__main__":
    main()
