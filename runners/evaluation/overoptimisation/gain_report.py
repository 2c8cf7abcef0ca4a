"""The measurement of `runners.overoptimise`: runs pooled into one curve, as a table, a picture and a JSON file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from envs.votes.rows import warn_of_skipped
from envs.votes.thumbs import load_demonstrations
from oracles.bradley_terry import BradleyTerryConfig
from preference_duel.keyed_random import hash_seed
from preference_duel.protocols import attended, leaves_unread
from preference_duel.types import Completion
from runners.evaluation.judges import Judge, own_judges, read_judge
from runners.evaluation.overoptimisation.gain_curves import Corpus, GainCurve, Point, gain_curve
from runners.evaluation.overoptimisation.gain_picture import draw
from runners.evaluation.overoptimisation.pooled_points import PooledCurve, pooled
from runners.evaluation.overoptimisation.turning_point import interval, rounded
from runners.evaluation.saved_runs import SavedRun, read_saved_runs
from runners.run.build import build_oracle, choose_device, tau_of
from runners.run.config import fields_of
from runners.run.evaluator import Evaluation
from runners.run.record import write_whole

SHOWN = 12
"""Checkpoints in the table at most, the start among them; the JSON file has all."""
POOL = 16
"""Responses of the start per prompt in the lower bound of the exploitability on free text."""


def overoptimise(options: argparse.Namespace) -> None:
    """Measures the checkpoints of runs, prints the table, and writes the picture and the JSON file.

    Raises:
        ValueError: if a run is named twice, has no checkpoint or no reward of its own, or the runs share no step.
        UnknownNameError: if the gold oracle is unknown.
        OSError: if a file can't be read or written.
    """
    device = choose_device(options.device)
    if len({path.resolve() for path in options.runs}) < len(options.runs):
        raise ValueError("a run is named twice: intervals over runs need different ones")
    runs = read_saved_runs(options.runs, device)
    gold = read_judge(options.gold, runs[0].experiment.task, device)
    if leaves_unread(gold.oracle):
        raise ValueError(f"{gold.label} may leave pairs unread, whose reward is unknown; pass unread=stop")
    proxies = proxies_of(runs, gold)
    tests = unseen_rewards(options.test_reward, runs, device)
    corpus = None if options.corpus is None else read_corpus(options.corpus, runs[0])
    curves = []
    for run, proxy, test in zip(runs, proxies, tests, strict=True):
        evaluation = Evaluation(
            run.experiment.task,
            gold.oracle,
            run.experiment.reference,
            options.prompts,
            options.draws,
            hash_seed(options.seed, "overoptimise"),
            tau_of(run.settings),
        )
        evaluation.pool = POOL
        judges = {"proxy": proxy, "gold": gold, **({} if test is None else {"test": test})}
        curves.append(gain_curve(run, evaluation, judges, corpus))
    curve = pooled(curves)
    exact = runs[0].experiment.task.responses is not None
    show(curve, gold, exact)
    picture = options.picture or options.runs[0] / "overoptimisation.png"
    draw(curve, exact, picture)
    print(picture)
    if options.json is not None:
        write_whole(options.json, json.dumps(content(curves, curve, gold), indent=1) + "\n")
        print(options.json)


def proxies_of(runs: Sequence[SavedRun], gold: Judge) -> list[Judge]:
    """Returns what each run maximised: its oracle.

    Raises:
        ValueError: if that is people, leaves pairs unread or is the gold oracle itself, or the run learned from a file.
    """
    judges, places = own_judges(runs)
    for run, place in zip(runs, places, strict=True):
        if run.settings.run.data is not None:
            raise ValueError(
                f"{run.directory} has no learned reward: it learned from {run.settings.run.data}, and its oracle only "
                f"measured it; take a run of ppo_ptx, grpo or another agent that learns from its own samples"
            )
        if attended(judges[place].oracle) is not None:
            raise ValueError(f"{run.directory} has no learned reward: people judged it; fit one: runners.fit_oracle")
        if leaves_unread(judges[place].oracle):
            raise ValueError(f"{run.directory}: its oracle may leave pairs unread, whose reward is unknown")
        if judges[place].fields == gold.fields:
            raise ValueError(
                f"{run.directory} has no learned reward: it was judged by {gold.label}, the gold oracle itself; take a "
                f"run with --oracle bt --oracle.model FOLDER of runners.fit_oracle (docs/overoptimisation.md)"
            )
    return [judges[place] for place in places]


def unseen_rewards(folders: Sequence[str] | None, runs: Sequence[SavedRun], device: str) -> list[Judge | None]:
    """Returns the reward model that each run was not trained on; one folder may be for all.

    Raises:
        ValueError: if there are neither one nor as many folders as runs, or one is no reward model.
    """
    if not folders:
        return [None] * len(runs)
    if len(folders) not in (1, len(runs)):
        raise ValueError(f"expected one --test-reward, or one for each of {len(runs)} runs, got {len(folders)}")
    task = runs[0].experiment.task
    configs = [BradleyTerryConfig(folder) for folder in folders]
    judges = [Judge(one.model or "", build_oracle(one, task, device), fields_of(one)) for one in configs]
    return [*judges] * (len(runs) // len(judges))


def read_corpus(path: str, run: SavedRun) -> Corpus:
    """Returns the demonstrations of a file.

    Raises:
        ValueError: if it has none, or, with its place, if the policy can't write one.
        OSError: if it can't be read.
    """
    rows, reading = load_demonstrations(path)
    warn_of_skipped(reading)
    for one in rows:
        try:
            run.experiment.reference.require_prompt(one.prompt)
            run.experiment.reference.require_response(Completion(one.response))
        except ValueError as error:
            raise ValueError(f"{one.place}: {error}") from error
    return Corpus([one.prompt for one in rows], [[Completion(one.response)] for one in rows])


def sentence(curve: PooledCurve, gold: Judge) -> str:
    """Returns the answer in words: at which KL the gold reward turns, if it does, and the exploitability."""
    top, start, last = curve.checkpoints[curve.turn.place], curve.checkpoints[0], curve.checkpoints[-1]
    until = f"KL {rounded(last.kl.mean())}"
    if curve.turn.turns:
        heights = f"{rounded(top.reward['gold'].mean())} there, {rounded(last.reward['gold'].mean())} at {until}"
        words = (
            f"The gold reward turns at KL {curve.turn.kl} nats ({top.name}): {heights}, a fall of {curve.turn.fall}."
        )
    else:
        fall = f"from its highest checkpoint to the last it falls by {curve.turn.fall}"
        words = f"The gold reward is not seen to turn up to {until} nats: {fall}."
    before, after = (rounded(one.reward["proxy"].mean()) for one in (start, last))
    words += f" The proxy's goes from {before} to {after}."
    if (least := curve.least_exploitable) is not None:
        place = curve.checkpoints[least.place].name
        words += f" Exploitability is least at KL {least.kl} ({place}), and rises by {least.fall} from there."
    return f"{words} Gold: {gold.label}."


def shown(count: int, top: int) -> list[int]:
    """Returns `SHOWN` places of so many at most, evenly, the first, the highest and the last among them."""
    even = np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int).tolist()
    if top not in even:
        even[min(range(1, len(even) - 1), key=lambda i: abs(even[i] - top))] = top
    return even


def show(curve: PooledCurve, gold: Judge, exact: bool) -> None:
    """Prints the answer in words and the table, at most 25 lines."""
    console = Console(width=140, highlight=False)
    console.print(sentence(curve, gold), markup=False)
    start = curve.checkpoints[0]
    tested, taxed = "test" in start.reward, start.log_loss is not None
    exploited = "exploitability" if exact else "exploitable by"
    columns = ["policy", "KL", "proxy reward", "/ sqrt(2 Var KL)", "gold reward", "gold win rate", exploited]
    columns += ["test reward"] * tested + ["log loss"] * taxed
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for one in [*(curve.checkpoints[i] for i in shown(len(curve.checkpoints), curve.turn.place)), *curve.best_of]:
        gains = [rounded(one.kl.mean()), rounded(one.reward["proxy"].mean()), _number(one.ratio)]
        golds = [str(interval(one.reward["gold"])), str(interval(one.win_rate["gold"], 0, 1))]
        exploitable = "" if one.exploitability is None else f"{one.exploitability.mean():.3f}"
        more = [rounded(values.mean()) for judge, values in one.reward.items() if judge == "test"]
        more += [_number(one.log_loss)] * taxed
        table.add_row(one.name, *gains, *golds, exploitable, *more)
    console.print(table)
    sampled = "" if exact else " The KL of best-of-n is its bound, the exploitability a lower bound."
    units = f"{len(start.kl)} {curve.unit}"
    console.print(f"Rewards: mean log odds against the start, nats. Intervals: 95 %, over {units}.{sampled}")


def _number(value: float | None) -> str:
    return "" if value is None else rounded(value)


def content(curves: Sequence[GainCurve], curve: PooledCurve, gold: Judge) -> dict[str, Any]:
    """Returns what was measured as JSON values: the turning point, and each run's points as means over prompts."""
    return {
        "gold": gold.fields,
        "intervals_over": curve.unit,
        "turns": curve.turn.turns,
        "turning_at": curve.checkpoints[curve.turn.place].name,
        "turning_kl": asdict(curve.turn.kl),
        "fall": asdict(curve.turn.fall),
        "least_exploitable": None if curve.least_exploitable is None else asdict(curve.least_exploitable),
        "runs": [
            {
                "directory": str(one.directory),
                "proxy": one.proxy.fields,
                "proxy_variance": one.variance.mean().item(),
                "checkpoints": [_values(point) for point in one.checkpoints],
                "best_of": [_values(point) for point in one.best_of],
            }
            for one in curves
        ],
    }


def _values(one: Point) -> dict[str, Any]:
    return {
        "name": one.name,
        "kl": one.kl.mean().item(),
        "reward": {judge: values.mean().item() for judge, values in one.reward.items()},
        "win_rate": {judge: values.mean().item() for judge, values in one.win_rate.items()},
        "exploitability": None if one.exploitability is None else asdict(one.exploitability),
        "log_loss": one.log_loss,
    }
