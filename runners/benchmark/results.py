"""A benchmark's folder and its results.json, and the results that were published with the product."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from runners.benchmark.cells import Played
from runners.benchmark.suites import Cell, Entrant, Game, Suite
from runners.run.record import git_commit, versions, write_whole

FORMAT = 1
"""Version of a benchmark's folder and of results.json."""
PUBLISHED = files("runners.benchmark") / "published"


def circumstances() -> dict[str, Any]:
    """Returns commit, date, machine and versions, on which numbers may depend beside their cell."""
    day = datetime.now().astimezone().date().isoformat()
    return {"commit": git_commit(), "date": day, "machine": platform.platform(), "versions": versions()}


def require_format(folder: Path) -> None:
    """Makes a benchmark's folder, or checks that it is one.

    Raises:
        ValueError: if it is another kind of folder, or of another version.
    """
    mark = folder / "bench.json"
    if not folder.exists():
        folder.mkdir(parents=True)
    if not mark.exists():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and no benchmark's folder; choose another --dir")
        write_whole(mark, json.dumps({"format": FORMAT}) + "\n")
    version = json.loads(mark.read_text(encoding="utf-8")).get("format")
    if version != FORMAT:
        raise ValueError(f"{folder} was written in format {version}, this is {FORMAT}; choose another --dir")


def keep(played: Played, folder: Path, made: Mapping[str, Any]) -> None:
    """Writes the result of a cell: log.txt, and done.json if it succeeded.

    Args:
        played: the cell.
        folder: of the benchmark.
        made: the circumstances.

    Raises:
        OSError: if the disk is full or the folder can't be written.
    """
    own = folder / "cells" / played.cell.name
    try:
        own.mkdir(parents=True, exist_ok=True)
        write_whole(own / "log.txt", played.log)
        if played.content is not None:
            write_whole(own / "done.json", json.dumps({**played.content, "made": made}) + "\n")
    except OSError as error:
        raise OSError(f"can't write {own}: {error}; finished cells are kept, call again to go on") from error


def gather(suite: Suite, folder: Path) -> dict[str, Any]:
    """Returns the results of a suite's finished cells, and their circumstances, as JSON values."""
    cells = []
    made: dict[str, dict[str, Any]] = defaultdict(dict)
    for cell in suite.cells:
        path = folder / "cells" / cell.name / "done.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            circumstances = content.pop("made")
            made[cell.entrant.label][json.dumps(circumstances)] = circumstances
            cells.append(content)
    return {
        "format": FORMAT,
        "suite": suite.name,
        "about": suite.about,
        "conditions": suite.conditions(),
        "entrants": {entrant.label: _entrant(entrant, [*made[entrant.label].values()]) for entrant in suite.entrants},
        "cells": cells,
    }


def _entrant(entrant: Entrant, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"agent": entrant.agent, "options": list(entrant.options), "made": made}


def beside(results: dict[str, Any], published: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns results with those published entrants that did not play."""
    if published is None:
        return results
    others = {name: value for name, value in published["entrants"].items() if name not in results["entrants"]}
    cells = [cell for cell in published["cells"] if cell["entrant"] in others]
    return {**results, "entrants": {**others, **results["entrants"]}, "cells": [*cells, *results["cells"]]}


def cell_of(results: Mapping[str, Any], content: Mapping[str, Any]) -> Cell:
    """Returns the cell that was played for one entry of the results' cells."""
    entrant, conditions = results["entrants"][content["entrant"]], results["conditions"]
    fields = next(dict(game) for game in conditions["games"] if game["label"] == content["game"])
    del fields["label"]
    game = Game(**{**fields, "options": tuple(fields["options"])})
    player = Entrant(content["entrant"], entrant["agent"], tuple(entrant["options"]))
    return Cell(player, game, content["seed"], tuple(conditions["options"]))


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json, a line for each cell."""
    head = json.dumps({name: value for name, value in results.items() if name != "cells"}, indent=1)
    cells = ",\n".join(json.dumps(cell, separators=(",", ":")) for cell in results["cells"])
    write_whole(path, f'{head[:-2]},\n "cells": [\n{cells}\n]}}\n')


def read_results(path: Path) -> dict[str, Any]:
    """Returns the content of a results.json.

    Raises:
        ValueError: if the file is no results.json, or of another version.
        OSError: if it can't be read.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no results.json: {error}") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        version = results.get("format") if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"{path} was written in format {version}, this is {FORMAT}")
    return results


def shipped(suite: Suite) -> dict[str, Any] | None:
    """Returns the published results of a built-in suite; None if there are none.

    Raises:
        ValueError: if they were made under other conditions.
    """
    path = published(suite.name)
    results = read_results(path) if path.exists() else None
    if results is not None and results["conditions"] != suite.conditions():
        raise ValueError(f"the published results of '{suite.name}' were made under other conditions: leave --agent out")
    return results


def published(suite: str) -> Path:
    """Returns the file of a suite's published results, which need not exist."""
    return Path(str(PUBLISHED / f"{suite}.json"))
