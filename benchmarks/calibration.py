"""Calibration of OELHF's preference model on text: `python -m benchmarks.calibration`.

OELHF plays the task chat for the shipped PairRM's verdicts ("played"), with its defaults and with other settings, and
its model predicts every verdict before it learns from it. "PairRM itself" predicts the verdicts of the runs with
defaults by the probabilities they were drawn from: it is calibrated, so that what it shows is noise. Other models then
learn the duels of these runs in the same order ("replayed"): they choose no duels. Printed: means over the last quarter
of the updates, over seeds with their standard error, and of runs the KL from the start and the held-out win rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.hf_policy import HFPolicy
from agents.preference_models.factory import ModelConfig
from agents.preference_models.metrics import foresight
from agents.preference_models.network import NetworkModel
from benchmarks.timing import machine
from oracles import payoff
from preference_duel.types import Duel
from runners.run.build import Experiment, build_experiment
from runners.run.cli import parse
from runners.run.loop import steps

TAGS = "log_loss", "accuracy", "overconfidence"


class Model(Protocol):
    """What predicts verdicts and learns from them."""

    def foresight(self, duel: Duel) -> dict[str, float]:
        """Returns how well the verdicts of a duel were predicted."""
        ...

    def add(self, duel: Duel) -> None:
        """Learns from the duel."""


@dataclass(frozen=True)
class Played:
    """A run: its duels, each with the model's prediction metrics, and at its end KL and held-out win rate."""

    experiment: Experiment
    duels: list[Duel]
    predictions: list[dict[str, float]]
    kl: float
    win_rate: float


class Ensemble:
    """The mean probability of networks that learn from other batches of the same duels."""

    def __init__(self, models: Sequence[NetworkModel]) -> None:
        self.models = models

    def foresight(self, duel: Duel) -> dict[str, float]:
        """Returns how well the mean probabilities predicted the verdicts."""
        asked = duel.comparisons
        prob = torch.stack([model.prob(duel.prompts, duel.left, duel.right) for model in self.models]).mean(0)
        return foresight(prob[asked], duel.prob[asked])

    def add(self, duel: Duel) -> None:
        """Lets every network learn."""
        for model in self.models:
            model.add(duel)


def model(policy: HFPolicy, seed: int, learning_rate: float = 1e-3, weight_decay: float = 0.01, **fields: int) -> Model:
    """Returns OELHF's model with other settings."""
    optimiser = OptimiserConfig("adamw", learning_rate, 0.9, weight_decay=weight_decay)
    return NetworkModel(policy, ModelConfig(**{"calibration": 0, **fields}, optimiser=optimiser), seed)


def head_alone(policy: HFPolicy, seed: int) -> Model:
    """Returns a model whose layers stay those of the start."""
    found = NetworkModel(policy, ModelConfig(calibration=0), seed)
    found.network.layers.requires_grad_(False)
    return found


def ensemble(policy: HFPolicy, seed: int) -> Model:
    """Returns four networks of other batches."""
    return Ensemble([NetworkModel(policy, ModelConfig(calibration=0), 1000 * seed + i) for i in range(4)])


PLAYED = {
    "defaults": "",
    "calibration 256": "--agent.model.calibration 256",
    "calibration 256, tau .03": "--agent.model.calibration 256 --agent.ipo.tau 0.03",
    "calibration 256, tau .02": "--agent.model.calibration 256 --agent.ipo.tau 0.02",
}
VARIATIONS: dict[str, Callable[[Any, int], Model]] = {
    "as played": model,
    "1 step a duel": lambda policy, seed: model(policy, seed, steps=1),
    "batches of 128": lambda policy, seed: model(policy, seed, batch_size=128),
    "learning rate 3e-4": lambda policy, seed: model(policy, seed, 3e-4),
    "learning rate 1e-4": lambda policy, seed: model(policy, seed, 1e-4),
    "weight decay 1": lambda policy, seed: model(policy, seed, weight_decay=1.0),
    "head alone": head_alone,
    "ensemble of 4": ensemble,
    "calibration 64": lambda policy, seed: model(policy, seed, calibration=64),
    "calibration 256": lambda policy, seed: model(policy, seed, calibration=256),
}


