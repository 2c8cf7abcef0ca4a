"""Entrants in the results of `standard`: `python -m benchmarks.entrants [NAME ...]`, or `--all`.

Reads the published results, and plays nothing. Printed for the entrants that are named, or else for every one that is
rewarded inside a group and those that the report's headline puts beside them: the share of the start's exploitability
that the budget left in `cyclic` and over all games, of the last iterate and of the average; at lam 1 the last
exploitability over the lowest of its curve, which tells a policy that is led around from one that is still on its way;
the share of the runs, and of those at lam 0, that came to a tenth of the start's exploitability, and the median of the
queries that took at lam 0; the chance that a run leaves less than one of `grpo` in the same game. Interquartile means
with 95 % intervals over games. Where no entrant is named, also what each setting that was tried for `grpo` left of the
held-out games, and with the settings that make its variants. The name `uniform` stands for the policy that samples all
responses alike, in the first table. `--all` shows it and every agent, without variants, the one that left least first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from envs.games import exploitability
from runners.benchmark.report.findings import BESIDE, EXPLOITABILITY, GROUP, family
from runners.benchmark.results import cell_of, published, read_results
from runners.benchmark.scores import entrants, games, gap_tags, scores, table, to_tenth
from runners.benchmark.statistics import Scores, bootstrap, improvement, interquartile_mean
from runners.benchmark.suites import VARIANTS
from runners.benchmark.tuning import tuned_for
from runners.run.build import build_experiment
from runners.run.cli import parse

UNIFORM = "uniform"
CYCLES = "cyclic lam=0", "cyclic lam=0.5", "cyclic lam=1"


def of_groups(results: Mapping[str, Any]) -> list[str]:
    """Returns the entrants that are rewarded inside a group and those beside them, in their order."""
    return [one for one in entrants(results) if one in BESIDE or family(results, one) == GROUP]


def uniform(results: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns game -> what the uniform policy leaves of the start's exploitability, of each seed."""
    found: dict[str, list[float]] = {}
    for cell in (cell for cell in results["cells"] if cell["entrant"] == entrants(results)[0]):
        evaluation = build_experiment(parse(cell_of(results, cell).arguments).settings, "cpu").evaluation
        start = evaluation.reference_probs  # [X, N]
        both = torch.stack([torch.full_like(start, 1 / start.shape[1]), start])
        mine, before = exploitability(evaluation.matrices, both).mean(-1).tolist()
        found.setdefault(cell["game"], []).append(mine / before)
    return found


def ends(results: Mapping[str, Any], names: Sequence[str], ranked: bool = False) -> Table:
    """Returns the shares of the start's exploitability that are left, of the last iterate and of the average.

    Args:
        results: of `standard`.
        names: of the rows.
        ranked: whether the rows are sorted, the entrant that leaves least over all games first.
    """
    last, average = table(results), table(results, "average")
    if UNIFORM in names:
        last[UNIFORM] = average[UNIFORM] = uniform(results)

    def over_all(one: str) -> float:
        found = scores(last[one], games(results))
        return np.inf if found is None else float(interquartile_mean(found))

    names = sorted(names, key=over_all) if ranked else names
    columns = "entrant", *CYCLES, "lam=1, average", "probabilities", "all games", "all games, average"
    found = Table(*columns, title="share of the start's exploitability that is left")
    for one in names:
        rows = [*((last, [game]) for game in CYCLES), (average, [CYCLES[-1]]), (last, ["cyclic lam=0.5 probability"])]
        rows += [(last, games(results)), (average, games(results))]
        found.add_row(one, *(_mean(scores(which[one], chosen)) for which, chosen in rows))
    return found


def ways(results: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Returns rises after the lowest exploitability at lam 1, queries to a tenth, and the improvement over `grpo`."""
    tags, left = gap_tags(results), table(results)
    columns = "entrant", "lam=1, last over lowest", "a tenth reached", "at lam=0", "queries to it", "improves on grpo"
    found = Table(*columns, title="ways there")
    for one in names:
        cells = [cell for cell in results["cells"] if cell["entrant"] == one]
        curves = [np.array(cell["curve"][EXPLOITABILITY]) for cell in cells if cell["game"] == CYCLES[-1]]
        rise = np.array([curve[-1] / curve.min() for curve in curves])[:, None] if curves else None
        needed = np.array([to_tenth(cell, tags[cell["game"]]) for cell in cells])
        simple = needed[[cell["game"].endswith("lam=0") for cell in cells]]
        median = np.median(simple)
        ours, theirs = scores(left[one], games(results)), scores(left.get("grpo", {}), games(results))
        chance = "" if one == "grpo" or ours is None or theirs is None else str(improvement(-ours, -theirs))
        queries = f"{median:,.0f}" if np.isfinite(median) else "more than the budget"
        reached = (f"{np.isfinite(some).mean():.0%}" for some in (needed, simple))
        found.add_row(one, _mean(rise), *reached, queries, chance)
    return found


def trials(tuned: Mapping[str, Any]) -> Table:
    """Returns what each setting that was tried left of the held-out games; variants of `grpo` beside it."""
    agents = {"grpo": tuned["grpo"], **{label: tuned[label] for label in VARIANTS if label in tuned}}
    found = Table("settings", *agents, title="trials, share left of the held-out games")
    for rows in zip(*(agent["trials"] for agent in agents.values()), strict=True):
        words = " ".join(rows[0]["options"]).replace("--agent.", "").replace("optimiser.", "")
        found.add_row(words or "defaults", *(f"{row['left']:.3f}" for row in rows))
    return found


def _mean(array: Scores | None) -> str:
    """Returns an interquartile mean with its interval; nothing if runs are missing."""
    return "" if array is None else str(bootstrap(array))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entrants of the tables (default: those of groups)")
    parser.add_argument("--all", action="store_true", help="every agent and the uniform policy, sorted")
    options = parser.parse_args()
    results, console = read_results(published("standard")), Console(width=200)
    if unknown := set(options.names) - {*entrants(results), UNIFORM}:
        parser.error(f"no entrant is called {', '.join(sorted(unknown))}; known: {', '.join(entrants(results))}")
    every = [UNIFORM, *(one for one in entrants(results) if one not in VARIANTS)]
    shown = every if options.all else options.names or of_groups(results)
    console.print(ends(results, shown, ranked=options.all), ways(results, [one for one in shown if one != UNIFORM]))
    if not (options.all or options.names):
        console.print(trials(json.loads(tuned_for("standard").read_text(encoding="utf-8"))["agents"]))


if __name__ == "__main__":
    main()
