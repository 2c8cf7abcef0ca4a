"""Plays what is missing of a benchmark, and keeps what is finished."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runners.benchmark.executors import Engine, batches, played
from runners.benchmark.results import circumstances, keep, require_format
from runners.benchmark.suites import Cell
from runners.run.record import lock

BATCH = 90
"""Cells that learn as one at most: more save little, and lose more where one is killed."""


def play(cells: Sequence[Cell], folder: Path, engine: Engine, title: str) -> list[str]:
    """Plays the cells that are not finished yet; returns the names of those that failed.

    Args:
        cells: what is wanted.
        folder: of the benchmark, made if it is not there.
        engine: that plays.
        title: of the progress bar.

    Raises:
        ValueError: if the folder is something else, or of another version.
        OSError: if another process writes there, one died, or a result can't be written; what is finished is kept.
    """
    require_format(folder)
    held = lock(folder)
    try:
        return _play(cells, folder, engine, title)
    finally:
        os.close(held)


def _play(cells: Sequence[Cell], folder: Path, engine: Engine, title: str) -> list[str]:
    waiting = [cell for cell in cells if not (folder / "cells" / cell.name / "done.json").exists()]
    failed, done, start, made = [], 0, time.monotonic(), circumstances()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=len(cells), completed=len(cells) - len(waiting))
        for found in played(engine, batches(waiting, BATCH)):
            for one in found:
                keep(one, folder, made)
                failed += [one.cell.name] if one.content is None else []
            done += len(found)
            bar.advance(task, len(found))
            if not sys.stdout.isatty():
                left = (time.monotonic() - start) * (len(waiting) - done) / done
                print(f"{len(cells) - len(waiting) + done}/{len(cells)} cells, about {left:.0f} s left", flush=True)
    return sorted(failed)
