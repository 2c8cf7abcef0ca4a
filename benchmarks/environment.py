"""Steps a second of every view of the duel, beside other people's: `python -m benchmarks.environment`.

One process, one thread, each pair measured in turns: the ratio counts. A step of a vector is N steps. Two games:
"long" has 64 words and up to 16 of them in a response, and an oracle that costs nothing; "short" is the environment
without arguments, three letters out of four and a table's verdict every third step. Players are uniform. `rps_v2` is
PettingZoo's own, with its default of 15 rounds.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from pettingzoo.classic import rps_v2
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
from benchmarks.timing import machine
from envs import TokenDuels, make_task, preference_duel_v0
from envs.tasks.task import Task
from envs.tasks.tokenizers import ListTokenizer
from envs.token_duel.duels_torch import TorchDuels
from envs.views.gym_env import solo_env
from envs.views.gym_vector_env import solo_vector
from envs.views.sb3_vec_env import sb3_env
from oracles import make

Stepper = Iterator[int]
"""Makes some steps each time it is asked, and says how many."""
ACTIONS = 1024


def parallel(env: Any) -> Stepper:
    """Plays a ParallelEnv with actions drawn before."""
    rng, seats = np.random.default_rng(0), env.possible_agents
    tokens = rng.integers(0, env.action_space(seats[0]).n, (ACTIONS, 2)).tolist()
    plan = [dict(zip(seats, row, strict=True)) for row in tokens]
    env.reset(seed=0)
    while True:
        for actions in plan:
            if not env.agents:
                env.reset()
            env.step(actions)
        yield ACTIONS


def aec(env: Any) -> Stepper:
    """Plays an AECEnv with actions drawn before; a step is one player's."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    plan = rng.integers(0, env.action_space(env.possible_agents[0]).n, ACTIONS).tolist()
    while True:
        for action in plan:
            if not env.agents:
                env.reset()
            _, _, over, cut, _ = env.last()
            env.step(None if over or cut else action)
        yield ACTIONS


def vector(env: Any) -> Stepper:
    """Plays a Gymnasium vector or an SB3 VecEnv with actions drawn before."""
    rng, space = np.random.default_rng(0), getattr(env, "single_action_space", env.action_space)
    plan = rng.integers(0, space.n, (64, env.num_envs))
    env.reset()
    while True:
        for actions in plan:
            env.step(actions)
        yield plan.size


def core(duels: Any, made: Callable[[Any], Any]) -> Stepper:
    """Plays the two-player core, resetting what has ended."""
    rng = np.random.default_rng(0)
    plan = [made(one) for one in rng.random((16, duels.size, 2))]
    duels.reset()
    while True:
        for chance in plan:
            judged = duels.step(duels.random_tokens(chance))
            if len(judged):
                duels.reset(judged)
        yield 16 * duels.size


def learning(env: Any) -> Stepper:
    """Runs PPO end to end: sampling, stepping, one pass over the rollout."""
    model = PPO(
        "MlpPolicy", env, n_steps=32, batch_size=2048, n_epochs=1, device="cpu", policy_kwargs={"net_arch": [64, 64]}
    )
    while True:
        model.learn(32 * env.num_envs, reset_num_timesteps=False)
        yield 32 * env.num_envs


def rate(stepper: Stepper, seconds: float) -> float:
    """Returns steps a second."""
    next(stepper)
    steps, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        steps += next(stepper)
    return steps / passed


def words(size: int, limit: int) -> Task:
    """Returns a task of free text over a vocabulary of this size."""
    tokenizer = ListTokenizer([f"w{i} " for i in range(size - 2)])
    return Task("words", ("w0 w1 ",), ("w0 w1 ",), tokenizer, 4, limit, 0, np.ones(tokenizer.vocab_size, np.bool_))


class Even:
    """An oracle that costs nothing."""

    antisymmetric = True

    def prob(self, prompts: Any, first: Any, second: Any) -> torch.Tensor:
        """Returns 1/2 for every question."""
        return torch.full((len(prompts),), 0.5, dtype=torch.float64)


@dataclass(frozen=True)
class Comparison:
    """Ours beside another.

    Attributes:
        name: what is compared.
        wanted: the least ratio that we hold ourselves to; None: it is only told.
        ours: what is played, and how.
        other: likewise.
    """

    name: str
    wanted: float | None
    ours: tuple[str, Callable[[], Stepper]]
    other: tuple[str, Callable[[], Stepper]]


GAMES: dict[str, dict[str, Any]] = {
    "long": {"task": words(64, 16), "oracle": Even()},
    "short": {"task": "symbols", "oracle": "cyclic"},
}


