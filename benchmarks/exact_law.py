"""Exact exploitability of a language model: `python -m benchmarks.exact_law`.

Times the whole law over all strings of a length, by the tree of their beginnings and by reading every string from its
start, and compares the exact exploitability with an estimate from draws.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

import oracles
from agents.registry import make_policy
from benchmarks.timing import machine, timed
from envs import Task, make_task
from envs.games import exploitability
from oracles import payoff
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy


def from_the_start(policy: Policy, prompts: tuple[str, ...], task: Task) -> Tensor:
    """Returns [1, N] the law, every response read from its start."""
    with torch.no_grad():
        return policy.logprob(prompts, [list(task.responses or ())]).double().exp().cpu()


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="tiny", help="tiny, or a transformers directory (default: tiny)")
    parser.add_argument("--length", type=int, default=6, help="letters of a string, out of four (default: 6)")
    parser.add_argument("--draws", type=int, default=4000, help="draws of the estimate (default: 4000)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    found = parser.parse_args()
    task = make_task("symbols", length=found.length, prompts=1)
    texts, prompts = list(task.response_texts), task.prompts
    policy = make_policy(found.policy, task=task, device=found.device)
    judge = oracles.make("cyclic", prompts=prompts, responses=texts)
    game = payoff(judge, prompts, [texts])
    tree, tree_s = timed(lambda: policy.distribution(prompts, task.responses or ()))
    whole, whole_s = timed(lambda: from_the_start(policy, prompts, task))
    exact, gap_s = timed(lambda: exploitability(game, tree))
    best = texts[int((game[0] @ tree[0]).argmax())]
    drawn, _ = policy.draw(prompts, found.draws, Key(0))
    gains = judge.prob(prompts * found.draws, [best] * found.draws, [y.text for y in drawn[0]]).numpy() - 0.5
    half = 1.96 * gains.std(ddof=1) / np.sqrt(found.draws)
    print(f"{len(texts)} strings; their probabilities sum to 1 within {abs(float(tree.sum()) - 1):.1e}")
    print(f"law by beginnings       {tree_s:8.3f} s")
    print(f"law from the start      {whole_s:8.3f} s, {whole_s / tree_s:.1f} times as long, ", end="")
    print(f"off by {float((whole / tree - 1).abs().max()):.0e} (float32)")
    print(f"exploitability          {gap_s:8.3f} s: {exact.item():.4f}")
    print(
        f"estimated by {found.draws} draws  {gains.mean():.4f} [{gains.mean() - half:.4f}, {gains.mean() + half:.4f}]"
    )
    print(machine(found.device))


if __name__ == "__main__":
    main()
