"""`python -m runners.bench --suite quick`: every agent against every oracle, with honest statistics."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from envs.registry import UnknownNameError
from runners.record import read_lines, write_whole
from runners.statistics import bootstrap, improvement
from runners.suites import BUILT_IN, Cell, Suite, find_suite

FORMAT = 1
"""Of a benchmark's folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns 0, 1 after an error or a failed cell, 2 after a wrong name."""
    parser = argparse.ArgumentParser(prog="python -m runners.bench", description=__doc__)
    parser.add_argument("--suite", default="quick", help=f"{', '.join(BUILT_IN)}, or a FILE.py (default: quick)")
    parser.add_argument("--agent", nargs="+", help="who plays a built-in suite, instead of its own agents")
    parser.add_argument("--dir", type=Path, help="where it is written, and goes on (default: bench/SUITE)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="cells at once")
    options = parser.parse_args(arguments)
    try:
        suite = find_suite(options.suite, options.agent)
        folder = options.dir or Path("bench") / suite.name
        failed = play(suite, folder, options.processes)
        results = gather(suite, folder)
        write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")
        show(suite, results, Console(width=150))
        print(f"Results: {folder / 'results.json'}")
        for name in failed:
            print(f"failed:  {name}, see {folder / 'cells' / name / 'log.txt'}", file=sys.stderr)
        return 1 if failed else 0
    except UnknownNameError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def play(suite: Suite, folder: Path, processes: int) -> list[str]:
    """Plays the cells that are not finished yet; returns the names of those that failed.

    Raises:
        ValueError: if the folder is of another format, or there is no process.
        OSError: if it can't be written.
    """
    if processes < 1:
        raise ValueError(f"--processes must be at least 1, got {processes}")
    _require_format(folder)
    waiting = [cell for cell in suite.cells if not (folder / "cells" / cell.name / "done.json").exists()]
    failed = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(suite.name, total=len(suite.cells), completed=len(suite.cells) - len(waiting))
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            under_way = {pool.submit(play_cell, cell, folder / "cells" / cell.name): cell for cell in waiting}
            for future in as_completed(under_way):
                try:
                    well = future.result()
                except BrokenProcessPool as error:
                    raise OSError(f"a process died (killed, or out of memory); call again to go on: {error}") from error
                if not well:
                    failed.append(under_way[future].name)
                bar.advance(task)
    return sorted(failed)


def play_cell(cell: Cell, folder: Path) -> bool:
    """Plays one cell from its start; what it prints is in log.txt. Returns whether it ended well."""
    from runners.duel import main as duel

    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            well = duel(cell.arguments(folder / "run")) == 0
        except BaseException:  # whatever a cell does, the others are to be played
            traceback.print_exc(file=log)
            well = False
    if well:
        content = {"agent": cell.agent, "game": cell.game, "seed": cell.seed, "options": list(cell.options)}
        content |= {"seconds": time.perf_counter() - start, "curve": curve(folder / "run")}
        write_whole(folder / "done.json", json.dumps(content) + "\n")
    return well


def curve(run: Path) -> list[dict[str, float]]:
    """Returns a run's evaluations, each with the queries that were spent until then."""
    spent, found = 0.0, []
    for line in read_lines(run / "metrics.jsonl"):
        spent = line.get("duel/queries", spent)
        measured = {tag: value for tag, value in line.items() if tag.startswith(("game/", "eval/"))}
        if measured:
            found.append({"queries": spent, **measured})
    return found


def gather(suite: Suite, folder: Path) -> dict[str, Any]:
    """Returns what the finished cells of a suite say, as JSON values."""
    cells = []
    for cell in suite.cells:
        path = folder / "cells" / cell.name / "done.json"
        if path.exists():
            cells.append(json.loads(path.read_text(encoding="utf-8")))
    return {"format": FORMAT, "suite": suite.name, "about": suite.about, "gap": suite.gap, "cells": cells}


def remaining(cell: Mapping[str, Any], gap: str) -> float:
    """Returns what a cell's budget left of the gap that it began with."""
    points = [point[gap] for point in cell["curve"] if gap in point]
    return points[-1] / points[0]


def show(suite: Suite, results: Mapping[str, Any], console: Console) -> None:
    """Prints what each agent left of the gap in each game, and who improves on whom.

    Interquartile means with 95 % intervals; the chance that a seed of the row leaves less than one of the column in the
    same game, over all games that both have finished.
    """
    games = list(dict.fromkeys(cell.game for cell in suite.cells))
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in results["cells"]:
        scores[cell["agent"]][cell["game"]].append(remaining(cell, suite.gap))
    table = Table(title=f"{suite.name}: share of the first {suite.gap} that is left, {suite.about}")
    for column in ("agent", *games, "all"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for agent, found in scores.items():
        columns = [[found[game]] if game in found else [] for game in games]
        whole = [found[game] for game in games] if len({len(found[game]) for game in games}) == 1 else []
        table.add_row(agent, *(_told(one) for one in [*columns, whole]))
    console.print(table)
    seeds = {len(found[game]) for found in scores.values() for game in games}
    if len(scores) > 1 and len(seeds) == 1 and seeds != {0}:
        closed = {agent: -np.array([found[game] for game in games]).T for agent, found in scores.items()}
        table = Table("agent", *closed, title="probability of improvement, row over column, 95 % intervals")
        for row, ours in closed.items():
            table.add_row(row, *("" if one == row else _chance(ours, theirs) for one, theirs in closed.items()))
        console.print(table)


def _chance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    found = improvement(ours, theirs)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _told(rows: Iterable[list[float]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    found = bootstrap(np.array(rows).T)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _require_format(folder: Path) -> None:
    mark = folder / "bench.json"
    if not folder.exists():
        folder.mkdir(parents=True)
    if not mark.exists():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and no benchmark's folder; choose another --dir")
        write_whole(mark, json.dumps({"format": FORMAT}) + "\n")
    found = json.loads(mark.read_text(encoding="utf-8")).get("format")
    if found != FORMAT:
        raise ValueError(f"{folder} was written in format {found}, this is {FORMAT}; choose another --dir")


if __name__ == "__main__":
    sys.exit(main())
