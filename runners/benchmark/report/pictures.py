"""The pictures of a benchmark's report, each with the numbers that it shows."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preference_duel.names import UnknownNameError, nearest
from runners.benchmark import bounds
from runners.benchmark.report.findings import EXPLOITABILITY, WIN_RATE, family, final
from runners.benchmark.report.standings import START, Field, Standing, dialled
from runners.benchmark.scores import entrants, games, gap_tags, gaps, table
from runners.benchmark.statistics import bootstrap, interquartile_mean, performance_profile
from runners.benchmark.suites import BUILT_IN, DRAWN
from runners.run.curves import COLOURS

MARKERS = "osD^v<>PX*ph"
MEASURES = {EXPLOITABILITY: "exploitability", WIN_RATE: "win rate against the start"}
DASHES = {
    "Bradley-Terry": ":",
    "regularised Nash": "-",
    "unregularised": "--",
    "group relative": "-.",
    "other": (0, (1, 3)),
}
"""Of lines by family: with the markers they tell lines apart without colour."""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: of its files.
        title: above it.
        about: what is to be seen.
        png: the picture.
        header: of its numbers.
        rows: its numbers.
    """

    name: str
    title: str
    about: str
    png: bytes
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


Looks = Mapping[str, Mapping[str, Any]]
"""Entrant -> how its lines look, of those that are drawn."""


def drawn(results: Mapping[str, Any], chosen: Sequence[str] | None = None) -> list[str]:
    """Returns the entrants that pictures show.

    Args:
        results: of the benchmark.
        chosen: their names; None: all, or, if pictures can't hold them, `DRAWN` and entrants of one's own.

    Raises:
        UnknownNameError: if one is no entrant, with the nearest name.
    """
    names = entrants(results)
    for name in chosen or ():
        if name not in names:
            raise UnknownNameError(
                f"no entrant is called '{name}'{nearest(name, names) or '.'} Known: {', '.join(names)}"
            )
    if chosen is not None:
        return list(chosen)
    built_in = {label for _, agents in BUILT_IN.values() for label in agents}
    return names if len(names) <= len(MARKERS) else [one for one in names if one in DRAWN or one not in built_in]


def styles(results: Mapping[str, Any], chosen: Sequence[str] | None = None) -> Looks:
    """Returns entrant -> how its lines look, of those that are `drawn`: a marker, dashes by family, a colour."""
    found = {}
    for i, label in enumerate(drawn(results, chosen)):
        dash, marker = DASHES[family(results, label)], MARKERS[i % len(MARKERS)]
        found[label] = {"color": COLOURS[i % len(COLOURS)], "linestyle": dash, "marker": marker, "label": label}
    return found


