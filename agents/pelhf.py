"""Offline learning of an equilibrium: plays for what the duels of others have proved, and not for what they allow."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from agents.ipo import IPO, IPOConfig
from agents.learning.scalars import policy_scalars
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tensors import restore, tensors
from agents.preference_models.factory import ModelConfig, model_of, predict_and_score
from preference_duel.checks import at_least, positive, require
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.lm.hf_policy import HFPolicy
    from agents.preference_models.planners import Responses
    from preference_duel.protocols import Policy

_LEAST = sys.float_info.min


@dataclass(frozen=True)
class PELHFConfig:
    """Pessimistic equilibrium learning from human feedback (Ye et al. 2024, arXiv:2402.07314).

    Learns from a file of duels, each of which counts once; where an arena asks, the start draws for both seats.
    """

    tau: float = 0.1
    """KL coefficient of the game around the starting policy, > 0; the paper's 1/eta."""

    width: float = 0.1
    """beta >= 0, how far the preferences may lie below the model's: P(a beats b) of a table by beta / sqrt(1 + duels of
    a and b), whose standard error is at most half of that at beta = 1; of a language model by beta times the norm of
    the pair's features in (`ridge` I + their covariance)^-1. 0: planning by the model as if it were the truth."""

    responses: int = 4
    """Draws per prompt, K >= 2, each pair of them asked once; a file has its own. The plan of a language model takes as
    many of either seat."""

    ridge: float = 1.0
    """lambda > 0 of a language model's `width`."""

    inner_steps: int = 1
    """Updates of a language model's plan after each duel, >= 1; a table's is solved."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Of both seats of a language model's plan; its learning rate is twice the policy's own if none is given."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(calibration=256))
    """The preference model of a network; a table counts wins."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        sampled = at_least(2, "one sample has no other to beat")
        require(self, tau=positive, width=at_least(0), responses=sampled, ridge=positive, inner_steps=at_least(1))

    def build(self, *, policy: Policy, seed: int = 0) -> PELHF | TextPELHF:
        """Builds the agent around the policy that it trains."""
        from agents.policies.lm.hf_policy import HFPolicy

        return TextPELHF(self, policy, seed) if isinstance(policy, HFPolicy) else PELHF(self, policy, seed)


