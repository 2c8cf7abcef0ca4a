"""Agents' settings for a benchmark: as many trials for each, on games that no suite plays.

A trial is a setting drawn from the agent's list of values, the first one its defaults. It plays the games that a suite
names for it, under seeds that the suite does not play; its score is what it left of the gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preference_duel.keyed_random import Key, Stream, hash_seed
from runners.benchmark.executors import Engine
from runners.benchmark.results import PUBLISHED, circumstances, gather
from runners.benchmark.schedule import play
from runners.benchmark.scores import gap_tags, left
from runners.benchmark.statistics import interquartile_mean
from runners.benchmark.suites import VARIANTS, Entrant, Suite
from runners.run.config import config_class
from runners.run.record import write_whole

RATES = "0.003", "0.01", "0.03", "0.1", "0.3"
DECAYS = "None", "2000", "500", "100"
TAUS = "0.2", "0.1", "0.05", "0.02", "0.01"
ETAS = "0.5", "1", "2", "5"
_OPTIMISER = {"optimiser.learning_rate": RATES, "optimiser.decay": DECAYS}
_INNER = {"inner.tau": TAUS, "inner.eta": ETAS, **{f"inner.{name}": values for name, values in _OPTIMISER.items()}}
SEARCH: dict[str, dict[str, tuple[str, ...]]] = {
    "dpo": {"tau": TAUS, **_OPTIMISER},
    "rlhf": {"tau": TAUS, "inner_steps": ("1", "4"), **_OPTIMISER},
    "xpo": {"tau": TAUS, **_OPTIMISER},
    "sppo": {"eta": ("1", "5", "20", "100"), **_OPTIMISER},
    "spo": {"tau": ("0", *TAUS), **_OPTIMISER},
    "ipo": {"tau": TAUS, **_OPTIMISER},
    "inpo": {"tau": TAUS, "eta": ETAS, **_OPTIMISER},
    "mnpo": {"tau": TAUS, "eta": ETAS, "opponents": ("2", "4"), **_OPTIMISER},
    "nash_md": {"tau": TAUS, "mixture": ("0.03", "0.125", "0.3"), **_OPTIMISER},
    "nash_ema": {"tau": TAUS, "decay": ("0.999", "0.99", "0.9"), **_OPTIMISER},
    "egpo": {"tau": TAUS, "eta": ETAS, **_OPTIMISER},
    "comal": {"renew_every": ("12", "50", "200", "1000"), **_INNER},
    "oelhf": {"responses": ("16", "32"), "ipo.tau": TAUS},
    "grpo": {"tau": TAUS, "responses": ("8",), **_OPTIMISER},
    "rloo": {"tau": TAUS, "responses": ("8",), **_OPTIMISER},
    **{agent: {"beta": TAUS, **_OPTIMISER} for agent in ("beta_dpo", "discopop", "nca", "bco", "apo")},
    "gpo": {"beta": TAUS, "function": ("squared", "hinge", "exponential", "savage"), **_OPTIMISER},
    "f_dpo": {"beta": TAUS, "divergence": ("js", "forward_kl", "alpha"), **_OPTIMISER},
    "rdpo": {"beta": TAUS, "alpha": ("0.02", "0.05", "0.2"), **_OPTIMISER},
    "dpop": {"beta": TAUS, "lam": ("0.5", "5", "50"), **_OPTIMISER},
    "cpo": {"beta": TAUS, "alpha": ("0", "0.1", "1"), **_OPTIMISER},
    "simpo": {"beta": ("1", "2.5", "5", "10"), "gamma": ("0", "0.5", "1.5"), **_OPTIMISER},
    "orpo": {"lam": ("0.1", "0.3", "1"), **_OPTIMISER},
    **{agent: {"beta": TAUS, **_OPTIMISER} for agent in ("plackett_luce", "lipo", "kto", "npo", "bco_unpaired")},
    **{agent: {"tau": TAUS, **_OPTIMISER} for agent in ("dro", "kimi")},
    "d2o": {"beta": TAUS, "alpha": TAUS, **_OPTIMISER},
    "spin": {"lam": ("0.1", "1", "5", "20"), **_OPTIMISER},
    "gpm_po": {"beta": ("0.2", "1", "5", "20"), **_OPTIMISER},
    "rebel": {"gradient.eta": ("1", "5", "20", "100"), **_OPTIMISER},
    "dno": {"beta": ("1", "0.2", "0.05", "0.01"), **_OPTIMISER},
    "pro": {"sft_weight": ("0.05", "0.005", "0.5"), **_OPTIMISER},
    "rrhf": {"rrhf_weight": ("1", "10", "100"), **_OPTIMISER},
    "tdpo": {"beta": TAUS, "alpha": ("0.1", "0.5", "1"), **_OPTIMISER},
    "cringe": {"weight": ("0.3", "1", "3"), **_OPTIMISER},
    "pairwise_cringe": {"weight": ("0.3", "1", "3"), "temperature": ("1", "3", "10"), **_OPTIMISER},
    "sft": _OPTIMISER,
    "ppo_ptx": {"tau": TAUS, **_OPTIMISER},
    "slic": {"delta": ("0.3", "1", "3"), "lam": ("0.01", "0.1"), **_OPTIMISER},
}
"""Agent -> field -> values; a configuration of your own says `search: ClassVar[dict[str, tuple]]`."""


def search_space(agent: str) -> Mapping[str, Sequence[str]]:
    """Returns field -> values of an agent.

    Raises:
        ValueError: if it has none.
    """
    kind, _ = config_class("agent", agent)
    space = SEARCH.get(agent) or getattr(kind, "search", None)
    if not space:
        raise ValueError(
            f"agent '{agent}' does not say what may be tuned: give its configuration "
            f'`search: ClassVar[dict[str, tuple]] = {{"learning_rate": (0.01, 0.1)}}`, or the like'
        )
    return {name: [str(value) for value in values] for name, values in space.items()}


def trials(entrant: Entrant, count: int) -> list[tuple[str, ...]]:
    """Returns the options of an entrant's trials, its own alone first.

    Those of a smaller count are the first of a larger. Variants of one agent try the same values of what they do not
    set themselves.

    Raises:
        ValueError: if the agent does not say what may be tuned.
    """
    space = search_space(entrant.agent)
    found = [entrant.options]
    for number in range(1, count):
        key = Key(hash_seed("tune", entrant.agent), number, Stream.INIT)
        chosen = zip(space.items(), key.uniform(k=np.arange(len(space))), strict=True)
        words = [(f"--agent.{name}", values[int(u * len(values))]) for (name, values), u in chosen]
        free = [pair for pair in words if pair[0] not in entrant.options]
        found.append((*entrant.options, *(word for pair in free for word in pair)))
    return found


def tune(suite: Suite, agents: Sequence[str] | None, folder: Path, engine: Engine, count: int) -> str:
    """Tries settings, writes tuned.json; returns what was chosen, for people.

    Args:
        suite: whose held-out games are played.
        agents: whose settings are tried, see `by_default`; None: all that say what may be, and the variants.
        folder: of the file.
        engine: that plays.
        count: trials of each.

    Raises:
        ValueError: if an agent does not say what may be tuned, the suite not on what, or no trial ended well.
        OSError: if the file can't be written.
    """
    if count < 1:
        raise ValueError(f"--trials must be at least 1, got {count}")
    entrants = by_default([*SEARCH, *VARIANTS] if agents is None else agents)
    drawn = {
        one.label: [
            replace(one, label=f"{one.label} {i}", options=options) for i, options in enumerate(trials(one, count))
        ]
        for one in entrants
    }
    plan = suite.held_out([trial for tried in drawn.values() for trial in tried])
    failed = play(plan.cells, folder, engine, "tuning")
    found: dict[str, list[float]] = {trial.label: [] for trial in plan.entrants}
    results = gather(plan, folder)
    for cell in results["cells"]:
        found[cell["entrant"]].append(left(cell, gap_tags(results)[cell["game"]]))
    chosen = {}
    for label, tried in drawn.items():
        rows = [_trial(trial.options, found[trial.label], plan) for trial in tried]
        well = [row for row in rows if row["left"] is not None]
        if not well:
            raise ValueError(f"no trial of '{label}' ended well, see {folder / 'cells' / failed[0] / 'log.txt'}")
        chosen[label] = {**min(well, key=lambda row: row["left"]), "trials": rows}
    content = {"conditions": plan.conditions(), "made": circumstances(), "trials": count, "agents": chosen}
    write_whole(folder / "tuned.json", json.dumps(content, indent=1) + "\n")
    lines = [f"{label:>8}  left {one['left']:.3f}  {' '.join(one['options'])}" for label, one in chosen.items()]
    return "\n".join([*lines, f"Settings: {folder / 'tuned.json'}"])


def _trial(options: Sequence[str], found: Sequence[float], plan: Suite) -> dict[str, Any]:
    """Returns a setting and what it left of the gap; None where not all of its cells ended well."""
    whole = len(found) == len(plan.games) * plan.seeds
    return {"options": list(options), "left": interquartile_mean(np.array([found])).item() if whole else None}


def settings_of(agents: Sequence[str], path: Path) -> list[Entrant]:
    """Returns agents with the settings that were chosen for them, those that nobody tuned with their defaults.

    Args:
        agents: names, of variants too, or "module:Config".
        path: a file of `tune`, which need not be there.

    Raises:
        UnknownNameError: if there is no such agent.
        ValueError: if the file is none.
        OSError: if it can't be read.
    """
    chosen: Mapping[str, Any] = {}
    if path.exists():
        try:
            chosen = json.loads(path.read_text(encoding="utf-8"))["agents"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of --tune: {error}") from error
    found = by_default(agents)
    return [replace(one, options=tuple(chosen.get(one.label, {}).get("options", one.options))) for one in found]


def by_default(agents: Sequence[str]) -> list[Entrant]:
    """Returns agents with their default settings, variants with those that make them.

    Raises:
        UnknownNameError: if there is no such agent.
    """
    found = [Entrant(name, name.split()[0] if name in VARIANTS else name, VARIANTS.get(name, ())) for name in agents]
    for one in found:
        config_class("agent", one.agent)
    return found


def tuned_for(suite: str) -> Path:
    """Returns where the settings for a suite are, if they were published; `exploration` has those of `standard`."""
    return Path(str(PUBLISHED / f"{'standard' if suite == 'exploration' else suite}-tuned.json"))