def play(seed: int, length: int, more: str) -> Played:
    """Plays a run of `length` updates with more options."""
    words = f"--agent oelhf --task chat --policy tiny --oracle pairrm --run.steps {length} --run.seed {seed} {more}"
    settings = parse(words.split()).settings
    experiment = build_experiment(settings, "cpu")
    duels, predictions, kl = [], [], 0.0
    for step in steps(experiment, replace(settings.run, eval_every=0)):
        duels.append(step.duel)
        scalars = step.scalars | {"model/log_loss": step.scalars["loss/policy"]}
        kl = scalars["policy/kl"]
        predictions.append({tag: scalars[f"model/{tag}"] for tag in TAGS})
    experiment.evaluation.pool = 0
    win_rate = experiment.evaluation.scalars(experiment.agent.policy)["eval/win_rate_vs_ref"]
    return Played(experiment, duels, predictions, kl, win_rate)


def replay(model: Model, duels: Sequence[Duel]) -> list[dict[str, float]]:
    """Returns a model's prediction metrics on each of some duels, before it learns from it."""
    found = []
    for duel in duels:
        found.append(model.foresight(duel))
        model.add(duel)
    return found


def noise(run: Played) -> list[dict[str, float]]:
    """Returns the prediction metrics of the probabilities that the verdicts were drawn from."""
    found = []
    for duel in run.duels:
        left, right = ([[one.text for one in row] for row in seat] for seat in (duel.left, duel.right))
        prob: Tensor = payoff(run.experiment.oracle, list(duel.prompts), left, right, duel.asked)
        found.append(foresight(prob[duel.comparisons], duel.prob[duel.comparisons]))
    return found


def late(predictions: Sequence[dict[str, float]]) -> list[float]:
    """Returns the mean of each metric over the last quarter of the updates."""
    last = predictions[-max(1, len(predictions) // 4) :]
    return [float(np.mean([one[tag] for one in last])) for tag in TAGS]


def row(name: str, seeds: Sequence[Sequence[float]]) -> list[str]:
    """Returns the cells of a row: each figure's mean over seeds, and its standard error if there are several."""
    values = np.array(seeds)
    if len(values) == 1:
        return [name, *(f"{one:.3f}" for one in values[0])]
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return [name, *(f"{mean:.3f} ± {one:.3f}" for mean, one in zip(values.mean(0), error, strict=True))]


def main() -> None:
    """Prints the table, each row also when it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="updates of a run (default: 50)")
    parser.add_argument("--played", nargs="*", default=list(PLAYED)[1:], choices=PLAYED, help="beside the defaults")
    parser.add_argument("--models", nargs="*", default=list(VARIATIONS), choices=VARIATIONS, help="that are replayed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", *(tag.replace("_", " ") for tag in TAGS), "KL", "win rate")

    def add(name: str, seeds: Sequence[Sequence[float]]) -> None:
        cells = row(name, seeds)
        table.add_row(*cells)
        print(*cells, sep=" | ", flush=True)

    plain: list[Played] = []
    for name in ("defaults", *options.played):
        played = [play(seed, options.steps, PLAYED[name]) for seed in range(options.seeds)]
        plain = plain or played
        add(f"played, {name}", [[*late(run.predictions), run.kl, run.win_rate] for run in played])
    add("PairRM itself", [late(noise(run)) for run in plain])
    for name in options.models:
        build = VARIATIONS[name]
        pairs = [(build(run.experiment.reference, seed), run.duels) for seed, run in enumerate(plain)]
        add(f"replayed, {name}", [late(replay(one, duels)) for one, duels in pairs])
    Console(width=150).print(table)
    print(machine())


if __name__ == "__main__":
    main()
