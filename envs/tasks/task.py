"""Tasks: prompts, tokenizer and limits, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.tasks.tokenizers import Tokenizer
from oracles.registry import GAMES
from preference_duel.keyed_random import Key
from preference_duel.names import UnknownNameError, configure, find, nearest, require_known
from preference_duel.types import Completion

if TYPE_CHECKING:
    from torch import Tensor

TASKS = {
    "chat": "envs.tasks.text:ChatConfig",
    "symbols": "envs.tasks.finite:SymbolsConfig",
}
FILES = {
    **dict.fromkeys((".jsonl", ".csv", ".tsv", ".parquet", ".gz"), "envs.votes.prompt_file:PromptFileConfig"),
    ".json": "envs.tasks.finite:GameFileConfig",
}
VOTES = "envs.votes.vote_oracle:VotesTaskConfig"
HUB = "envs.votes.prompt_file:HubConfig"
NAMED = "envs.tasks.finite:NamedGameConfig"


class TaskConfig(Protocol):
    """A frozen dataclass whose fields describe a task."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Builds the task; `tokenizer` is the vocabulary of the policy that will play, None: the task's own."""
        ...


@dataclass(frozen=True)
class Styles:
    """The styles of a task's responses.

    Attributes:
        names: the pure styles.
        of: returns the style of a response, one of `names` or another word.
        examples: returns a response to a prompt in each of `names`.
    """

    names: tuple[str, ...]
    of: Callable[[str], str]
    examples: Callable[[str, Key], list[str]]


@dataclass(frozen=True)
class Task:
    """Prompts, a tokenizer and limits; a finite task also lists every possible response.

    Attributes:
        name: in logs and messages.
        prompts: the training prompts.
        held_out: the evaluation prompts; the same ones if there is only one set.
        tokenizer: the vocabulary of the token-level game.
        max_prompt_tokens: the longest prompt, in tokens.
        max_new_tokens: the response's limit, in tokens, its EOS included.
        min_new_tokens: EOS is illegal before so many other tokens.
        response_tokens: [V] bool, ids that may stand in a response; EOS is governed by `min_new_tokens`.
        responses: every possible response, the same for every prompt; None if the task is not finite.
        prob: [N, N] or [X, N, N] the game's own payoff, if its file has one.
        cut: number of prompts that were cut to `max_prompt_tokens`.
        reading: report of the file, if it holds preferences.
        places: prompt -> "FILE:LINE", for messages, if they come from a file.
        styles: of the responses, if the task tells them apart.
    """

    name: str
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    tokenizer: Tokenizer
    max_prompt_tokens: int
    max_new_tokens: int
    min_new_tokens: int
    response_tokens: NDArray[np.bool_]
    responses: tuple[Completion, ...] | None = None
    prob: Tensor | None = None
    cut: int = 0
    reading: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    styles: Styles | None = None

    @cached_property
    def has_held_out(self) -> bool:
        """Whether prompts are kept from learning; of a finite game all are learned from, and measured on."""
        return not set(self.held_out) <= set(self.prompts)

    @cached_property
    def all_prompts(self) -> tuple[str, ...]:
        """Training and held-out prompts, each once."""
        return tuple(dict.fromkeys(self.prompts + self.held_out))

    @cached_property
    def response_texts(self) -> tuple[str, ...]:
        """The texts of `responses`.

        Raises:
            ValueError: if the task is not finite.
        """
        if self.responses is None:
            raise ValueError(f"task '{self.name}' lists no responses; use 'symbols' or a finite game's FILE.json")
        return tuple(response.text for response in self.responses)


def task_config(name: str) -> tuple[Any, dict[str, str]]:
    """Returns the configuration class that a task's name stands for, and the fields that the name itself sets.

    Raises:
        UnknownNameError: with the nearest name.
    """
    table, preset = _resolve(name)
    return find("task", name, table), preset


def require_task(name: str) -> None:
    """Checks the name of a task without importing the task.

    Raises:
        UnknownNameError: with the nearest name.
    """
    require_known("task", name, _resolve(name)[0])


def make_task(name: str, *, tokenizer: Tokenizer | None = None, **fields: Any) -> Task:
    """Builds a task from its name and the fields of its configuration.

    Args:
        name: "chat" (the embedded text), "symbols" (all strings over a small alphabet), a named game ("rps"),
            a file of prompts or preferences (.jsonl, .csv, .tsv, .parquet, .gz), FILE.json of a finite game,
            "hf:DATASET" (a hub id or a local directory), "votes:FILE" (the items of a file of votes), or
            "module:Config".
        tokenizer: the vocabulary of the policy that will play, for tasks of free text; None: the embedded one.
        **fields: fields of the configuration.

    Raises:
        UnknownNameError: if the name or a field is unknown.
        ValueError: if a file's contents are no task; the message has the file and the line.
    """
    table, preset = _resolve(name)
    config: TaskConfig = configure("task", name, table, {**preset, **fields})
    return config.build(tokenizer=tokenizer)


def _resolve(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns a table of tasks that holds this name, and the fields that a file's or a dataset's name sets."""
    if name in TASKS:
        return TASKS, {}
    if name.startswith("hf:"):
        return {**TASKS, name: HUB}, {"path": name.removeprefix("hf:")}
    if name.startswith("votes:"):
        return {**TASKS, name: VOTES}, {"path": name.removeprefix("votes:")}
    if name in GAMES:
        return {**TASKS, name: NAMED}, {"game": name}
    if Path(name).suffix in FILES:
        return {**TASKS, name: FILES[Path(name).suffix]}, {"path": name}
    if ":" in name:
        return TASKS, {}
    hint = nearest(name, [*TASKS, *GAMES]) or "."
    known = ", ".join([*TASKS, *GAMES, "hf:DATASET", "votes:FILE", "FILE.jsonl", "FILE.json"])
    raise UnknownNameError(f"unknown task '{name}'{hint} Known: {known}, or your own as 'module:Config'.")
