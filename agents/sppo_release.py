"""Choices of the released SPPO code where it departs from Algorithm 1 of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from agents import losses
from agents.learning.batch import Batch
from preference_duel.checks import one_of, require

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.types import Duel

Pairs = Literal["all", "best_worst"]
Normaliser = Literal["half", "log_z"]


@dataclass(frozen=True)
class ReleaseOptions:
    """Settings of SPPO whose defaults are Algorithm 1 of Wu et al. 2024 (arXiv:2405.00675)."""

    pairs: Pairs = "all"
    """Samples that are learned from: all (the paper's expectation), or best and worst of K (its released code)."""

    normaliser: Normaliser = "half"
    """Value of the update's log Z: half, eta/2 (the paper's Algorithm 1), or log_z, its estimate from the samples."""

    bradley_terry_projection: bool = False
    """Give each response one score before the comparison, as the released code does: a cyclic oracle then shows no
    signal. Needs feedback="probability"."""

    def __post_init__(self) -> None:
        """Raises if a value is unknown."""
        require(self, pairs=one_of(Pairs), normaliser=one_of(Normaliser))

    def project(self, duel: Duel) -> Tensor:
        """Returns [B, K, L] P(left beats right), projected onto Bradley-Terry scores if asked for.

        Raises:
            ValueError: if the projection is asked for and the duel holds outcomes, or lacks a pair.
        """
        if not self.bradley_terry_projection:
            return duel.prob
        if not (duel.exact or duel.known.all()):
            raise ValueError(
                "bradley_terry_projection averages over all pairs, and some are unread: take another judge, or leave "
                "the projection off"
            )
        if duel.feedback != "probability":
            raise ValueError(
                "bradley_terry_projection takes logits of probabilities, and outcomes have none; "
                "play with feedback='probability', or leave the projection off"
            )
        return losses.bradley_terry(duel.prob, duel.left_weight)

    def apply(self, batch: Batch, eta: float) -> Batch:
        """Adds log Z [B] and selects the samples; `batch` holds win_rate, log_old and weight, [B, K] each."""
        values, win_rate = dict(batch.values), batch["win_rate"]
        if self.normaliser == "log_z":
            values["log_z"] = losses.log_partition(win_rate, eta, batch["weight"])  # [B]
        if self.pairs == "all":
            return Batch(batch.prompts, batch.responses, values)
        columns = losses.best_and_worst(win_rate, batch["weight"] > 0)  # [B, 2]
        responses = [[row[k] for k in chosen] for row, chosen in zip(batch.responses, columns.tolist(), strict=True)]
        kept = {name: batch[name] for name in ("win_rate", "log_old")}  # one of the duel, one of the policy's device
        values |= {name: value.gather(1, columns.to(value.device)) for name, value in kept.items()}
        values["weight"] = torch.full_like(values["log_old"], 0.5)
        return Batch(batch.prompts, responses, values)
