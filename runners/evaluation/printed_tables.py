"""The tables that `runners.evaluate` prints, from what it writes to evaluation.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from envs.games import bradley_terry_caveats

MEASURES = {
    "win_rate": "win rate vs start",
    "length_controlled": "length-controlled",
    "exploitability": "exploitability",
    "regularised_exploitability": "regularised expl.",
    "kl_to_nash": "KL to reg. Nash",
    "kl_to_start": "KL to start",
    "entropy": "entropy",
    "different": "different",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "unread": "unread",
}
RATES = "win_rate", "length_controlled"
"""Measures with an interval."""
INTRANSITIVITY = {
    "curl_ratio": "curl ratio",
    "cyclic_triads": "cyclic triads",
    "bt_excess": "Bradley-Terry excess",
    "pure": "least exploitability of one response",
}
MEASURED = (
    "curl ratio: share of the logits' energy that no reward explains; cyclic triads: share of the triples in which\n"
    "each response beats one and loses to one; Bradley-Terry excess: nats a comparison that the best reward misses;\n"
    "least exploitability of one response: 0 if no other beats it. Means over prompts, responses counted alike."
)
SAMPLED = (
    "length-controlled: the win rate at equal lengths by a logistic model of the verdicts, - if one side is\n"
    "always longer; entropy: mean -log pi, nats; different: share of different responses to a prompt;\n"
    "distinct-1, -2: share of different words and pairs of words in them. Compare at equal --pairs."
)
RANKS = {"nash_average": "Nash average", "against_nash": "vs that", "alpha_rank": "alpha-rank", "elo": "Elo"}


def show(content: Mapping[str, Any], console: Console) -> None:
    """Prints each run under each judge, the transfer table and the cross-play."""
    for table in _tables(content):
        console.print(table)


def _tables(content: Mapping[str, Any]) -> Iterator[Table]:
    runs, judges, results = content["runs"], content["judges"], content["results"]
    for j, judge in enumerate(judges):
        for run, rows in zip(runs, results, strict=True):
            if len(judges) == 1 or run["own_judge"] == j:
                yield _measures(f"{run['label']}, step {run['step']}, judged by {judge['label']}", run, rows[j])
    if any(run["queries_to_tenth"] for run in runs):
        yield _queries(runs)
    if content["task"]["finite"]:
        yield _intransitivity(judges)
    if len(judges) > 1:
        yield from _transfer(runs, judges, results, content["task"]["finite"])
        yield _agreement(judges, content["agreement"], content["task"]["finite"])
    for judge, met in zip(judges, content["meetings"] or (), strict=False):
        yield _cross_play(judge["label"], met)
        yield _ranking(judge["label"], met)


def _measures(title: str, run: Mapping[str, Any], rows: Mapping[str, Mapping[str, float | None]]) -> Table:
    shown = {key: name for key, name in MEASURES.items() if any(key in row for row in rows.values())}
    regularised = f", regularised game at tau={run['tau']:g}" if "kl_to_nash" in shown else ""
    table = _table(title + regularised, ["policy", *shown.values()])
    for name, row in rows.items():
        table.add_row(name, *(_rate(row, key) if key in RATES else _number(row.get(key)) for key in shown))
    table.caption = SAMPLED if "different" in shown else None
    return table


def _intransitivity(judges: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Intransitivity of the judges", ["judge", *INTRANSITIVITY.values()])
    table.caption = MEASURED
    for judge in judges:
        table.add_row(judge["label"], *(_number(judge["intransitivity"][key]) for key in INTRANSITIVITY))
    return table


def _queries(runs: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("exploitability", "regularised_exploitability")
    table = _table("Oracle queries until a gap was a tenth of the first", ["run", *(MEASURES[key] for key in keys)])
    for run in runs:
        needed = run["queries_to_tenth"]
        table.add_row(run["label"], *(_count(needed[key]) if key in needed else "-" for key in keys))
    return table


def _count(queries: float | None) -> str:
    return "not reached" if queries is None else f"{queries:,.0f}"


def _transfer(
    runs: Sequence[Mapping[str, Any]], judges: Sequence[Mapping[str, Any]], results: Sequence[Any], finite: bool
) -> Iterator[Table]:
    for key in ("win_rate", "exploitability") if finite else RATES:
        title = f"Transfer, {MEASURES[key]} (last policy): learned from (rows), judged by (columns)"
        table = _table(title, ["run", *(judge["label"] for judge in judges)])
        for run, row in zip(runs, results, strict=True):
            cells = [_rate(cell["last"], key) if key in RATES else _number(cell["last"][key]) for cell in row]
            own = run["own_judge"]
            table.add_row(run["label"], *(f"{text} *" if j == own else text for j, text in enumerate(cells)))
        if any(run["own_judge"] is not None for run in runs):
            table.caption = "* the judge that it learned from"
        yield table


def _agreement(judges: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], finite: bool) -> Table:
    table = _table("Agreement of the judges", ["judges", "pairs", "same side", "Cohen's kappa"])
    for row in found:
        names = " and ".join(judges[i]["label"] for i in row["judges"])
        table.add_row(names, f"{row['pairs']:,}", _rate(row, "agreement"), _rate(row, "kappa"))
    about = "all pairs of responses" if finite else "samples of the last policies against the start's"
    table.caption = f"on {about}; kappa: beyond chance"
    return table


def _cross_play(judge: str, met: Mapping[str, Any]) -> Table:
    table = _table(f"P(row beats column), judged by {judge}", ["", *map(str, range(1, len(met["entrants"]) + 1))])
    for i, (name, row) in enumerate(zip(met["entrants"], met["table"], strict=True)):
        ends = [None] * len(row) if met["low"] is None else zip(met["low"][i], met["high"][i], strict=True)
        cells = [
            f"{value:.3f}" if end is None or i == j else f"{value:.3f} [{end[0]:.3f}, {end[1]:.3f}]"
            for j, (value, end) in enumerate(zip(row, ends, strict=True))
        ]
        table.add_row(f"{i + 1} {name}", *cells)
    if met.get("unread"):
        table.caption = f"{met['unread']:.1%} of the pairs were left unread by the judge; nothing rests on them"
    return table


def _ranking(judge: str, met: Mapping[str, Any]) -> Table:
    table = _table(f"Ranked, judged by {judge}", ["", *RANKS.values()])
    for i, name in enumerate(met["entrants"]):
        cells = [f"{met[key][i]:.0f}" if key == "elo" else f"{met[key][i]:.3f}" for key in RANKS]
        table.add_row(f"{i + 1} {name}", *cells)
    table.caption = "\n".join(bradley_terry_caveats(torch.tensor(met["table"], dtype=torch.float64))) or None
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left", box=SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def _rate(row: Mapping[str, Any], key: str) -> str:
    value, low, high = (row.get(f"{key}{end}") for end in ("", "_low", "_high"))
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return "-" if value is None else f"{value:.3f}{interval}"


def _number(value: float | None) -> str:
    """Returns four digits after the point, powers of ten for what would be 0.0000."""
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 5e-5 else f"{value:.4f}"
