"""The model card of a run's policy: what judged, what was measured, and the command that repeats it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runners.run.checkpoint import steps
from runners.run.config_file import read_config
from runners.run.evaluator import POOL_PROMPTS
from runners.run.record import read_lines

SETTINGS = "preference_duel.json"
"""The run's settings, beside the model; `runners.duel --config` takes the file."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PASSWORD = re.compile(r"(?<=://)[^\s/@\"]+@")
"""A user's name or token in an address, which is not published."""
_WIN_RATE = "win rate against the start", "eval/win_rate_vs_ref", "eval/win_rate_low", "eval/win_rate_high"
_BOUND = "eval/exploitability_lower", "eval/exploitability_lower_low", "eval/exploitability_lower_high"
_EXACT = "exploitability, exact", "game/exploitability"
_TABLE = """| | before | after step {step} |
|---|---|---|
{rows}

The judge is the run's own oracle, `{oracle}`, on up to {prompts} held-out prompts; intervals are 95 % over prompts.
Exploitability is how often the best response to the policy wins, minus 1/2: 0 is an equilibrium."""
_LOWER = f"""
The lower bound is what the best of a pool of the start's responses wins, on up to {POOL_PROMPTS} of these prompts;
`python -m runners.exploit` tries stronger adversaries."""


@dataclass(frozen=True)
class SavedPolicy:
    """The last policy that a run saved.

    Attributes:
        folder: its transformers folder.
        step: updates made.
        config: config.json of the run.
        metrics: the lines of metrics.jsonl.
    """

    folder: Path
    step: int
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


def read_saved_policy(run: Path) -> SavedPolicy:
    """Returns what a run saved last.

    Raises:
        ValueError: if there is no run, no checkpoint, or its policy is no transformers folder.
    """
    config = read_config(run)
    if "names" not in config:
        raise ValueError(f"{run} is no run directory: its config.json has no names of parts")
    there = steps(run)
    if not there:
        raise ValueError(f"{run} has saved no checkpoint yet: there is no policy to publish")
    folder = run / f"step-{there[-1]}" / "policy"
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no transformers folder (--policy {config['names']['policy']}, --agent "
            f"{config['names']['agent']}), and the hub shows language models"
        )
    return SavedPolicy(folder, there[-1], config, read_lines(run / "metrics.jsonl"))


def settings_file(saved: SavedPolicy) -> str:
    """Returns the run's settings as JSON, without places on this machine and tokens in addresses."""
    kept = {name: value for name, value in saved.config.items() if name not in ("files", "command", "resumed")}
    kept["run"] = {name: value for name, value in kept["run"].items() if name != "dir"}
    return _PASSWORD.sub("", json.dumps(kept, indent=1, ensure_ascii=False)) + "\n"


def model_card(saved: SavedPolicy, title: str, base_model: str | None = None, license: str | None = None) -> str:
    """Returns the README.md of a policy's repository.

    Args:
        saved: the policy.
        title: of the card.
        base_model: hub id of what it was trained from; None: the run's policy if that is one.
        license: identifier of the hub; None: the card names none.
    """
    names, config = saved.config["names"], saved.config
    start = names["policy"]
    if base_model is None and _HUB_ID.fullmatch(start) and not Path(start).exists():
        base_model = start
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base_model,
        "license": license,
        "tags": ["preference-duel", *(names[part] for part in ("agent", "oracle") if ":" not in names[part])],
    }
    queries = next((line["duel/queries"] for line in reversed(saved.metrics) if "duel/queries" in line), None)
    asked = "" if queries is None else f" and {queries:,.0f} oracle queries"
    commands = [one["command"] for one in (config, *config.get("resumed", []))]
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return "\n".join(
        [
            "---",
            yaml.safe_dump({k: v for k, v in front.items() if v is not None}, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {title}",
            "",
            f"A language model that learned from preferences: agent `{names['agent']}`, oracle `{names['oracle']}`, "
            f"task `{names['task']}`, started from `{start}`, after {saved.step:,} updates{asked}.",
            "",
            "## Measures",
            "",
            _measures(saved),
            "",
            "## How it was made",
            "",
            "```",
            *(_PASSWORD.sub("", shlex.join(command)) for command in commands),
            "```",
            "",
            f"All settings are in `{SETTINGS}`: `python -m runners.duel --config {SETTINGS}` repeats the run.",
            f"Started {config['started']}, seed {config['run']['seed']}, on {config['device']}, {config['platform']}, "
            f"processes: {config['processes']}, commit: {config['git_commit'] or 'unknown'}.",
            f"Versions: {versions}.",
            "",
        ]
    )


def _measures(saved: SavedPolicy) -> str:
    """Returns the table of the first evaluation and that of the saved step."""
    lines = [line for line in saved.metrics if _WIN_RATE[1] in line]
    after = next((line for line in lines if line["step"] == saved.step), None)
    if after is None:
        return f"The run did not evaluate its policy at step {saved.step}."
    oracle, prompts = saved.config["names"]["oracle"], saved.config["run"]["eval_prompts"]
    table = _TABLE.format(step=saved.step, rows="\n".join(_rows(lines[0], after)), oracle=oracle, prompts=prompts)
    return table + (_LOWER if _BOUND[0] in after else "")


def _rows(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    for label, *tags in (_WIN_RATE, ("exploitability, at least", *_BOUND), _EXACT):
        if tags[0] in after:
            yield f"| {label} | {_figure(before, tags)} | {_figure(after, tags)} |"


def _figure(line: Mapping[str, float], tags: Sequence[str]) -> str:
    """Returns a value with its interval, if it has one."""
    if not all(tag in line for tag in tags):
        return f"{line[tags[0]]:.3f}" if tags[0] in line else ""
    value, *interval = (line[tag] for tag in tags)
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
