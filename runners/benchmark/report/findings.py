"""Findings on families of agents as cycles take over, in sentences that follow the measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runners.benchmark.bounds import exploited, mean_at_kl, shared_kl, strongest
from runners.benchmark.report.standings import dialled
from runners.benchmark.scores import entrants, table
from runners.benchmark.statistics import Interval, Scores, bootstrap

EXPLOITABILITY, WIN_RATE = "game/exploitability", "eval/win_rate_vs_ref"
BRADLEY_TERRY, NASH, NO_REGRET, OTHER = "Bradley-Terry", "regularised Nash", "unregularised", "other"
GROUP = "group relative"
FAMILIES = {
    BRADLEY_TERRY: ("dpo", "rlhf", "xpo"),
    NASH: ("ipo", "inpo", "nash_md", "nash_ema", "egpo", "mnpo", "oelhf"),
    NO_REGRET: ("sppo", "spo", "comal", "dno", "rebel"),
    GROUP: ("grpo", "rloo"),
}
"""Aims of agents: the best response by a fitted reward, the regularised equilibrium, that of the game itself, or the
highest reward in a group of their own samples."""
BESIDE = "spo", "inpo", "oelhf"
"""Entrants that the headline puts beside `grpo`."""


def family(results: Mapping[str, Any], entrant: str) -> str:
    """Returns the family of an entrant."""
    agent = results["entrants"][entrant]["agent"]
    return next((name for name, agents in FAMILIES.items() if agent in agents), OTHER)


def final(results: Mapping[str, Any], game: str, chosen: Sequence[str], tag: str, at: int = -1) -> Scores:
    """Returns [R, A] the last value of a tag in one game, or that at another place of the curve.

    The R seeds are those that all of A entrants have finished.
    """
    ends = {one: {} for one in chosen}
    for cell in results["cells"]:
        if cell["game"] == game and cell["entrant"] in ends:
            ends[cell["entrant"]][cell["seed"]] = cell["curve"][tag][at]
    shared = sorted(set.intersection(*(set(found) for found in ends.values())))
    return np.array([[found[seed] for seed in shared] for found in ends.values()]).T


def headline(results: Mapping[str, Any]) -> list[str]:
    """Returns the sentence that says where pairwise GRPO ends without cycles, with some and with nothing else.

    None if it, an entrant beside it or a game is missing.
    """
    left, by_lam = table(results), dialled(results).get("cyclic", {})
    names = [by_lam[lam] for lam in (0.0, 0.5, 1.0) if lam in by_lam]
    if len(names) < 3 or not all(left.get(one, {}).keys() >= set(names) for one in ("grpo", *BESIDE)):
        return []

    def ends(one: str) -> str:
        return ", ".join(str(bootstrap(np.array(left[one][name])[:, None])) for name in names)

    beside = "; ".join(f"{one} {ends(one)}" for one in BESIDE)
    return [
        f"cyclic, lam = 0, 0.5 and 1: pairwise GRPO leaves {ends('grpo')} of the start's exploitability ({beside})."
    ]


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Returns what the oracles with a dial show, one sentence for each thing that was to be seen."""
    return [*headline(results), *of_families(results), *on_text(results)]


def on_text(results: Mapping[str, Any]) -> list[str]:
    """Returns how exploitable the two families of agents are on free text at equal KL, a sentence for each game."""
    found = []
    for game, by_entrant in exploited(results).items():
        groups = {
            name: [cell for one, cells in by_entrant.items() if family(results, one) == name for cell in cells]
            for name in (BRADLEY_TERRY, NASH)
        }
        if min(map(len, groups.values())) < 2:
            continue
        kl = shared_kl([cell for cells in groups.values() for cell in cells])
        rewards, nash = (mean_at_kl(cells, kl) for cells in groups.values())
        ends = [strongest(cells) for cells in groups.values()]
        found.append(
            f"{game}: {kl:.2f} nats from the start, Bradley-Terry agents are exploitable by at least {rewards}, "
            f"regularised-Nash agents by {nash}: {_compared(rewards, nash, 'the former are')}; at the end by {ends[0]} "
            f"and {ends[1]}."
        )
    return found


def of_families(results: Mapping[str, Any]) -> list[str]:
    """Returns what the oracles with a dial show of Bradley-Terry and of regularised-Nash agents."""
    groups = {
        name: [one for one in entrants(results) if family(results, one) == name] for name in (BRADLEY_TERRY, NASH)
    }
    if not all(groups.values()):
        return ["No comparison of families: the results have no Bradley-Terry agent, or none of regularised Nash."]
    found = []
    for oracle, games in dialled(results).items():
        ends = min(games), max(games)
        scores = {
            (name, lam, tag): final(results, games[lam], group, tag)
            for name, group in groups.items()
            for lam in ends
            for tag in (EXPLOITABILITY, WIN_RATE)
        }
        if all(one.size for one in scores.values()):
            starts = tuple(final(results, games[lam], groups[NASH], EXPLOITABILITY, at=0).mean() for lam in ends)
            found += _of(oracle, ends, starts, {place: bootstrap(one) for place, one in scores.items()})
    return found


def _of(
    oracle: str,
    ends: tuple[float, float],
    starts: tuple[float, ...],
    measured: Mapping[tuple[str, float, str], Interval],
) -> list[str]:
    low, high = ends
    rewards, nash = measured[BRADLEY_TERRY, low, EXPLOITABILITY], measured[NASH, low, EXPLOITABILITY]
    found = [
        f"{oracle}, lam = {low:g}: Bradley-Terry agents end at exploitability {rewards}, regularised-Nash agents "
        f"at {nash}: {_compared(rewards, nash, 'the former are')}."
    ]
    for name in (BRADLEY_TERRY, NASH):
        before, after = measured[name, low, EXPLOITABILITY], measured[name, high, EXPLOITABILITY]
        found.append(
            f"{oracle}, lam {low:g} to {high:g}: the exploitability of {name} agents {_moved(before, after)}, from "
            f"{before} to {after}; the start's is {starts[0]:.3f} and {starts[1]:.3f}."
        )
    rewards, nash = measured[BRADLEY_TERRY, high, EXPLOITABILITY], measured[NASH, high, EXPLOITABILITY]
    ours, theirs = measured[NASH, high, WIN_RATE], measured[BRADLEY_TERRY, high, WIN_RATE]
    found.append(
        f"{oracle}, lam = {high:g}: exploitability {rewards} of Bradley-Terry agents against {nash}, "
        f"{rewards.value / max(nash.value, 1e-9):.1f} times; their win rates against the start are {theirs} and "
        f"{ours}: {_compared(ours, theirs, 'by win rate the Nash agents are', higher=True)}."
    )
    return found


def _compared(first: Interval, second: Interval, who: str, higher: bool = False) -> str:
    """Returns whether intervals leave a difference."""
    if first.low <= second.high and second.low <= first.high:
        return f"the intervals overlap, {who} as good within them"
    return f"{who} {'better' if (first.value > second.value) == higher else 'worse'}"


def _moved(before: Interval, after: Interval) -> str:
    if after.low > before.high:
        return "rises"
    return "falls" if after.high < before.low else "stays within intervals"