def views(game: dict[str, Any]) -> list[Comparison]:
    """Returns what is compared on each game."""
    flat = {**game, "obs": "flat"}

    def dummy(**options: Any) -> DummyVecEnv:
        return DummyVecEnv([lambda: solo_env(**options)] * 64)

    return [
        Comparison(
            "Parallel",
            8,
            ("parallel_env()", lambda: parallel(preference_duel_v0.parallel_env(**game))),
            ("rps_v2.parallel_env()", lambda: parallel(rps_v2.parallel_env())),
        ),
        Comparison(
            "AEC",
            0.5,
            ("env()", lambda: aec(preference_duel_v0.env(**game))),
            ("rps_v2.env()", lambda: aec(rps_v2.env())),
        ),
        Comparison(
            "Gymnasium vector, N = 256",
            15,
            ("make_vec()", lambda: vector(solo_vector(256, **game))),
            ("SyncVectorEnv", lambda: vector(gymnasium.make_vec(envs.registration.DUEL, 256, "sync", **game))),
        ),
        Comparison(
            "SB3 VecEnv, N = 64",
            20,
            ("sb3_env(64)", lambda: vector(sb3_env(64, **game))),
            ("DummyVecEnv", lambda: vector(dummy(**game))),
        ),
        Comparison(
            "PPO.learn, N = 64",
            2,
            ("sb3_env(64)", lambda: learning(sb3_env(64, **flat))),
            ("DummyVecEnv", lambda: learning(dummy(**flat))),
        ),
    ]


def others(device: str) -> list[Comparison]:
    """Returns what is compared on games of its own: a large vocabulary's masks, and the core on tensors."""
    wide = {"task": words(50_257, 64), "oracle": Even()}
    return [
        *(
            Comparison(
                f"V = 50,257, N = {count:,}",
                wanted,
                ('mask="none"', partial(_vector, count, mask="none", **wide)),
                ('mask="observation"', partial(_vector, count, mask="observation", **wide)),
            )
            for count, wanted in ((256, None), (1024, 10))
        ),
        *(
            Comparison(
                f"core, N = {count:,}",
                None,
                (f"TorchDuels, {device}", partial(_tensors, count, device)),
                ("TokenDuels", lambda count=count: core(duels_of(TokenDuels, count), lambda chance: chance)),
            )
            for count in ((4096,) if device == "cpu" else (4096, 262_144))
        ),
    ]


def _vector(count: int, **options: Any) -> Stepper:
    return vector(solo_vector(count, **options))


def _tensors(count: int, device: str) -> Stepper:
    return core(duels_of(TorchDuels, count, device=device), lambda chance: torch.from_numpy(chance).to(device))


def duels_of(kind: type, count: int, **options: Any) -> Any:
    """Returns duels of the short game."""
    task = make_task("symbols")
    return kind(task, make("cyclic", prompts=task.all_prompts, responses=task.response_texts), count, **options)


def measure(comparison: Comparison, seconds: float, rounds: int) -> tuple[float, float]:
    """Returns both rates, each the best of some rounds taken in turns."""
    steppers = [make_stepper() for _, make_stepper in (comparison.ours, comparison.other)]
    rates = [[rate(stepper, seconds) for stepper in steppers] for _ in range(rounds)]
    ours, other = (max(one) for one in zip(*rates, strict=True))
    return ours, other


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    parser.add_argument("--only", default="", help="comparisons whose names have this in them (default: all)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of TorchDuels; others have none")
    parser.add_argument("--out", type=Path, default=None, help="FILE.json for the numbers")
    found = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=130)
    console.print(machine(found.device))
    numbers = []
    groups = {f"{name} game": views(game) for name, game in GAMES.items()} | {"": others(found.device)}
    for title, group in groups.items():
        table = Table(title, "ours", "steps/s", "other", "steps/s", "ratio", "wanted")
        for comparison in (one for one in group if found.only in one.name):
            ours, other = measure(comparison, found.seconds, found.rounds)
            wanted = "" if comparison.wanted is None else f"{comparison.wanted:g}"
            names = comparison.ours[0], comparison.other[0]
            cells = f"{ours:,.0f}", names[1], f"{other:,.0f}", f"{ours / other:.2f}", wanted
            table.add_row(comparison.name, names[0], *cells)
            numbers.append({"game": title, "name": comparison.name, "ours": ours, "other": other})
        if table.row_count:
            console.print(table)
    if found.out is not None:
        found.out.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
