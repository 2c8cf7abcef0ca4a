"""Scores of a benchmark's entrants, their tables, and probabilities of improvement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from envs.games import queries_to
from runners.benchmark.bounds import COLUMNS, exploited, figures
from runners.benchmark.statistics import Interval, Scores, bootstrap, improvement
from runners.benchmark.suites import WIN_RATE

Cell = Mapping[str, Any]
Results = Mapping[str, Any]


def entrants(results: Results) -> list[str]:
    """Returns the labels of those who finished a cell, in their order."""
    played = {cell["entrant"] for cell in results["cells"]}
    return [label for label in results["entrants"] if label in played]


def games(results: Results) -> list[str]:
    """Returns the labels of the games of which a cell is finished, in their order."""
    return list(dict.fromkeys(cell["game"] for cell in results["cells"]))


def gap_tags(results: Results) -> dict[str, str]:
    """Returns each game's label -> the tag that is to fall."""
    return {game["label"]: game["gap"] for game in results["conditions"]["games"]}


def gaps(cell: Cell, tag: str, which: str = "last") -> list[float]:
    """Returns the curve of a gap: of the "last" iterate, or of the "average" where there is one."""
    if tag == WIN_RATE:
        curve = cell["curve"].get("eval/win_rate_average" if which == "average" else tag, cell["curve"][tag])
        return [1 - value for value in curve]
    return cell["curve"].get(f"{tag}_{which}" if which == "average" else tag, cell["curve"][tag])


def left(cell: Cell, tag: str, which: str = "last") -> float:
    """Returns what a cell's budget left of the gap that it began with.

    Raises:
        ValueError: if it began with none.
    """
    curve = gaps(cell, tag, which)
    if curve[0] <= 0:
        raise ValueError(
            f"{cell['entrant']} in {cell['game']}, seed {cell['seed']}: the start is an equilibrium and leaves no gap "
            f"to close; start elsewhere, such as with --policy.spread 1"
        )
    return curve[-1] / curve[0]


def to_tenth(cell: Cell, tag: str) -> float:
    """Returns the queries until a tenth of the first gap was left; infinite where it never was."""
    found = queries_to(cell["curve"]["queries"], gaps(cell, tag))
    return np.inf if found is None else found


def table(results: Results, which: str = "last") -> dict[str, dict[str, list[float]]]:
    """Returns entrant -> game -> what each seed left of the first gap."""
    tags = gap_tags(results)
    found: dict[str, dict[str, list[float]]] = {label: {} for label in entrants(results)}
    for cell in results["cells"]:
        found[cell["entrant"]].setdefault(cell["game"], []).append(left(cell, tags[cell["game"]], which))
    return found


def scores(found: Mapping[str, Sequence[float]], names: Sequence[str]) -> Scores | None:
    """Returns [R, T] the scores of R seeds in T games; None where some are missing."""
    counts = {len(found.get(name, ())) for name in names}
    return np.array([found[name] for name in names]).T if len(counts) == 1 and counts != {0} else None


def show(results: Results, console: Console) -> None:
    """Prints what each entrant left of the gap in each game, and who improves on whom.

    Interquartile means with 95 % intervals; the chance that a seed of the row leaves less than one of the column in the
    same game, over all games.
    """
    names, found = games(results), table(results)
    title = f"{results['suite']}: share of the first gap that the budget left, {results['about']}"
    if len(names) <= 6:
        shown = Table(title=title)
        for column in ("agent", *names, "all"):
            shown.add_column(column, justify="left" if column == "agent" else "right")
        for label, rows in found.items():
            shown.add_row(label, *(_told(scores(rows, [name])) for name in names), _told(scores(rows, names)))
        console.print(shown)
    else:
        for block in _blocks(found):
            shown = Table("game", *block, title=title)
            for name, chosen in [*((name, [name]) for name in names), ("all", names)]:
                shown.add_row(name, *(_short(scores(found[one], chosen)) for one in block))
            console.print(shown)
    for game, by_entrant in exploited(results).items():
        bounds = Table(title=f"{game}: win rate against the start, and exploitability at least, 95 % intervals")
        for column in ("agent", *COLUMNS):
            bounds.add_column(column, justify="left" if column == "agent" else "right")
        for label, cells in by_entrant.items():
            bounds.add_row(label, *(f"{one:.2f}" if isinstance(one, float) else str(one) for one in figures(cells)))
        console.print(bounds)
    whole = {label: array for label, rows in found.items() if (array := scores(rows, names)) is not None}
    if len(whole) > 1:
        console.print(*_improvements(whole))


def _improvements(whole: Mapping[str, Scores]) -> Iterator[Table]:
    title = "probability of improvement, row over column (*: its interval leaves out 1/2)"
    for block in _blocks(whole):
        shown = Table("agent", *block, title=title)
        for row, ours in whole.items():
            shown.add_row(row, *("" if one == row else _chance(improvement(-ours, -whole[one])) for one in block))
        yield shown


def _blocks(labels: Iterable[str], size: int = 15) -> list[list[str]]:
    """Returns labels in groups whose columns stand side by side in 160 letters."""
    every = list(labels)
    return [every[i : i + size] for i in range(0, len(every), size)]


def _told(array: Scores | None) -> str:
    """Returns an interquartile mean with its interval."""
    return "" if array is None else str(bootstrap(array))


def _short(array: Scores | None) -> str:
    return "" if array is None else f"{bootstrap(array, resamples=1).value:.3f}"


def _chance(found: Interval) -> str:
    """Returns a probability, with a mark where its interval leaves out 1/2."""
    return f"{found.value:.2f}" + ("" if found.low <= 0.5 <= found.high else "*")
