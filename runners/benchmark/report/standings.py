"""Standings of a benchmark's entrants: exact cross-play, and the policies' worth before other judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.games import alpha_rank, cross_play, elo, exploitability, nash_average
from runners.benchmark.results import cell_of
from runners.benchmark.scores import entrants, games
from runners.benchmark.statistics import Interval
from runners.run.build import build_experiment
from runners.run.cli import parse

START = "start"
RESAMPLES = 200
CLONES = 5


@dataclass(frozen=True)
class Field:
    """The games of a benchmark that list every response, with everybody who finished them.

    Attributes:
        results: of the benchmark.
    """

    results: Mapping[str, Any]

    @cached_property
    def names(self) -> list[str]:
        """The entrants, and the start at the end."""
        return [*entrants(self.results), START]

    @cached_property
    def _cells(self) -> dict[tuple[str, int], dict[str, Mapping[str, Any]]]:
        """(game, seed) -> entrant -> cell, where all entrants finished and every response is listed."""
        found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
        for cell in self.results["cells"]:
            if cell["law"] is not None:
                found.setdefault((cell["game"], cell["seed"]), {})[cell["entrant"]] = cell
        return {place: cells for place, cells in found.items() if len(cells) == len(self.names) - 1}

    @cached_property
    def _boards(self) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """(game, seed) -> payoffs [X, N, N] and the start's distribution [X, N], built as a cell's command says."""
        found = {}
        for place, cells in self._cells.items():
            cell = cell_of(self.results, next(iter(cells.values())))
            evaluation = build_experiment(parse(cell.arguments).settings, "cpu").evaluation
            found[place] = evaluation.matrices, evaluation.reference_probs
        return found

    def games(self) -> list[str]:
        """Returns the labels of the games that are listed here."""
        return list(dict.fromkeys(game for game, _ in self._cells))

    def seeds(self, game: str) -> list[int]:
        """Returns the seeds of a game that all have finished."""
        return [seed for one, seed in self._cells if one == game]

    def shared(self, games: Sequence[str]) -> list[int]:
        """Returns the seeds that all have finished in all of some games."""
        return [seed for seed in self.seeds(games[0]) if all((game, seed) in self._cells for game in games)]

    def _probs(self, place: tuple[str, int], entrant: str) -> Tensor:
        if entrant == START:
            return self._boards[place][1]
        probs = torch.tensor(self._cells[place][entrant]["law"], dtype=torch.float64)
        return probs / probs.sum(-1, keepdim=True)  # it was rounded

    @cached_property
    def _meetings(self) -> dict[tuple[str, int], Tensor]:
        """(game, seed) -> [A, A] the chance that the row's last policy beats the column's."""
        return {
            place: cross_play(payoff, torch.stack([self._probs(place, name) for name in self.names]))
            for place, (payoff, _) in self._boards.items()
        }

    def meetings(self, games: Sequence[str]) -> Tensor:
        """Returns [R, T, A, A] who beats whom with each of the R seeds that are finished in all of T games.

        Raises:
            ValueError: if there is no such seed.
        """
        shared = self.shared(games)
        if not shared:
            raise ValueError("no seed is finished by everybody in all games")
        return torch.stack([torch.stack([self._meetings[game, seed] for game in games]) for seed in shared])

    def transfer(self, learned: str, judged: str, entrant: str) -> list[float]:
        """Returns the exploitability of a game's policies under another judge, as shares of the start's, by seed."""
        found = []
        for seed in self.seeds(learned):
            if (judged, seed) in self._boards:
                payoff, start = self._boards[judged, seed]
                both = torch.stack([self._probs((learned, seed), entrant), start])
                worth = exploitability(payoff, both).mean(-1)
                found.append(float(worth[0] / worth[1]))
        return found


@dataclass(frozen=True)
class Standing:
    """Ratings of A policies by their cross-play.

    Attributes:
        names: of them.
        table: [A, A] the chance that the row beats the column, averaged over seeds and games.
        ranks: measure -> one interval for each policy.
    """

    names: Sequence[str]
    table: Tensor
    ranks: Mapping[str, list[Interval]]


def standing(names: Sequence[str], meetings: Tensor, level: float = 0.95, resamples: int = RESAMPLES) -> Standing:
    """Returns the standing of A policies, with stratified bootstrap intervals over seeds.

    Args:
        names: A names.
        meetings: [R, T, A, A] of R seeds of T games.
        level: of the intervals.
        resamples: how many.
    """
    seeds, games = meetings.shape[:2]
    rng = np.random.default_rng(0)
    drawn = [measures(meetings.mean((0, 1)))]
    for _ in range(resamples):
        rows = torch.from_numpy(rng.integers(0, seeds, (seeds, games)))
        drawn.append(measures(meetings[rows, torch.arange(games)].mean((0, 1))))
    ends = [(1 - level) / 2, (1 + level) / 2]
    ranks = {}
    for name, value in drawn[0].items():
        low, high = np.quantile(np.stack([one[name].numpy() for one in drawn[1:]]), ends, axis=0)
        ranks[name] = [Interval(*map(float, one)) for one in zip(value, low, high, strict=True)]
    return Standing(names, meetings.mean((0, 1)), ranks)


def measures(table: Tensor) -> dict[str, Tensor]:
    """Returns measure -> [A] of a table [A, A]: mean win rate, Nash average and skill against it, alpha-rank, Elo."""
    mass = nash_average(table)
    return {
        "win rate": (table.sum(1) - 0.5) / (len(table) - 1),
        "Nash average": mass,
        "against Nash": table @ mass,
        "alpha-rank": alpha_rank(table),
        "Elo": elo(table),
    }


@dataclass(frozen=True)
class Clones:
    """Effect of copies of one policy on rankings of all.

    Attributes:
        name: who is copied.
        before: measure -> [A].
        after: measure -> [A] with the copies there: Nash masses of the copied one are those of all its copies.
    """

    name: str
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


def clones(names: Sequence[str], table: Tensor, copies: int = CLONES) -> Clones:
    """Returns the rankings before and after the policy is copied that moves the Elo of others most."""
    count = len(names)
    before = measures(table)
    found = []
    for i in range(count):
        order = [*range(count), *[i] * copies]
        crowd = measures(table[order][:, order])
        after = {name: values[:count].clone() for name, values in crowd.items()}
        for shared in ("Nash average", "alpha-rank"):
            after[shared][i] += crowd[shared][count:].sum()
        found.append(Clones(names[i], before, after))
    return max(found, key=lambda one: float((one.after["Elo"] - one.before["Elo"]).diff().abs().max()))


def dialled(results: Mapping[str, Any]) -> dict[str, dict[float, str]]:
    """Returns oracle -> lam -> game, of the oracles that are played at two shares of cycles or more."""
    found: dict[str, dict[float, str]] = {}
    finished = games(results)
    for game in results["conditions"]["games"]:
        plain = game["lam"] is not None and not game["noise"] and game["feedback"] == "outcome"
        if plain and game["label"] in finished and game["gap"].startswith("game/"):
            found.setdefault(game["oracle"], {})[game["lam"]] = game["label"]
    return {oracle: by_lam for oracle, by_lam in found.items() if len(by_lam) > 1}
