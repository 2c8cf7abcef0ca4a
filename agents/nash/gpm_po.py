"""General preference optimisation: regresses log-ratios onto the scores of a general preference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents import losses
from agents.learning.batch import Batch
from agents.learning.learning_agent import LearningAgent
from agents.optim.optimiser import OptimiserConfig
from agents.preference_models.factory import ModelConfig, model_of, predict_and_score
from preference_duel.checks import at_least, positive, require
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class GPMPOConfig:
    """GPO of the general preference model (Zhang et al. 2024, arXiv:2410.02197); `gpo` is another paper's."""

    beta: float = 1.0
    """KL coefficient around pi_t, > 0: a step of multiplicative weights by 1 / beta on log odds (the code's 0.001)."""
    responses: int = 4
    """Samples per prompt from pi_t, K >= 2, each pair compared once (the paper's 5). Ignored if the policy is exact."""
    refresh_every: int = 1
    """Updates between renewals of pi_t, which samples and is played against, >= 1."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The preference model of a language model; a table counts wins."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T, which is what converges on cyclic games; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, beta=positive, responses=at_least(2), refresh_every=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> GPMPO:
        """Builds the agent around the policy that it trains."""
        return GPMPO(self, policy, seed)


class GPMPO(LearningAgent):
    """Plays samples of a frozen pi_t (`opponent`); a solved step is pi_t exp(s(. > pi_t) / beta) / Z, s by `model`."""

    def __init__(self, config: GPMPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.opponent = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, opponent=self.opponent)
        self.model = model_of(policy, config.model, seed)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of pi_t for both seats, or its whole distribution if it is exact."""
        return self.self_play(self.opponent, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Adds the duel to the model, and regresses the policy onto the model's scores of the left seat's samples.

        Raises:
            ValueError: if there is one sample, or the policy could not have sampled a response.
        """
        step, weight = 1 / self.config.beta, duel.left_weight  # [B, K]
        self.include_in_average(self.policy, self.config.refresh_every)
        scalars = predict_and_score(self.model, duel, "loss/model")
        self.model.add(duel)
        odds = self.model.prob(duel.prompts, duel.left, duel.left).logit(eps=1e-6)  # [B, K, K]
        score = losses.win_rate(odds, weight, leave_one_out=not duel.exact)  # [B, K] s(y > pi_t)
        values = {"score": score, "weight": weight, "log_z": losses.log_partition(score, step, weight)}

        def loss(ratio: Tensor, part: Batch) -> Tensor:
            return (part["weight"] * losses.sppo(ratio, part["score"], step, part["log_z"])).sum(1)

        taken = self.step_on_scores(duel, self.opponent, loss, values)
        self.renew(self.opponent, self.config.refresh_every)
        scalars |= taken._replace(log_policy=taken.log_reference, log_reference=None).policy_scalars(duel)
        return scalars | taken.scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the steps, and the model."""
        return {"learner": super().state_dict(), "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        super().load_state_dict(state["learner"])
        self.model.load_state_dict(state["model"])
