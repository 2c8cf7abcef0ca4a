"""Policies compared by people: the questions, and their verdicts as a file of votes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from oracles.human.human_config import HumanConfig
from oracles.human.verdict_store import Verdict
from preference_duel.types import messages_of
from runners.evaluation.entrants import Entrant, draw_all, read_entrants
from runners.run.build import choose_device
from runners.run.evaluator import choose
from runners.run.record import write_whole

WINNERS = {"left": "model_a", "right": "model_b", "tie": "tie"}


@dataclass(frozen=True)
class Options:
    """The command line of `runners.collect`.

    Attributes:
        policies: run directories, transformers directories or hub ids, or names of policies.
        out: the file of votes; the verdicts are kept beside it, in a file of the same name that ends in .sqlite.
        task: name of the task; None: that of the runs.
        prompts: held-out prompts at most.
        draws: responses of each policy for each prompt.
        seed: random seed of the responses and of the order of the questions.
        device: where networks run.
        people: persons that judge each pair.
        host: interface of the page.
        port: of the page.
        grace: seconds after the last verdict in which it may still be undone.
        finish: write the verdicts that were given and ask for no more.
    """

    policies: tuple[str, ...]
    out: Path
    task: str | None = None
    prompts: int = 20
    draws: int = 1
    seed: int = 0
    device: str = "auto"
    people: int = 1
    host: str = HumanConfig.host
    port: int = HumanConfig.port
    grace: float = HumanConfig.grace
    finish: bool = False

    def __post_init__(self) -> None:
        for name in ("prompts", "draws", "people"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.out.exists():
            raise FileExistsError(f"{self.out} exists and is never overwritten: choose another --out")
        if self.out.suffix == ".sqlite":
            raise ValueError(f"--out {self.out}: the votes are JSON lines; choose a name such as votes.jsonl")


@dataclass(frozen=True)
class Comparison:
    """Two policies' responses to one prompt.

    Attributes:
        prompt: with its messages.
        models: the labels of both policies.
        texts: their responses.
    """

    prompt: str
    models: tuple[str, str]
    texts: tuple[str, str]


def collect(options: Options) -> int:
    """Asks people about all pairs and writes their votes; returns 0, or 130 after Ctrl-C."""
    entrants = read_entrants(options.policies, options.task, choose_device(options.device))
    task = entrants[0].task
    prompts = choose(task.held_out, options.prompts)
    pairs = compare(entrants, prompts, options.draws, options.seed)
    different = [pair for pair in pairs if pair.texts[0] != pair.texts[1]]
    if not different:
        raise ValueError("the policies gave the same responses to every prompt; pass more --prompts or --draws")
    file = options.out.with_suffix(".sqlite")
    oracle = HumanConfig(str(file), options.people, options.host, options.port, options.grace).build()
    oracle.keep_in(file.parent, title(different, task.name))
    try:
        asked = len({_key(messages_of(pair.prompt), *pair.texts) for pair in different})
        print(f"task:  {task.name}, {len(prompts)} held-out prompts")
        print(f"pairs: {len(pairs)}, {len(pairs) - len(different)} of them of equal texts; {asked} questions")
        if not options.finish:
            oracle.start(planned=asked)
            columns = zip(*((pair.prompt, *pair.texts) for pair in different), strict=True)
            oracle.prob(*(list(column) for column in columns))
        rows = list(votes(oracle.store.verdicts(), different))
        if not rows:
            raise ValueError(f"{file} holds no verdict yet; leave --finish out to ask for some")
        write_whole(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"votes: {options.out}, {len(rows)} of {oracle.store.given()} verdicts")
        print(f"audit: python -m runners.audit {options.out}")
        return 0
    except KeyboardInterrupt:
        print(
            f"\nstopped: {file} keeps {oracle.store.given()} verdicts; the same command goes on, --finish writes them"
        )
        return 130
    finally:
        oracle.close()


def compare(entrants: Sequence[Entrant], prompts: Sequence[str], draws: int, seed: int) -> list[Comparison]:
    """Returns each pair of policies on each prompt, draw against draw, in a random order."""
    texts = draw_all(entrants, prompts, draws, seed)
    pairs = [
        Comparison(prompt, (entrants[i].label, entrants[j].label), (texts[i][b][n], texts[j][b][n]))
        for b, prompt in enumerate(prompts)
        for i, j in combinations(range(len(entrants)), 2)
        for n in range(draws)
    ]
    random.Random(seed).shuffle(pairs)
    return pairs


def title(pairs: Sequence[Comparison], task: str) -> str:
    """Returns which comparison it is; other policies, prompts or responses make another one."""
    content = json.dumps([[messages_of(pair.prompt), pair.models, pair.texts] for pair in pairs])
    models = dict.fromkeys(model for pair in pairs for model in pair.models)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"the comparison of {', '.join(sorted(models))} on {task} (questions {digest})"


def votes(verdicts: Sequence[Verdict], pairs: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """Yields the verdicts as rows of an arena; model_a is the one that was shown on the left.

    A verdict on two texts counts for each pair of policies that gave them.
    """
    places: dict[str, list[Comparison]] = {}
    for pair in pairs:
        places.setdefault(_key(messages_of(pair.prompt), *pair.texts), []).append(pair)
    for verdict in verdicts:
        for pair in places.get(_key(verdict.messages, verdict.left, verdict.right), ()):
            models = pair.models if pair.texts[0] == verdict.left else pair.models[::-1]
            sides = zip(("a", "b"), models, (verdict.left, verdict.right), strict=True)
            row: dict[str, Any] = {"question_id": _digest(json.dumps(verdict.messages))}
            for side, model, text in sides:
                row[f"model_{side}"] = model
                row[f"conversation_{side}"] = [*verdict.messages, {"role": "assistant", "content": text}]
            yield row | {"winner": WINNERS[verdict.winner], "annotator": verdict.person, "time": verdict.time}


def _key(messages: Sequence[dict[str, str]], first: str, second: str) -> str:
    return json.dumps([messages, sorted((first, second))])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
