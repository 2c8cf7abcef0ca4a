"""Fitting of an oracle to comparisons: training, held-out measures, checkpoint and card."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.losses import reward_model
from agents.policies.lm.loading import quiet
from envs.offline import Preference, load_preferences
from oracles import Oracle
from preference_duel.chat import UnreadablePromptError
from preference_duel.keyed_random import Key, Stream, hash_seed
from runners.fitting.fit_settings import FitConfig
from runners.fitting.supervised import descend
from runners.fitting.trainable import ReadsAlone, TrainableOracle, trainable_oracle
from runners.run.build import choose_device
from runners.run.evaluator import over_prompts
from runners.run.event_file import EventFile

SHOWN = "eval/accuracy", "eval/log_loss", "eval/calibration_error"
"""Of every epoch's measures, what is printed."""
FEW_PROMPTS = 10
"""Of fewer prompts, single comparisons are held out."""
BINS = 5
"""Of confidence, from 1/2 to 1, in the calibration."""
CARD = """\
# An oracle fitted by `{command}`

{kind}, {parameters:,} parameters, {epochs} epochs over {learned} comparisons; {held} others were held out:

```
{table}
```

Judge with it: `python -m runners.duel {flags}`
"""


@dataclass(frozen=True)
class Fit:
    """Accuracy and calibration of an oracle on comparisons, by the response of each pair that it prefers.

    Attributes:
        scalars: by tag: eval/accuracy, the mean over prompts, with the ends of its 95 % interval, eval/log_loss (nats),
            eval/brier, eval/calibration_error.
        bins: (comparisons, mean confidence, share that was right) for each of BINS.
    """

    scalars: dict[str, float]
    bins: list[tuple[int, float, float]]

    def table(self) -> str:
        """Returns it for people."""
        s = self.scalars
        ends = f" [{s['eval/accuracy_low']:.3f}, {s['eval/accuracy_high']:.3f}]" if "eval/accuracy_low" in s else ""
        lines = [
            f"accuracy {s['eval/accuracy']:.3f}{ends}",
            f"log loss {s['eval/log_loss']:.3f} nats (ln 2 = .693 knows nothing)",
            f"Brier score {s['eval/brier']:.3f}, calibration error {s['eval/calibration_error']:.3f}",
            "confidence   comparisons   said    right",
        ]
        for i, (count, said, right) in enumerate(self.bins):
            low = 0.5 + 0.5 * i / BINS
            figures = f"{said:.3f}   {right:.3f}" if count else "  -       -"
            lines.append(f"{low:.1f} - {low + 0.5 / BINS:.1f} {count:14}   {figures}")
        return "\n".join(lines)


def measure(oracle: Oracle, asked: Sequence[Preference]) -> Fit:
    """Compares an oracle's answers with what people said; an oracle that is undecided is right half the time."""
    prob = oracle.prob([x.prompt for x in asked], [x.first for x in asked], [x.second for x in asked]).double()
    outcome = torch.tensor([one.outcome for one in asked], dtype=torch.float64)
    said = torch.maximum(prob, 1 - prob)
    right = torch.where(prob > 0.5, outcome, torch.where(prob < 0.5, 1 - outcome, 0.5))
    place = ((said - 0.5) * 2 * BINS).long().clamp(0, BINS - 1)
    bins = [
        (int(inside.sum()), _mean(said[inside]), _mean(right[inside])) for inside in (place == i for i in range(BINS))
    ]
    safe = prob.clamp(1e-12, 1 - 1e-12)
    rows: dict[str, list[float]] = {}
    for one, value in zip(asked, right.tolist(), strict=True):
        rows.setdefault(one.prompt, []).append(value)
    spread = over_prompts(torch.tensor([sum(values) / len(values) for values in rows.values()]))
    scalars = {
        "eval/accuracy": spread.mean,
        "eval/log_loss": -(outcome * safe.log() + (1 - outcome) * (1 - safe).log()).mean().item(),
        "eval/brier": (prob - outcome).square().mean().item(),
        "eval/calibration_error": sum(n * abs(a - b) for n, a, b in bins if n) / len(asked),
    }
    if spread.low is not None and spread.high is not None:
        scalars |= {"eval/accuracy_low": spread.low, "eval/accuracy_high": spread.high}
    return Fit(scalars, bins)


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else math.nan