class PELHF:
    """Counts duels and plays the first seat of the regularised game of lower confidence payoffs.

    Attributes:
        policy: what is learned.
        reference: what the game is regularised towards, the start.
        average: None: nothing is averaged offline.
        model: what the duels so far say.
    """

    learns_from_files = True
    one_pass = True
    average: Policy | None = None

    def __init__(self, config: PELHFConfig, policy: Policy, seed: int) -> None:
        from agents.policies.tabular import TabularPolicy
        from agents.preference_models.counts import DuelCounts

        if not isinstance(policy, TabularPolicy) or policy.exact:
            kind = "an exact one" if policy.exact else f"a {type(policy).__name__}"
            raise ValueError(f"pelhf learns from single duels: its policy is a table or a language model, not {kind}")
        self.config, self.policy, self.seed = config, policy, seed
        self.reference = policy.frozen()
        self.model = DuelCounts(policy.cells)
        self._updates = 0

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the start for both seats."""
        key = Key(self.seed, self._updates, Stream.TOKEN)
        return Proposal(self.reference.draw(prompts, self.config.responses, key)[0])

    def update(self, duel: Duel) -> dict[str, float]:
        """Adds the duels to what is known, and plans for their prompts."""
        from envs.games import regularised_saddle

        prediction = predict_and_score(self.model, duel, "loss/policy")
        self.model.add(duel)
        prompts = list(dict.fromkeys(duel.prompts))
        with torch.no_grad():
            log_ref, log_policy = self.reference.log_probs(prompts), self.policy.log_probs(prompts)
            plan = regularised_saddle(self.lower(prompts), log_ref.exp(), self.config.tau, tol=1e-5).policy
            self.policy.logits[self.policy.cells.rows_of(prompts)] = plan.clamp_min(_LEAST).log()
        self._updates += 1
        return {**policy_scalars(log_policy.exp(), log_policy, log_ref), **prediction}

    def lower(self, prompts: Sequence[str]) -> Tensor:
        """Returns [B, N, N] float64 the least that P(row beats column) may be; a response is even with itself."""
        doubt = self.config.width / (1 + torch.stack([self.model.counts(prompt) for prompt in prompts])).sqrt()
        doubt.diagonal(dim1=1, dim2=2).zero_()
        return (self.model.matrix(prompts) - doubt).clamp_min(0)

    def state_dict(self) -> dict[str, Any]:
        """Returns policy, start, counts and the number of updates."""
        policies = {"policy": tensors(self.policy), "reference": tensors(self.reference)}
        return {**policies, "model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.policy, state["policy"])
        restore(self.reference, state["reference"])
        self.model.load_state_dict(state["model"])
        self._updates = int(state["updates"])


class TextPELHF:
    """Fits a network to duels, and plays the first seat of the game of its lower confidence payoffs with samples.

    Attributes:
        policy: what is learned.
        reference: what the game is regularised towards, the start.
        average: None: nothing is averaged offline.
        model: what the duels so far say.
        doubt: how far it could be wrong, by the linear class of the start's last hidden states.
        main: learns the first seat.
        adversary: learns the second seat.
    """

    learns_from_files = True
    one_pass = True
    average: Policy | None = None

    def __init__(self, config: PELHFConfig, policy: HFPolicy, seed: int) -> None:
        from agents.preference_models.uncertainty import LinearUncertainty

        self.config, self.policy, self.seed, self._updates = config, policy, seed, 0
        self.reference, self.model = policy.snapshot(), model_of(policy, config.model, seed)
        self.doubt = LinearUncertainty(self.reference, config.ridge, per=1)
        optimiser = config.optimiser
        if optimiser.method != "lbfgs" and optimiser.learning_rate is None:
            optimiser = replace(optimiser, learning_rate=2 * policy.learning_rate)
        seat = IPOConfig(config.tau / 2, config.responses, average=False, optimiser=optimiser)
        self.main = IPO(seat, policy, seed)
        self.adversary = IPO(seat, copy.deepcopy(policy), hash_seed(seed, "adversary"))

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the start for both seats."""
        key = Key(self.seed, self._updates, Stream.TOKEN)
        with torch.no_grad():
            return Proposal(self.reference.draw(prompts, self.config.responses, key)[0])

    def update(self, duel: Duel) -> dict[str, float]:
        """Fits the model to all duels so far, and moves both seats of the plan for their prompts."""
        from agents.preference_models.planners import play_for_two

        prediction = predict_and_score(self.model, duel, "loss/policy")
        self.model.add(duel)
        self.doubt.add(duel)
        scalars = play_for_two(self.main, self.adversary, self.lower, duel.prompts, self.config.inner_steps)
        self._updates += 1
        return {**scalars, **prediction}

    def lower(self, prompts: Sequence[str], left: Responses, right: Responses) -> Tensor:
        """Returns [B, K, L] float64 the least that P(left beats right) may be; a response is even with itself."""
        doubt = self.config.width * self.doubt.of(prompts, left, right)
        return (self.model.prob(prompts, left, right) - doubt).clamp_min(0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both seats (start included), model and doubt, and the number of updates."""
        seats = {"main": self.main.state_dict(), "adversary": self.adversary.state_dict()}
        return {**seats, "model": self.model.state_dict(), "doubt": self.doubt.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.main.load_state_dict(state["main"])
        self.adversary.load_state_dict(state["adversary"])
        self.model.load_state_dict(state["model"])
        self.doubt.load_state_dict(state["doubt"])
        self._updates = int(state["updates"])
        restore(self.reference, state["main"]["start"])
