"""The command line of `runners.evaluate` as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

START, LAST, AVERAGE, BEAM = "start", "last", "average", "beam"


@dataclass(frozen=True)
class Options:
    """The arguments of `runners.evaluate`.

    Attributes:
        runs: run directories.
        oracles: oracles that judge, NAME[,FIELD=VALUE...]; none: each run's own.
        tau: KL coefficient of the regularised game; None: each run's own.
        policy: the policy of each run in the cross-play.
        decode: "beam" to measure, beside each run's policies, beam search by its last one; None: samples alone.
        width: beginnings that stay in its beam; None: 5.
        tokens: prompts to which the credit of each token of a sample is shown; 0: none.
        prompts: held-out prompts at most.
        pairs: samples for each prompt if the task is not finite.
        seed: random seed of these samples.
        device: device of networks.
        out: folder for evaluation.json and the pictures; None: RUN/evaluation, or evaluations/TIME for several runs.
    """

    runs: tuple[Path, ...]
    oracles: tuple[str, ...] = ()
    tau: float | None = None
    policy: str = LAST
    decode: str | None = None
    width: int | None = None
    tokens: int = 0
    prompts: int = 128
    pairs: int = 4
    seed: int = 0
    device: str = "auto"
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("prompts", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.width is not None and (self.decode is None or self.width < 1):
            raise ValueError(f"--width is at least 1, and goes with --decode beam; got {self.width}")
        if self.tokens < 0:
            raise ValueError(f"--tokens must be at least 1, or left out, got {self.tokens}")
        if self.tau is not None and not 0 < self.tau < math.inf:
            raise ValueError(f"--tau must be positive, got {self.tau:g}")
        if len(set(map(Path.resolve, self.runs))) < len(self.runs):
            raise ValueError("a run is named twice")
