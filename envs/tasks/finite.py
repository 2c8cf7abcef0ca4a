"""Finite tasks: strings over a small alphabet, games of files, named games."""

from __future__ import annotations

import dataclasses
import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from envs.tasks.task import Task
from envs.tasks.tokenizers import ListTokenizer, Tokenizer
from oracles.table import GAMES, game_file, read_game
from preference_duel.types import Completion

LARGEST = 2**20
"""Responses that a finite task may list."""


@dataclass(frozen=True)
class SymbolsConfig:
    """All strings of one length over a small alphabet: alphabet ** length responses."""

    finite: ClassVar[bool] = True
    alphabet: int = 4
    """Letters, 2 to 52: a, b, ..., z, A, ..., Z."""
    length: int = 3
    """Letters of every response, at least 1; all have the same length. The default gives 64 responses."""
    prompts: int = 4
    """Prompts, at least 1: #0, #1, ...; each is a game of its own under `--oracle cyclic`."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Lists the strings in alphabetical order.

        Raises:
            ValueError: if a field is out of range, there would be too many responses, or a tokenizer is given.
        """
        _require_own_vocabulary("symbols", tokenizer)
        if not 2 <= self.alphabet <= len(string.ascii_letters):
            raise ValueError(f"alphabet must be 2 to {len(string.ascii_letters)} letters, got {self.alphabet}")
        if self.length < 1 or self.prompts < 1:
            raise ValueError(f"length and prompts must be at least 1, got {self.length} and {self.prompts}")
        if self.length > LARGEST.bit_length() or self.alphabet**self.length > LARGEST:
            raise ValueError(
                f"alphabet ** length = {self.alphabet} ** {self.length} responses are more than {LARGEST}; "
                f"a finite task lists them all: take fewer letters or shorter strings"
            )
        letters = string.ascii_letters[: self.alphabet]
        responses = ["".join(word) for word in itertools.product(letters, repeat=self.length)]
        prompts = [f"#{i}" for i in range(self.prompts)]
        return finite_task("symbols", prompts, responses, letters)


@dataclass(frozen=True)
class GameFileConfig:
    """A finite game from a file; every response is one token."""

    finite: ClassVar[bool] = True
    path: str
    """FILE.json with "prompts" [X], "responses" [N] and, for --oracle table, "prob" [N][N] or [X][N][N]."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Reads the file; a ValueError names the line or entry that is wrong."""
        _require_own_vocabulary(self.path, tokenizer)
        game = read_game(self.path)
        if len(game.responses) > LARGEST:
            raise ValueError(f"{self.path}: lists {len(game.responses)} responses, more than {LARGEST}")
        task = finite_task(self.path, game.prompts, game.responses, game.responses)
        return task if game.prob is None else dataclasses.replace(task, prob=game.prob)


@dataclass(frozen=True)
class NamedGameConfig:
    """A small game of the literature, by its name; its oracle has the same name."""

    finite: ClassVar[bool] = True
    game: str
    """rps, comal3, cycle5 or clone_rps."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Looks the game up."""
        if self.game not in GAMES:
            raise ValueError(f"no game is called '{self.game}'. Known: {', '.join(GAMES)}.")
        task = GameFileConfig(str(game_file(self.game))).build(tokenizer=tokenizer)
        return dataclasses.replace(task, name=self.game)


def finite_task(name: str, prompts: Sequence[str], responses: Sequence[str], symbols: Sequence[str]) -> Task:
    """Returns a task over listed responses of one length, without an EOS: the limit ends every response.

    Args:
        name: in logs and messages.
        prompts: each becomes one token, illegal in responses unless it is a symbol.
        responses: all of one length in symbols.
        symbols: the legal tokens.
    """
    tokenizer = ListTokenizer(list(dict.fromkeys([*symbols, *prompts])))
    legal = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
    legal[[token for symbol in symbols for token in tokenizer.encode(symbol)]] = True
    completions = tuple(Completion(text, tuple(tokenizer.encode(text))) for text in responses)
    length = len(completions[0].ids)
    return Task(
        name=name,
        prompts=tuple(prompts),
        held_out=tuple(prompts),
        tokenizer=tokenizer,
        max_prompt_tokens=1,
        max_new_tokens=length,
        min_new_tokens=length,
        response_tokens=legal,
        responses=completions,
    )


def _require_own_vocabulary(name: str, tokenizer: Tokenizer | None) -> None:
    if tokenizer is not None:
        raise ValueError(f"task '{name}' lists its responses in a vocabulary of its own; leave tokenizer out")
