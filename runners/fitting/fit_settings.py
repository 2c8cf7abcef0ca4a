"""The settings of `runners.fit_oracle`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from envs.votes.options import ReadOptions


@dataclass(frozen=True)
class FitConfig:
    """Trains an oracle on comparisons and saves a checkpoint that `runners.duel --oracle` loads."""

    kind: Literal["bt", "pairrm", "gpm"]
    """bt: one reward for each response, no cycles. gpm: a reward and an embedding that can express cycles. pairrm: a
    cross-encoder that reads both responses."""
    data: str
    """Comparisons: a file of JSON lines, a JSON array, CSV or Parquet, or a dataset's directory, in a public
    format or one of your own (docs/data.md); a run's duels.jsonl is one."""
    reading: Annotated[ReadOptions, tyro.conf.arg(name="data")] = field(default_factory=ReadOptions)
    out: Path | None = None
    """Where the checkpoint is written, a new directory; None: runs/oracle-KIND-TIME."""
    base: str | None = None
    """Where the weights start, a directory or hub id. bt and gpm: any transformers encoder or decoder, its head made
    anew; pairrm: a PairRM. None: the shipped `tiny`, the shipped PairRM."""
    planes: int = 3
    """gpm: k, cycles that the embedding has room for, >= 1."""
    margin: float = 0.0
    """bt: multiple of each row's own margin (docs/data.md) by which the preferred response is to lead, >= 0; 1 with
    HelpSteer's strengths is Llama 2's loss (arXiv:2307.09288, equation 2). Every row must have one."""
    centring: float = 0.0
    """bt: weight of the squared sum of both rewards, >= 0, which centres rewards at 0; the published one is 0.01
    (arXiv:2312.09244)."""
    epochs: int = 3
    """Times that each comparison is learned from, >= 1."""
    batches: Literal["comparisons", "lists"] = "comparisons"
    """What a batch counts: comparisons, each alone; or lists, all comparisons of a row of rankings or scores together,
    whose responses are read once and which count as one (arXiv:2203.02155, equation 1). lists is for bt and gpm."""
    batch_size: int = 32
    """Comparisons or lists per step, >= 1."""
    learning_rate: float | None = None
    """Peak of AdamW's, > 0; None: 5e-4 for the shipped networks, 1e-5 for a `base` (PairRM's own)."""
    held_out: float = 0.1
    """Share of the prompts whose comparisons measure the result, in (0, 1); of the different comparisons where all are
    about fewer than 10 prompts."""
    seed: int = 0
    """Names what is held out, the order of the rest, and a new head's weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto: cuda where there is one."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        for name in ("planes", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("margin", "centring"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name):g}")
            if getattr(self, name) and self.kind != "bt":
                raise ValueError(f"{name} is of one reward for each response, kind 'bt'; '{self.kind}' has none alone")
        if self.batches == "lists" and self.kind == "pairrm":
            raise ValueError("batches='lists' reads each response once, and pairrm reads them in pairs; take bt or gpm")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out:g}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate:g}")
