"""Online exploration with a learned preference model: plays its equilibrium against an enhancer that explores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from agents.ipo import IPO, IPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tensors import restore
from agents.preference_models.enhancers import EnhancerName, make_enhancer
from agents.preference_models.factory import ModelConfig, Planner, choose_parts, model_of, predict_and_score
from preference_duel.checks import at_least, one_of, positive, require
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class OELHFConfig:
    """Optimistic equilibrium learning from human feedback (Ye et al. 2024, arXiv:2402.07314), batch online."""

    planner: Literal["exact", "ipo"] | None = None
    """Solver of the learned model's equilibrium: exact (tables only), or ipo, self-play IPO on the model's
    probabilities. None: exact for tables, ipo for networks."""
    enhancer: Literal["optimistic", "tournament", "none", "uniform"] | None = None
    """Policy of the second seat. optimistic: the response about whose duels with the main agent the model could be most
    wrong, of all responses of a table, or of `responses` x `candidates` samples of a network. tournament: the model's
    favourite of `candidates` samples of the main agent, the paper's practice. none: a sample of the main agent.
    uniform: uniform samples for both seats (tables only). None: optimistic for tables, tournament for networks."""
    responses: int = 1
    """Duels per prompt and update, >= 1."""
    candidates: int = 4
    """Samples of the main agent for each of the second seat, >= 2; the paper takes 4."""
    ridge: float = 1.0
    """lambda of the optimistic enhancer, > 0: a table's pair is uncertain by 1 / (lambda + its duels / `responses`), a
    network's by the norm of its features in (lambda I + their covariance)^-1."""
    inner_steps: int = 1
    """With planner ipo: its updates after each duel, >= 1."""
    ipo: IPOConfig = field(default_factory=lambda: IPOConfig(optimiser=OptimiserConfig()))
    """The main agent: its `tau` is the game's with either planner; the rest is for planner ipo. A model's probabilities
    have no noise of single outcomes: its learning rate has no decay, and is twice the policy's own if none is given."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The preference model of a network; a table counts wins."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, planner=one_of(Planner).or_none(), enhancer=one_of(EnhancerName).or_none(), ridge=positive)
        require(self, responses=at_least(1), candidates=at_least(2), inner_steps=at_least(1))

    @property
    def tau(self) -> float:
        """KL coefficient of the game."""
        return self.ipo.tau

    def build(self, *, policy: Policy, seed: int = 0) -> OELHF:
        """Builds the agent around the policy that it trains."""
        return OELHF(self, policy, seed)


class OELHF:
    """Learns a preference model from duels of its regularised Nash policy (the main agent) with an enhancer.

    Attributes:
        policy: the main agent's, pi1.
        reference: the start, which the game is regularised towards.
        average: the mean of pi_1..pi_T, start included, if kept.
        model: maximum-likelihood model of P(a beats b) from all duels so far.
    """

    def __init__(self, config: OELHFConfig, policy: Policy, seed: int) -> None:
        if policy.exact:
            raise ValueError("oelhf learns from single duels: build its policy without exact")
        self.config, self.policy, self.seed = config, policy, seed
        self.reference, self.model, self._updates = policy.snapshot(), model_of(policy, config.model, seed), 0
        self.planner, enhancer = choose_parts(policy, config.planner, config.enhancer)
        optimiser = config.ipo.optimiser
        if optimiser.method != "lbfgs" and optimiser.learning_rate is None:
            optimiser = replace(optimiser, learning_rate=2 * policy.learning_rate)
        self.main = IPO(replace(config.ipo, optimiser=optimiser), policy, seed)
        self.average = self.main.average
        sizes = config.responses, config.candidates, config.ridge
        self.enhancer = make_enhancer(enhancer, policy, self.reference, self.model, *sizes)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples of the main agent, each against one of the enhancer's."""
        count = self.config.responses
        with torch.no_grad():
            left, _ = self.enhancer.policy.draw(prompts, count, Key(self.seed, self._updates, Stream.TOKEN))
            right = self.enhancer.respond(prompts, left, Key(self.seed, self._updates, Stream.OPPONENT))
        return Proposal(left, right, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

    def update(self, duel: Duel) -> dict[str, float]:
        """Fits the model to all duels so far, and moves the main agent to its equilibrium."""
        from agents.preference_models.planners import play_on_model, solve_equilibrium

        prediction = predict_and_score(self.model, duel, "loss/policy")
        self.model.add(duel)
        self.enhancer.add(duel)
        if self.planner == "exact":
            if self.average is not None:
                self.average.blend(self.policy, 1 / (self._updates + 1))
            scalars = solve_equilibrium(self.policy, self.reference, self.model, duel, self.config.tau)
        else:
            scalars = play_on_model(self.main, self.model, duel.prompts, self.config.inner_steps)
        self._updates += 1
        return {**scalars, **prediction}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of main agent (start included), model and enhancer, and the number of updates."""
        main, model = self.main.state_dict(), self.model.state_dict()
        return {"main": main, "model": model, "doubt": self.enhancer.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.main.load_state_dict(state["main"])
        self.model.load_state_dict(state["model"])
        self.enhancer.load_state_dict(state["doubt"])
        self._updates = int(state["updates"])
        restore(self.reference, state["main"]["start"])
