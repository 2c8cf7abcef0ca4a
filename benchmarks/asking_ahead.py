"""Asking a judge elsewhere while responses are sampled: `python -m benchmarks.asking_ahead`.

The same play of the arena, in turns: of responses that are all there before the judge is asked, and of responses that
arrive prompt by prompt. The judge waits a fixed time for each answer, which is chosen so that asking takes as long as
sampling; it computes nothing. Nor does the sampler: it waits for each token, of all responses together, whose lengths
are log-normal, up to a limit. `--vllm` has vLLM sample instead, the shipped policy on the task chat.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from agents.policies.lm.hf_policy import HFPolicy
from benchmarks.timing import machine
from envs import Completion, DuelArena, Proposal, make_task
from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.endpoint_judge import EndpointJudge
from oracles.judging.question import Question
from oracles.judging.verdicts import Reading, likelier
from preference_duel.keyed_random import Key, hash_seed
from preference_duel.types import Arriving

CONCURRENCY = 16
"""Questions under way at once: the default of endpoints."""


class Patient(EndpointJudge):
    """A judge whose answers come after a fixed time."""

    seconds = 0.0

    def _ask(self, question: Question, seed: int | None) -> Reading:
        del seed
        time.sleep(self.seconds)
        return likelier(hash_seed(*question) % 1000 / 1000)


def waiting(options: argparse.Namespace, batch: int) -> Arriving:
    """Returns responses of random lengths, which arrive when their tokens have been waited for."""
    rng = np.random.default_rng(batch)
    lengths = rng.lognormal(np.log(options.length), options.spread, (options.prompts, options.responses))
    ends = np.minimum(lengths, options.limit).max(1) * options.token_seconds

    def rows() -> Iterator[tuple[int, list[Completion]]]:
        start = time.perf_counter()
        for b in np.argsort(ends).tolist():
            time.sleep(max(0.0, start + ends[b] - time.perf_counter()))
            yield b, [Completion(f"{batch} {b} {k}") for k in range(options.responses)]

    return Arriving(rows(), (options.prompts, options.responses))


def sampled(policy: HFPolicy, prompts: Sequence[str], options: argparse.Namespace, batch: int) -> Any:
    """Returns responses that vLLM samples."""
    return policy.start_draw(prompts, options.responses, Key(0, batch))[0]


def play(arena: DuelArena, start: Callable[[int], Any], batch: int, ahead: bool) -> tuple[float, float]:
    """Returns the seconds of sampling, and of sampling and asking."""
    begin = time.perf_counter()
    responses = start(batch)
    if not ahead:
        responses = list(responses)
    drawn = time.perf_counter()
    arena.play(Proposal(responses))
    return drawn - begin, time.perf_counter() - begin


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--length", type=float, default=300, help="tokens of the median response (not of --vllm)")
    parser.add_argument("--spread", type=float, default=0.6, help="deviation of the logarithm of lengths")
    parser.add_argument("--limit", type=int, default=1024, help="tokens of the longest response")
    parser.add_argument("--token-seconds", type=float, default=0.005, help="of one token of every response")
    parser.add_argument("--asking", type=float, default=1.0, help="time of asking, in times of sampling")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of vLLM")
    options = parser.parse_args()
    task = make_task("chat")
    judge = Patient("http://localhost#patient", EndpointConfig(concurrency=CONCURRENCY))
    arena = DuelArena(task, judge, options.prompts)
    if options.vllm:
        policy = HFPolicy("agents/checkpoints/tiny", task, options.device, sampler="vllm")
        prompts = arena.reset()
        start = partial(sampled, policy, prompts, options)
    else:
        start = partial(waiting, options)
    arena.reset()
    play(arena, start, 0, ahead=False)  # warms up
    arena.reset()
    sampling, _ = play(arena, start, 0, ahead=False)
    questions = options.prompts * options.responses * (options.responses - 1)
    judge.seconds = options.asking * sampling * CONCURRENCY / questions
    plain, ahead = [], []
    for batch in range(1, options.repeats + 1):
        for found, early in ((plain, False), (ahead, True)):
            arena.reset()
            found.append(play(arena, start, batch, early)[1])
    ratios = sorted(b / a for a, b in zip(plain, ahead, strict=True))
    print(
        f"{'vLLM' if options.vllm else 'waiting'}: {options.prompts} prompts x {options.responses}, sampling "
        f"{sampling:.1f} s, an answer {judge.seconds:.3f} s: one after the other {median(plain):.1f} s, ahead "
        f"{median(ahead):.1f} s, ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    print(machine(options.device))


if __name__ == "__main__":
    main()
