"""Controllers of a KL coefficient, which hold the policy at a given distance from its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preference_duel.checks import one_of, positive, require

Form = Literal["ziegler", "schulman"]


@dataclass(frozen=True)
class KLControlConfig:
    """Settings of a controller of the KL coefficient."""

    target: float | None = None
    """KL(policy || start) that is held, nats of a whole response, > 0; None: tau stays (Ziegler et al. take 6)."""

    form: Literal["ziegler", "schulman"] = "ziegler"
    """ziegler: tau grows by clip(KL / target - 1, -.2, .2) times the step's samples / `horizon` (Ziegler et al. 2019,
    arXiv:1909.08593, equation 8). schulman: it doubles if KL > 1.5 target, and is halved if KL < target / 1.5 (Schulman
    et al. 2017, arXiv:1707.06347, Section 4), which holds KL inside that band."""

    horizon: float = 10_000.0
    """ziegler: samples in which tau can grow by a fifth, > 0."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, target=positive.or_none(), form=one_of(Form), horizon=positive)

    def next(self, tau: float, kl: float, samples: int) -> float:
        """Returns the coefficient of the next step.

        Args:
            tau: the one of this step.
            kl: KL(policy || start) before it, nats.
            samples: that it learned from.
        """
        if self.target is None:
            return tau
        if self.form == "schulman":
            return tau * 2 if kl > 1.5 * self.target else tau / 2 if kl < self.target / 1.5 else tau
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return tau * max(1 + error * samples / self.horizon, 0.1)
