"""The tables of a benchmark's report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runners.benchmark.bounds import COLUMNS, exploited, figures
from runners.benchmark.cells import REGRET
from runners.benchmark.report.standings import Clones, Standing
from runners.benchmark.scores import entrants, games, gap_tags, scores, table, to_tenth
from runners.benchmark.statistics import Interval, bootstrap, improvement


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file.
        title: above it.
        about: what is to be seen.
        header: of the columns.
        rows: their cells: text, a number, or an interval; None where there is nothing to say.
    """

    name: str
    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def left(results: Mapping[str, Any]) -> Table:
    """Returns what each entrant left of the gap in each game."""
    found, names = table(results), games(results)
    rows = [[name, *(_mean(scores(one, [name])) for one in found.values())] for name in names]
    rows.append(["all", *(_mean(scores(one, names)) for one in found.values())])
    about = "Share of the first gap after the whole budget, last policies: interquartile means with 95 % intervals."
    return Table("left", "What the budget left of the gap", about, ("game", *found), rows)


def bounds(results: Mapping[str, Any]) -> Table:
    """Returns win rate and exploitability of every entrant's last policies on free text."""
    rows = [
        [game, entrant, *figures(cells)]
        for game, by_entrant in exploited(results).items()
        for entrant, cells in by_entrant.items()
    ]
    about = (
        "Last policies on held-out prompts: means over runs with 95 % intervals, of a single run over its prompts. "
        "Best of n: samples of the start; trained: an adversary of the same budget for every policy; at least: the "
        "better of the two. Each is a lower bound, so that a small one proves nothing; a run's is cut at 0, so that "
        "the mean over runs of policies that nothing beats lies a little above 0."
    )
    return Table("exploiters", "Win rate and exploitability on free text", about, ("game", "entrant", *COLUMNS), rows)


def summary(results: Mapping[str, Any]) -> Table:
    """Returns what else there is to say of each entrant, over all games."""
    last, average, names, tags = table(results), table(results, "average"), games(results), gap_tags(results)
    rows = []
    for label in entrants(results):
        cells = [cell for cell in results["cells"] if cell["entrant"] == label]
        needed = [to_tenth(cell, tags[cell["game"]]) for cell in cells]
        median = np.median(needed)
        regret = [cell["curve"][REGRET][-1] for cell in cells if REGRET in cell["curve"]]
        rows.append(
            [
                label,
                _mean(scores(last[label], names)),
                _mean(scores(average[label], names)),
                f"{np.isfinite(needed).mean():.0%}",
                f"{median:,.0f}" if np.isfinite(median) else "more than the budget",
                _mean(np.array(regret)[:, None]) if regret else None,
                f"{sum(cell['seconds'] for cell in cells):.0f}",
            ]
        )
    about = (
        "Over all games. A tenth: the share of runs whose gap fell to a tenth of the first, and the median of the "
        "queries that took. Regret: hindsight von Neumann regret per query, what the best fixed response would have "
        "won more."
    )
    header = "entrant", "last iterate", "average iterate", "reached a tenth", "queries to it", "regret", "seconds"
    return Table("summary", "Each entrant over all games", about, header, rows)


def improvements(results: Mapping[str, Any]) -> Table:
    """Returns how likely a run of the row leaves less than one of the column in the same game."""
    names = games(results)
    whole = {one: array for one, rows in table(results).items() if (array := scores(rows, names)) is not None}
    rows = [
        [row, *(None if row == one else improvement(-ours, -theirs) for one, theirs in whole.items())]
        for row, ours in whole.items()
    ]
    about = "Chance that a run of the row leaves less than one of the column in the same game, 95 % intervals."
    return Table("improvement", "Probability of improvement", about, ("entrant", *whole), rows)


def standings(found: Standing, name: str, title: str) -> Table:
    """Returns how entrants stand among each other."""
    rows = [[who, *(values[i] for values in found.ranks.values())] for i, who in enumerate(found.names)]
    about = (
        "From exact cross-play, with stratified bootstrap 95 % intervals over seeds. Nash average: mass in the "
        "equilibrium of most entropy of the game among entrants; against Nash: the win rate against it, at most 1/2. "
        "These ask who beats whom here; exploitability asks who could be beaten by anybody."
    )
    return Table(name, title, about, ("entrant", *found.ranks), rows)


def clone_table(found: Clones, names: Sequence[str], copies: int) -> Table:
    """Returns what copies of one entrant do to the rankings."""
    shown = "Elo", "alpha-rank", "Nash average"
    rows = [
        [who, *(float(side[one][i]) for one in shown for side in (found.before, found.after))]
        for i, who in enumerate(names)
    ]
    header = ["entrant", *(word for one in shown for word in (one, f"{one} with copies"))]
    about = (
        f"The same field with {copies} more copies of {found.name}: Elo of the others moves though nobody plays "
        f"otherwise; Nash masses (that of {found.name} is shared by its copies) stay."
    )
    return Table("clones", "Why Elo stands only beside", about, header, rows)


def hyper_parameters(results: Mapping[str, Any]) -> Table:
    """Returns each entrant's settings and the commits that played it."""
    rows = []
    for label, one in results["entrants"].items():
        told = re.sub(r" (?!--)", "=", " ".join(one["options"])).replace("--agent.", "")  # a flag has no value
        commits = ", ".join(sorted({str(made["commit"])[:10] for made in one["made"]}))
        rows.append([label, one["agent"], told or "defaults", commits])
    about = "Everything else is at the default that `python -m runners.duel --help` shows."
    return Table("settings", "Settings", about, ("entrant", "agent", "settings", "commit"), rows)


def circumstances(results: Mapping[str, Any]) -> Table:
    """Returns where and with what the results were made."""
    rows = []
    for label, one in results["entrants"].items():
        for made in one["made"]:
            told = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
            rows.append([label, made["date"], str(made["commit"]), made["machine"], told])
    merged: dict[tuple[str, ...], list[str]] = {}
    for label, *rest in rows:
        merged.setdefault(tuple(rest), []).append(label)
    shown = [[", ".join(labels), *rest] for rest, labels in merged.items()]
    return Table("made", "Made by", "", ("entrants", "date", "commit", "machine", "versions"), shown)


def _mean(array: np.ndarray | None) -> Interval | None:
    return None if array is None else bootstrap(array)
