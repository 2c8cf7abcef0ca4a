"""A benchmark's results as one page that can be read and cited."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from runners.benchmark.bounds import exploited
from runners.benchmark.report import pictures, tables
from runners.benchmark.report.findings import sentences
from runners.benchmark.report.pictures import Looks, Picture
from runners.benchmark.report.standings import CLONES, Field, clones, dialled, standing
from runners.benchmark.report.tables import Table
from runners.benchmark.results import cell_of
from runners.benchmark.statistics import Interval
from runners.run.record import write_whole

ALL_CYCLES = 1.0


def write(results: Mapping[str, Any], folder: Path, chosen: Sequence[str] | None = None) -> Path:
    """Writes index.html, and the pictures and the numbers of every part beside it; returns the page.

    Args:
        results: of the benchmark.
        folder: of the page.
        chosen: entrants that pictures show, see `pictures.drawn`.

    Raises:
        ValueError: if no cell is finished, or a chosen one is no entrant.
        OSError: if it can't be written.
    """
    if not results["cells"]:
        raise ValueError("no cell is finished, so that there is nothing to report")
    looks = pictures.styles(results, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(gathered(results, looks))
    for part in parts:
        write_whole(folder / f"{part.name}.csv", numbers(part))
        if isinstance(part, Picture):
            (folder / f"{part.name}.png").write_bytes(part.png)
    page = Environment(autoescape=True)
    page.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "cell": _cell}
    template = page.from_string((files("runners.benchmark.report") / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        results=results,
        count=len(results["cells"]),
        sentences=sentences(results),
        parts=parts,
        example=shlex.join(cell_of(results, results["cells"][-1]).arguments),
    )
    write_whole(folder / "index.html", text)
    return folder / "index.html"


def numbers(part: Picture | Table) -> str:
    """Returns a part as CSV; an interval is three columns."""
    wide = [any(isinstance(row[j], Interval) for row in part.rows) for j in range(len(part.header))]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    names = [[name, f"{name} low", f"{name} high"] if wide[j] else [name] for j, name in enumerate(part.header)]
    writer.writerow(itertools.chain(*names))
    for row in part.rows:
        cells = [(cell or [None] * 3) if wide[j] else [cell] for j, cell in enumerate(row)]
        writer.writerow(f"{one:.6g}" if isinstance(one, float) else one for one in itertools.chain(*cells))
    return written.getvalue()


def _cell(value: Any, first: bool) -> Markup:
    """Returns one cell of a table in HTML."""
    if isinstance(value, Interval):
        return Markup(f"<td>{value.value:.3f}<small>{value.low:.3f} to {value.high:.3f}</small></td>")
    if isinstance(value, float):
        return Markup(f"<td>{value:.3f}</td>")
    told = escape("" if value is None else value)
    if first:
        return Markup('<th scope="row">{}</th>').format(told)
    return Markup("<td>{}</td>" if len(told) < 24 else '<td class="text">{}</td>').format(told)


def gathered(results: Mapping[str, Any], looks: Looks) -> Iterator[Picture | Table]:
    """Yields the parts of the page, in their order."""
    yield tables.left(results)
    if exploited(results):
        yield tables.bounds(results)
        yield pictures.exploitation(results, looks)
    if dialled(results):
        yield pictures.against_lam(results, looks)
    yield pictures.curves(results, looks)
    yield tables.summary(results)
    yield pictures.profile(results, looks)
    yield tables.improvements(results)
    field = Field(results)
    if field.games() and field.shared(field.games()):
        yield from pictures.transfer(results, field, [*looks])
        yield from _standings(results, field, [*looks])
    yield tables.hyper_parameters(results)
    yield tables.circumstances(results)


def _standings(results: Mapping[str, Any], field: Field, names: Sequence[str]) -> Iterator[Picture | Table]:
    whole = standing(field.names, field.meetings(field.games()))
    yield pictures.meetings(whole, names, "cross_play", "Who beats whom, all games")
    yield tables.standings(whole, "standings", "Standing, all games")
    cyclic = [by_lam[ALL_CYCLES] for by_lam in dialled(results).values() if by_lam.get(ALL_CYCLES) in field.games()]
    if cyclic:
        alone = standing(field.names, field.meetings(cyclic))
        yield pictures.meetings(alone, names, "cross_play_cycles", "Who beats whom, nothing but cycles (lam = 1)")
        yield tables.standings(alone, "standings_cycles", "Standing, nothing but cycles (lam = 1)")
        whole = alone
    yield tables.clone_table(clones(whole.names, whole.table), whole.names, CLONES)
