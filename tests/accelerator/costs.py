"""Counts what inner loops cost the host beside a device: `python -m tests.accelerator.costs`.

A wait stops the host until the device has done all that was launched, and the device idles while the host catches up:
the host needs a value, or a size that depends on values, or a copy up has no `non_blocking`. Each count is the
difference between two runs of unlike length, divided by the repetitions between them: a loop's body alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tests.accelerator.device as accelerator
from agents.registry import make
from envs import DuelArena
from oracles import make as make_oracle
from preference_duel.keyed_random import Key
from preference_duel.types import Duel
from tests.tiny_models import LETTERS, policy_of, text_task, write_model


@dataclass(frozen=True)
class Loop:
    """A loop of the project, that a run goes around as often as it is asked to.

    Attributes:
        of: what one repetition is.
        few: repetitions of the shorter run.
        many: those of the longer one.
        run: prepares a run of so many repetitions, in a folder of its own, and returns what is counted.
    """

    of: str
    few: int
    many: int
    run: Callable[[int, Path], Callable[[], object]]


def tokens(count: int, folder: Path, prompts: tuple[str, ...], **fields: Any) -> Callable[[], object]:
    """Prepares the draw of two responses of `count` tokens to each prompt."""
    write_model(folder, num_hidden_layers=1)
    policy = policy_of(folder, text_task(folder, count, count, prompts), device=accelerator.NAME, **fields)
    policy.draw(prompts, 2, Key(0))  # what is copied once is there
    return partial(policy.draw, prompts, 2, Key(1))


def learner_of(name: str, prompts: tuple[str, ...], folder: Path) -> tuple[Any, Duel]:
    """Returns an agent that has learned once, and a duel of two responses to each prompt; a pass reads one prompt."""
    write_model(folder, num_hidden_layers=1)
    task = text_task(folder, 6, 6, prompts)
    policy = policy_of(folder, task, device=accelerator.NAME, micro_tokens=18)
    agent, arena = make(name, policy=policy, responses=2), DuelArena(task, make_oracle("bt"), None)
    duels = [arena.play(agent.propose(arena.reset())) for _ in range(2)]
    agent.update(duels[0])
    return agent, duels[1]


def passes(count: int, folder: Path) -> Callable[[], object]:
    """Prepares a step of IPO whose duel is read in `count` passes."""
    agent, duel = learner_of("ipo", tuple(LETTERS[:count]), folder)
    return partial(agent.update, duel)


def updates(count: int, folder: Path, name: str) -> Callable[[], object]:
    """Prepares `count` steps of an agent, of one pass each."""
    agent, duel = learner_of(name, (LETTERS[0],), folder)
    return lambda: [agent.update(duel) for _ in range(count)]


def batches(count: int, folder: Path) -> Callable[[], object]:
    """Prepares questions for PairRM that it reads in `count` batches, of one pair each."""
    del folder
    judge = make_oracle("pairrm", checkpoint="embedded", device=accelerator.NAME, token_budget=1, order="one")
    ask = partial(judge.prob, ["Hello?"] * count, LETTERS[:count], LETTERS[1 : count + 1])
    ask()
    judge.forget()
    return ask


LOOPS = {
    "token": Loop("a token drawn, prompts of one length", 8, 16, partial(tokens, prompts=("ab", "#0"))),
    "padded": Loop("a token drawn, prompts of unlike lengths", 8, 16, partial(tokens, prompts=("ab", "#0", "c"))),
    "pass": Loop("a pass that learns", 2, 6, passes),
    "step": Loop("a step of IPO, of one pass", 1, 3, partial(updates, name="ipo")),
    "batch": Loop("a batch of PairRM", 2, 6, batches),
}


@dataclass(frozen=True)
class Cost:
    """What one repetition costs, by place."""

    waits: dict[str, float]
    copies: dict[str, float]
    launches: dict[str, float]


def cost(loop: Loop, folder: Path) -> Cost:
    """Returns the cost of one repetition of a loop."""
    folder.mkdir(parents=True, exist_ok=True)
    policy_of(write_model(folder / "host"))  # loaded first on the device, rotary tables stay unset
    counted = []
    for count in (loop.few, loop.many):
        own = folder / str(count)
        own.mkdir(parents=True)
        with accelerator.attached(by_line=True) as costs:
            work = loop.run(count, own)
            costs.clear()
            work()
            counted.append([Counter(kind) for kind in (costs.waits, costs.copies, costs.launches)])
    few, many = counted
    for less, more in zip(few, many, strict=True):
        more.subtract(less)
    waits, copies, launches = (
        {place: total / (loop.many - loop.few) for place, total in sorted(kind.items()) if total} for kind in many
    )
    return Cost(waits, copies, launches)


def main() -> None:
    """Prints the costs of every loop, the waits and copies by line of the project."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--launches", action="store_true", help="print launches by line too")
    options = parser.parse_args()
    for name, loop in LOOPS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = cost(loop, Path(folder) / name)
        waits, copies, launches = (sum(kind.values()) for kind in (found.waits, found.copies, found.launches))
        print(f"{loop.of}: {waits:g} waits, {copies:g} copies up, {launches:g} launches")
        shown = {"wait": found.waits, "copy": found.copies} | ({"launch": found.launches} if options.launches else {})
        for kind, places in shown.items():
            for place, times in places.items():
                print(f"  {times:6.3g} {kind:6} {place}")


if __name__ == "__main__":
    main()