def split(preferences: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Returns what is learned from and what is held out: whole prompts, or comparisons if there are few prompts.

    What was asked more than once (the same prompt and pair, in either order, whatever its case and spaces) is on one
    side: the other would be measured on what it has learned.

    Raises:
        ValueError: if either would be empty.
    """
    prompts = [_plain(one.prompt) for one in preferences]
    units: Sequence[Hashable] = prompts
    if len(set(prompts)) < FEW_PROMPTS:
        units = [(prompt, _pair(one)) for prompt, one in zip(prompts, preferences, strict=True)]
        distinct: Sequence[Hashable] = list(dict.fromkeys(units))
    else:
        written = {_plain(one.prompt): str(one.prompt) for one in reversed(preferences)}
        distinct = sorted(written, key=written.__getitem__)
    drawn = Key(hash_seed(seed, "held out"), 0, Stream.PROMPT).uniform(k=np.arange(len(distinct)))
    count = math.ceil(share * len(distinct))
    chosen = {distinct[i] for i in np.argsort(drawn, kind="stable")[:count]}
    learned = [one for one, unit in zip(preferences, units, strict=True) if unit not in chosen]
    held = [one for one, unit in zip(preferences, units, strict=True) if unit in chosen]
    if not learned or not held:
        raise ValueError(
            f"{len(preferences)} comparisons, {len(distinct)} of them different, are too few to hold out {share:g} of "
            f"them and learn from the rest"
        )
    return learned, held


def _pair(one: Preference) -> frozenset[str]:
    return frozenset((_plain(one.first), _plain(one.second)))


def _plain(text: str) -> str:
    """Returns a text without case and with single spaces, as which it tells nothing new."""
    return " ".join(text.split()).casefold()


def _comparisons(config: FitConfig) -> tuple[list[Preference], list[Preference]]:
    """Reads and splits the file, and prints what was read."""
    preferences, reading = load_preferences(config.data, config.reading, margins=config.margin > 0)
    print(reading, flush=True)
    if config.margin and (bare := next((one for one in preferences if one.margin is None), None)) is not None:
        raise ValueError(
            f"{bare.place}: has no margin for margin={config.margin:g} to multiply: a field 'margin' at least 0, "
            f"HelpSteer's strength, or two scores (docs/data.md); leave margin at 0, or write the field"
        )
    return split(preferences, config.held_out, config.seed)


def _trainable(config: FitConfig, asked: Sequence[Preference]) -> TrainableOracle:
    """Builds what is trained, after checking that it reads every prompt."""
    places = {one.prompt: one.place for one in reversed(asked)}
    device = choose_device(config.device)
    try:
        return trainable_oracle(config.kind, config.base, config.planes, device, config.seed, list(places))
    except UnreadablePromptError as error:
        raise error.at(places[error.prompt]) from error


def list_loss(
    model: TrainableOracle,
    lists: Sequence[Sequence[Preference]],
    key: Key,
    margin: float = 0.0,
    centring: float = 0.0,
) -> Tensor:
    """Returns the mean over lists of the mean loss of each one's comparisons, nats, differentiable.

    The log loss of the verdicts; with a margin or centring that of `reward_model`, which is of one reward for
    each response.
    """
    asked = [one for comparisons in lists for one in comparisons]
    weight = torch.tensor([1 / len(comparisons) for comparisons in lists for _ in comparisons])
    outcome = torch.tensor([one.outcome for one in asked])
    if not (margin or centring):
        logits = model.logits(asked, key)
        whole = binary_cross_entropy_with_logits(logits, outcome.to(logits), weight.to(logits), reduction="sum")
        return whole / len(lists)
    assert isinstance(model, ReadsAlone)  # FitConfig's check
    first, second = (rows[:, 0, 0] for rows in model.rows(asked))
    margins = margin * torch.tensor([one.margin or 0.0 for one in asked]).to(first)
    each = reward_model(first, second, outcome.to(first), margins, centring)
    return (weight.to(first) * each).sum() / len(lists)


def _lists(preferences: Sequence[Preference]) -> list[list[Preference]]:
    """Returns the comparisons of each row of a file."""
    rows: dict[str, list[Preference]] = {}
    for one in preferences:
        rows.setdefault(one.place, []).append(one)
    return list(rows.values())


def fit(config: FitConfig, out: Path, command: str) -> Fit:
    """Trains, measures after every epoch, and writes the checkpoint, its card, and the curves.

    Raises:
        ValueError: if the data or the base are of no use.
        OSError: if a file cannot be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is never overwritten; choose another --out")
    learned, held = _comparisons(config)
    model = _trainable(config, (*learned, *held))
    lists = _lists(learned) if config.batches == "lists" else [[one] for one in learned]
    steps_per_epoch = math.ceil(len(lists) / config.batch_size)
    counted = f"{len(learned)} comparisons" + (f" in {len(lists)} lists" if config.batches == "lists" else "")
    print(f"{config.kind}: {counted} to learn from, {len(held)} held out; {out}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    events = EventFile(out)

    @lru_cache(maxsize=1)
    def order_of(epoch: int) -> list[int]:
        uniforms = Key(hash_seed(config.seed, "epoch"), epoch, Stream.PROMPT).uniform(k=np.arange(len(lists)))
        return np.argsort(uniforms).tolist()

    def loss_at(step: int) -> Tensor:
        epoch, place = divmod(step, steps_per_epoch)
        batch = [lists[i] for i in order_of(epoch)[place * config.batch_size :][: config.batch_size]]
        return list_loss(model, batch, Key(hash_seed(config.seed, "order"), step), config.margin, config.centring)

    def after(losses: Sequence[float]) -> None:
        step = len(losses)
        events.scalars(step, time.time(), {f"loss/{config.kind}": losses[-1]})
        if step % steps_per_epoch == 0:
            model.network.eval()
            quality = measure(model.oracle, held)
            model.network.train()
            events.scalars(step, time.time(), quality.scalars)
            figures = "  ".join(f"{tag.removeprefix('eval/')} {quality.scalars[tag]:.3f}" for tag in SHOWN)
            print(f"epoch {step // steps_per_epoch}/{config.epochs}  {figures}", flush=True)

    rate = config.learning_rate or (5e-4 if config.base is None else 1e-5)
    try:
        descend(model.network, loss_at, config.epochs * steps_per_epoch, rate, after)
    finally:
        events.close()
    result = measure(model.oracle, held)
    with quiet():
        flags = model.save(out)
    (out / "fit.json").write_text(json.dumps(result.scalars, indent=1) + "\n", encoding="utf-8")
    card = CARD.format(
        command=command,
        kind=config.kind,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        epochs=config.epochs,
        learned=len(learned),
        held=len(held),
        table=result.table(),
        flags=flags,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    print(f"{result.table()}\nJudge with it: python -m runners.duel {flags}", flush=True)
    return result
