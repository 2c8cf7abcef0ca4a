"""An audit as a page: the matrix with its cycles, rankings with intervals, and every number beside it as CSV."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from envs.votes.statistics.audit import Audit, Ranking
from envs.votes.statistics.labels import Label
from runners.auditing.audit_summary import by_score, sentences
from runners.benchmark.report.page import numbers
from runners.benchmark.report.pictures import Picture
from runners.benchmark.report.tables import Table
from runners.benchmark.statistics import Interval
from runners.run.record import write_whole

_MOST = 30  # items whose numbers fit into the cells of the matrix


def write_page(audit: Audit, path: Path, source: str, labels: Sequence[Label]) -> Path:
    """Writes the page, and its pictures and numbers into the folder NAME_files beside it.

    Args:
        audit: what is shown.
        path: the page.
        source: the name of the file of votes, for the title.
        labels: each label's votes alone.

    Raises:
        OSError: if it can't be written.
    """
    folder = path.with_name(f"{path.stem}_files")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_matrix(audit), _intervals(audit), _rankings(audit), _labels(labels)]
    parts += [_pairs(audit), _cycles(audit), _seats(audit)]
    for part in parts:
        write_whole(folder / f"{part.name}.csv", numbers(part))
        if isinstance(part, Picture):
            (folder / f"{part.name}.png").write_bytes(part.png)
    page = Environment(autoescape=True)
    page.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "number": _number}
    template = page.from_string((files("runners.auditing") / "audit.html").read_text(encoding="utf-8"))
    text = template.render(
        source=source, audit=audit, sentences=sentences(audit), parts=parts, folder=folder.name, interval=Interval
    )
    write_whole(path, text)
    return path


def _number(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _matrix(audit: Audit) -> Picture:
    from matplotlib import colormaps

    order = by_score(audit)
    names = [audit.table.items[i] for i in order]
    verdicts = (audit.wins + audit.wins.T + audit.ties)[np.ix_(order, order)]
    shown = np.where(verdicts > 0, audit.preference[np.ix_(order, order)], np.nan)
    size = max(4.0, min(14.0, 0.5 * len(order) + 2))
    figure, axes = _figure(size, size)
    image = axes.imshow(shown, cmap=colormaps["RdBu"].with_extremes(bad="0.85"), vmin=0, vmax=1)
    if len(order) <= _MOST:
        for i, j in np.argwhere(~np.isnan(shown)).tolist():
            dark = abs(shown[i, j] - 0.5) > 0.3
            axes.text(j, i, f"{shown[i, j]:.2f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    place = {name: k for k, name in enumerate(names)}
    for k, (*cycle, _) in enumerate(audit.triads.sure[:3]):
        for a, b in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            style = {"fill": False, "edgecolor": ("k", "tab:orange", "tab:green")[k], "linewidth": 2}
            axes.add_patch(_square(place[b], place[a], style))
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of verdicts the row won")
    about = (
        "Share of the verdicts that the row won against the column, a tie as half a win, ordered by Bradley-Terry "
        "score; grey: never compared. Under one score per item blue fades row by row; frames mark the surest cycles."
    )
    rows = [
        [a, b, float(shown[i, j]), int(verdicts[i, j])]
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if verdicts[i, j]
    ]
    return Picture("matrix", "Who beats whom", about, _png(figure), ("item", "opponent", "share won", "verdicts"), rows)


def _intervals(audit: Audit) -> Picture:
    order = by_score(audit)
    names = [audit.table.items[i] for i in order]
    panels = {"Bradley-Terry (nats)": audit.bradley_terry, "Copeland": audit.copeland, "maximal lottery": audit.lottery}
    figure, grid = _figure(11, max(2.5, 0.22 * len(order) + 1), len(panels))
    for axes, (title, ranking) in zip(grid, panels.items(), strict=True):
        value, low, high = (part[order] for part in (ranking.value, ranking.low, ranking.high))
        around = np.stack([np.maximum(value - low, 0), np.maximum(high - value, 0)])
        axes.errorbar(value, range(len(order)), xerr=around, fmt="o", color="k", markersize=3, linewidth=1)
        axes.set_yticks(range(len(order)), names if axes is grid[0] else [""] * len(order), fontsize=7)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    rows = [
        [name, *(_interval(ranking, i) for ranking in panels.values())] for name, i in zip(names, order, strict=True)
    ]
    about = "Each item's number with its 95 % bootstrap interval."
    return Picture("intervals", "Rankings", about, _png(figure), ("item", *panels), rows)


def _rankings(audit: Audit) -> Table:
    rows = [
        [
            audit.table.items[i],
            _interval(audit.bradley_terry, i),
            _interval(audit.copeland, i),
            _interval(audit.lottery, i),
            float(audit.support[i]),
            float(audit.top_frequency[i]),
            _interval(audit.elo, i),
        ]
        for i in by_score(audit)
    ]
    header = ("item", "Bradley-Terry", "Copeland", "lottery", "in its support", "in the top cycle", "Elo")
    about = (
        "In the support and in the top cycle: share of the resampled tables. Elo is a contrast: its range is over "
        "random orders of the same verdicts."
    )
    return Table("rankings", "Rankings side by side", about, header, rows)


def _labels(labels: Sequence[Label]) -> Table:
    rows = [
        [one.name, one.verdicts, Interval(one.share.value, one.share.low, one.share.high), one.fit.p_value, one.leader]
        for one in labels
    ]
    header = ("label", "verdicts", "intransitive share", "one score per item: p", "highest score")
    return Table("labels", "Each label alone", "The votes of each label, audited by themselves.", header, rows)


def _pairs(audit: Audit) -> Table:
    rows = [[a, b] for a, b in audit.ask]
    return Table("ask", "What to ask next", "Pairs that would say most about the lottery.", ("item", "against"), rows)


def _cycles(audit: Audit) -> Table:
    rows = [list(cycle) for cycle in audit.triads.sure]
    about = (
        "Each beats the next and the last beats the first, with a posterior probability above .95. The intransitive "
        "share of the first sentence counts more than these: of the variance of all preferences the part that no score "
        "per item explains, the noise of the votes taken out."
    )
    return Table("cycles", "Cycles of three", about, ("item", "beats", "beats", "probability"), rows)


def _seats(audit: Audit) -> Table:
    rows = [list(row) for row in audit.order.depends]
    about = "Items whose wins depend on where they are shown (Fisher's exact test, false discovery rate 5 %)."
    return Table("order", "Order effect by item", about, ("item", "won when first", "won when second"), rows)


def _interval(ranking: Ranking, i: int) -> Interval:
    return Interval(float(ranking.value[i]), float(ranking.low[i]), float(ranking.high[i]))


def _figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels)


def _square(column: int, row: int, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, **style)


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, dpi=130, format="png")
    return written.getvalue()