def curves(results: Mapping[str, Any], looks: Looks) -> Picture:
    """Draws the share of the first gap that is left against queries, a panel for each game."""
    tags, names = gap_tags(results), games(results)
    figure, panels = _figure(names, 3.3, 2.7)
    rows = []
    for axes, game in zip(panels, names, strict=False):
        for label, look in looks.items():
            cells = [cell for cell in results["cells"] if (cell["entrant"], cell["game"]) == (label, game)]
            lengths = [len(cell["curve"]["queries"]) for cell in cells]
            if not cells or len(set(lengths)) > 1:
                continue
            left = np.array([np.array(gaps(cell, tags[game])) / gaps(cell, tags[game])[0] for cell in cells])
            means = [bootstrap(column[:, None]) for column in left.T]
            queries = cells[0]["curve"]["queries"]
            values, every = [max(one.value, 1e-4) for one in means], max(1, len(means) // 10)
            axes.plot(queries, values, markersize=3.5, markevery=every, linewidth=1.1, **look)
            rows += [[game, label, q, *one] for q, one in zip(queries, means, strict=True)]
        axes.set_title(game, fontsize=9)
        _logarithmic(axes)
        axes.axhline(1, color="0.5", linewidth=0.8)
        _plain(axes, "oracle queries", "share of gap left")
    _legend(figure, panels[0])
    about = "Interquartile mean over seeds of what is left of the first gap; a line that rises leaves the equilibrium."
    header = "game", "entrant", "queries", "left", "low", "high"
    return Picture("gap_against_queries", "Gap against queries", about, _png(figure), header, rows)


def against_lam(results: Mapping[str, Any], looks: Looks) -> Picture:
    """Draws exploitability and win rate against the share of cycles, a column for each oracle that has the dial."""
    oracles = dialled(results)
    figure, grid = _figure(list(oracles) * 2, 3.9, 3.0, columns=max(2, len(oracles)))
    rows = []
    for number, (oracle, tag) in enumerate(itertools.product(oracles, MEASURES)):
        by_lam, place = oracles[oracle], divmod(number, len(MEASURES))
        axes = grid[place[1] * len(oracles) + place[0]]
        lams = sorted(by_lam)
        for i, (label, look) in enumerate(looks.items()):
            ends = [final(results, by_lam[lam], [label], tag) for lam in lams]
            if not all(one.size for one in ends):
                continue
            means = [bootstrap(one) for one in ends]
            spread = np.maximum([[one.value - one.low, one.high - one.value] for one in means], 0).T
            x = [lam + 0.004 * (i - len(looks) / 2) for lam in lams]  # so that bars stand beside each other
            values = [one.value for one in means]
            axes.errorbar(x, values, spread, markersize=4, linewidth=1.1, elinewidth=0.6, **look)
            rows += [[oracle, lam, MEASURES[tag], label, *one] for lam, one in zip(lams, means, strict=True)]
        if tag == EXPLOITABILITY:
            starts = [_start_gap(results, by_lam[lam]) for lam in lams]
            axes.plot(lams, starts, color="0.6", linewidth=3, zorder=0, label=START)
        axes.set_title(oracle, fontsize=10)
        _plain(axes, "lam, share of cycles", MEASURES[tag])
    _legend(figure, grid[0])
    about = (
        "Last iterates after the whole budget, interquartile means with 95 % intervals over games; the grey line is "
        "the start's. lam is how intransitive the game is: 0 if a reward explains every preference, and of cyclic the "
        "share of the logits' energy that none explains. Exploitability shows who breaks where intransitivity starts, "
        "win rate how little of it it sees."
    )
    header = "oracle", "lam", "measure", "entrant", "value", "low", "high"
    return Picture("gap_against_lam", "Exploitability against intransitivity", about, _png(figure), header, rows)


def _start_gap(results: Mapping[str, Any], game: str) -> float:
    first = {cell["seed"]: cell["curve"][EXPLOITABILITY][0] for cell in results["cells"] if cell["game"] == game}
    return float(interquartile_mean(np.array([list(first.values())])))


def exploitation(results: Mapping[str, Any], looks: Looks) -> Picture:
    """Draws exploitability on free text against the win rate and, along the runs, against the KL from the start."""
    found = bounds.exploited(results)
    figure, panels = _figure([*found] * 2, 4.2, 3.2, columns=2)
    rows = []
    for number, (game, by_entrant) in enumerate(found.items()):
        ends, paths = panels[2 * number : 2 * number + 2]
        for label, cells in by_entrant.items():
            if label not in looks:
                continue
            won, lost = bounds.win_rate(cells), bounds.strongest(cells)
            spread = [np.array([[one.value - one.low], [one.high - one.value]]).clip(0) for one in (won, lost)]
            ends.errorbar(won.value, lost.value, spread[1], spread[0], markersize=5, elinewidth=0.6, **looks[label])
            rows.append([game, label, "win rate", *won, *lost])
            reach = bounds.shared_kl(cells)
            distances = np.linspace(0, reach, 9)
            path = [bounds.mean_at_kl(cells, float(kl)) for kl in distances]
            paths.plot(distances, [one.value for one in path], markersize=3.5, linewidth=1.1, **looks[label])
            rows += [[game, label, "KL", kl, kl, kl, *one] for kl, one in zip(distances.tolist(), path, strict=True)]
        ends.set_title(f"{game}, last policies", fontsize=9)
        paths.set_title(f"{game}, along the runs", fontsize=9)
        _plain(ends, "win rate against the start", "exploitability, at least")
        _plain(paths, "KL from the start, nats", "exploitability, at least")
    _legend(figure, panels[0])
    about = (
        "Left: what the stronger of a trained adversary and the best of n samples of the start gains against the last "
        "policies, with 95 % intervals. Right: what the best of a pool of the start's responses gains at each KL that "
        "all runs of an agent reach."
    )
    header = "game", "entrant", "against", "x", "x low", "x high", "exploitability", "low", "high"
    return Picture("exploitation", "Win rate against exploitability on free text", about, _png(figure), header, rows)


def profile(results: Mapping[str, Any], looks: Looks) -> Picture:
    """Draws the share of runs that left no more than each share of the gap."""
    found = table(results)
    thresholds = np.geomspace(0.005, 2, 60)
    figure, (axes,) = _figure(["all"], 6.4, 3.8)
    rows = []
    for label, look in looks.items():
        left = np.concatenate([np.array(values) for values in found[label].values()])[:, None]
        share = 1 - performance_profile(left, thresholds)
        every = len(rows) // len(thresholds) % 6, 6
        axes.plot(thresholds, share, markevery=every, markersize=4, linewidth=1.2, **look)
        rows += [[label, *one] for one in zip(thresholds.tolist(), share.tolist(), strict=True)]
    axes.set_xscale("log")
    _plain(axes, "share of the first gap", "runs that left no more")
    _legend(figure, axes)
    about = "Performance profile over all games and seeds: higher is better; at 1 stand the runs that lost nothing."
    return Picture("profile", "Performance profile", about, _png(figure), ("entrant", "share", "runs"), rows)


def transfer(results: Mapping[str, Any], field: Field, names: Sequence[str]) -> list[Picture]:
    """Draws what policies are worth under a judge that they did not learn from, a picture for each dialled oracle."""
    pictures = []
    for oracle, by_lam in dialled(results).items():
        lams = [lam for lam in sorted(by_lam) if by_lam[lam] in field.games()]
        if len(lams) < 2 or not field.shared([by_lam[lam] for lam in lams]):
            continue
        figure, panels = _figure(names, 2.5, 2.6)
        rows = []
        for axes, label in zip(panels, names, strict=False):
            worth = np.zeros((len(lams), len(lams)))
            for i, learned in enumerate(lams):
                for j, judged in enumerate(lams):
                    found = bootstrap(np.array([field.transfer(by_lam[learned], by_lam[judged], label)]).T)
                    worth[i, j] = found.value
                    rows.append([oracle, label, learned, judged, *found])
            _heat(axes, worth, [f"{lam:g}" for lam in lams], [f"{lam:g}" for lam in lams], (0, 2), "{:.2f}")
            axes.set_title(label, fontsize=9)
            axes.set_xlabel("judged at lam", fontsize=8)
            axes.set_ylabel("learned at lam", fontsize=8)
        about = (
            "Exploitability of last policies under the same game at another share of cycles, as a share of the "
            "start's: above 1 what was learned is worse than nothing."
        )
        header = "oracle", "entrant", "learned at lam", "judged at lam", "share", "low", "high"
        pictures.append(Picture(f"transfer_{oracle}", f"Transfer, {oracle}", about, _png(figure), header, rows))
    return pictures


def meetings(found: Standing, names: Sequence[str], name: str, title: str) -> Picture:
    """Draws who of some entrants beats whom; all are among the numbers."""
    figure, (axes,) = _figure(["all"], 6.6, 5.8)
    shown = [i for i, one in enumerate(found.names) if one in (*names, START)]
    labels = [found.names[i] for i in shown]
    _heat(axes, found.table[shown][:, shown].numpy(), labels, labels, (0.3, 0.7), "{:.3f}")
    axes.set_title("chance that the row beats the column", fontsize=10)
    rows = [[a, b, float(found.table[i, j])] for i, a in enumerate(found.names) for j, b in enumerate(found.names)]
    about = "Exact, from the whole distributions of the last policies, averaged over prompts, games and seeds."
    return Picture(name, title, about, _png(figure), ("entrant", "opponent", "chance"), rows)


def _heat(
    axes: Any, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limits: tuple[float, float], form: str
) -> None:
    """Draws numbers in cells of a shade, dark where they are large."""
    axes.imshow(values, cmap="Greys", vmin=limits[0], vmax=limits[1], aspect="auto")
    middle = sum(limits) / 2
    for i in range(len(rows)):
        for j in range(len(columns)):
            colour = "white" if values[i, j] > middle + (limits[1] - middle) * 0.1 else "black"
            axes.text(j, i, form.format(values[i, j]), ha="center", va="center", color=colour, fontsize=6.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90 if max(map(len, columns)) > 4 else 0)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.tick_params(which="minor", labelsize=6)


def _plain(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    ncols = max(2, int(figure.get_figwidth() / 1.2))
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, fontsize=8, handlelength=4)


def _figure(panels: Sequence[str], width: float, height: float, columns: int = 4) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure, grid


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, dpi=130, format="png")
    return written.getvalue()
