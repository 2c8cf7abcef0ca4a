"""Nash mirror descent: plays against a mixture of itself and the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agents.learning.learning_agent import LearningAgent
from agents.learning.nash_steps import gradient_step, left_logprob, mirror_step
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, one_of, positive, require, within
from preference_duel.keyed_random import Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy

Form = Literal["gradient", "mirror"]


@dataclass(frozen=True)
class NashMDConfig:
    """Nash mirror descent (Munos et al. 2023, arXiv:2312.00886)."""

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's summarisation takes 0.008."""
    mixture: float = 0.125
    """Share b of the start in the opponent pi^(1-b) ref^b, in (0, 1]; the paper takes 0.125. In the mirror form it is
    also the step, b = eta tau."""
    form: Literal["gradient", "mirror"] = "gradient"
    """gradient: the paper's practice, a policy gradient on P(y beats y') - 1/2 - tau log pi/ref with y of the policy
    and y' of the opponent. mirror: the paper's algorithm, a regression onto the opponent's distribution times
    exp(eta P(. beats the opponent)), both seats the opponent's."""
    anneal: bool = False
    """In the mirror form: the share is 2/(t + 2) in update t = 1, 2, ... instead of `mixture`. A constant one ends a
    little beside the equilibrium."""
    responses: int = 4
    """Draws per prompt, K >= 1, of each seat; each left one meets one right one. Mirror form: K >= 2 draws of the
    opponent, each pair asked once. Ignored if the policy is exact."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        least = 2 if self.form == "mirror" else 1
        require(self, tau=positive, mixture=within("(0, 1]"), form=one_of(Form), responses=at_least(least))
        if self.anneal and self.form == "gradient":
            raise ValueError("anneal belongs to form='mirror'; leave it out")

    def build(self, *, policy: Policy, seed: int = 0) -> NashMD:
        """Builds the agent around the policy that it trains."""
        return NashMD(self, policy, seed)


class NashMD(LearningAgent):
    """Moves the policy to beat the opponent pi^(1-b) ref^b; ref is the start (`reference`)."""

    def __init__(self, config: NashMDConfig, policy: Policy, seed: int) -> None:
        self.config, self.reference = config, policy.snapshot()
        self.own_draws = config.form == "gradient"
        super().__init__(policy, config.optimiser, seed, average=config.average, reference=self.reference)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the policy against K of the opponent, or of the opponent alone in the mirror form."""
        config, opponent = self.config, self.mixed(self.reference, self._share)
        if config.form == "gradient":
            return self.against(opponent, prompts, config.responses)
        return self.self_play(opponent, prompts, config.responses, Stream.OPPONENT)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes one step.

        Raises:
            ValueError: if the duel's seats are not those of the form, or the policy could not have drawn a response.
        """
        self.include_in_average(self.policy)
        tau = self.config.tau
        if self.config.form == "gradient":
            return gradient_step(self.learner, self.reference, duel, tau)
        log_policy, log_reference = left_logprob(duel, self.policy, self.reference)
        return mirror_step(self.learner, duel, log_policy, log_reference, self._share / tau, tau)

    @property
    def _share(self) -> float:
        """The start's share in the opponent."""
        return 2 / (self.learner.updates + 3) if self.config.anneal else self.config.mixture
