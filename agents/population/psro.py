"""Policy-space response oracles: a population that grows by best responses to a mixture of its members."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from agents import losses
from agents.learning.policy_gradient import GradientConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tensors import restore, tensors
from agents.population import meta_solvers
from agents.spo import SPO, SPOConfig
from preference_duel.checks import at_least, one_of, require, share
from preference_duel.keyed_random import Key, hash_seed
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from preference_duel.protocols import Policy

MetaSolver = Literal["nash", "uniform", "replicator"]
Begin = Literal["start", "last"]
_LEAST = sys.float_info.min


@dataclass(frozen=True)
class PSROConfig:
    """Policy-space response oracles (Lanctot et al. 2017, arXiv:1711.00832), one population for both seats."""

    meta_solver: Literal["nash", "uniform", "replicator"] = "nash"
    """Mixture that the next member responds to, and the answer. nash: an equilibrium of the game among the members
    (double oracle). uniform: equal shares (fictitious play). replicator: projected replicator dynamics."""

    exploration: float | None = None
    """gamma in [0, 1] of meta_solver replicator: each of M members has a share of at least gamma / M. None: 0.1."""

    response_updates: int | None = None
    """Updates of a best response before it joins the population, >= 1. None: 40, or 1 for an exact table, whose best
    response is computed."""

    payoff_updates: int = 4
    """Updates that play a new member against all earlier ones, >= 1. Ignored if the policy is exact: its duels tell."""

    begin: Literal["start", "last"] = "start"
    """Policy from which a best response is learned: the start, or the last member."""

    tau: float = 0.0
    """KL coefficient that holds every best response at the start, >= 0; the paper has none."""

    responses: int = 4
    """Samples per prompt of a best response and of the mixture, K >= 2. Ignored if the policy is exact."""

    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Policy gradient of a best response, by win rates against the mixture; the paper takes any learner."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of a best response, new for each."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range or would be ignored."""
        require(self, meta_solver=one_of(MetaSolver), exploration=share.or_none(), begin=one_of(Begin))
        require(self, response_updates=at_least(1).or_none(), payoff_updates=at_least(1), tau=at_least(0))
        require(self, responses=at_least(2))
        if self.exploration is not None and self.meta_solver != "replicator":
            raise ValueError(f"exploration belongs to meta_solver='replicator', got {self.meta_solver!r}; leave it out")

    def solver(self) -> Callable[[Tensor], Tensor]:
        """Returns the meta-solver: shares [M] of a table [M, M]."""
        if self.meta_solver == "replicator":
            return partial(meta_solvers.replicator, exploration=0.1 if self.exploration is None else self.exploration)
        return meta_solvers.nash if self.meta_solver == "nash" else meta_solvers.uniform

    def build(self, *, policy: Policy, seed: int = 0) -> PSRO:
        """Builds the agent; the policy is the first member."""
        return PSRO(self, policy, seed)


class PSRO:
    """Learns best responses to the mixture of its members, and measures the members against one another.

    Attributes:
        policy: the mixture of the members in the meta-solver's shares.
        average: None: the mixture is what theory speaks of.
        members: frozen policies, the start first.
        payoff: [M, M] float64 estimates of P(member i beats member j), means over prompts.
        response: learner of the next member.
    """

    own_draws = False
    average: Policy | None = None

    def __init__(self, config: PSROConfig, policy: Policy, seed: int) -> None:
        from agents.policies.mixtures import Mixture
        from agents.policies.tabular import TabularPolicy

        self.config, self.seed = config, seed
        self._solves = policy.exact and isinstance(policy, TabularPolicy)
        self._response_updates = config.response_updates or (1 if self._solves else 40)
        self._payoff_updates = 0 if policy.exact else config.payoff_updates
        self.members = [policy.frozen()]
        self.payoff = torch.full((1, 1), 0.5, dtype=torch.float64)
        self.policy = Mixture(self.members)
        self._begin_round(policy)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns samples of the response against the mixture's, or, once it is learned, against each member's."""
        if self._done < self._response_updates:
            return self.response.propose(prompts)
        key = Key(hash_seed(self.seed, "payoff", len(self.members), self._done))
        with torch.no_grad():
            left, _ = self.response.policy.draw(prompts, self.config.responses, key)
            drawn = [member.draw(prompts, 1, key.at(i))[0] for i, member in enumerate(self.members, start=1)]
        return Proposal(left, [[row[0] for row in rows] for rows in zip(*drawn, strict=True)])

    def update(self, duel: Duel) -> dict[str, float]:
        """Improves the response, or measures it; after the last update of a round it is a member."""
        if self._done >= self._response_updates:
            self._wins += (duel.prob.double() * duel.asked).sum((0, 1))
            self._met += duel.asked.double().sum((0, 1))
            rates = torch.where(self._met > 0, self._wins / self._met.clamp(min=1), 0.5)
            scalars = {"policy/gain": float(rates @ self.policy.weights) - 0.5}
        elif self._solves:
            scalars = self._solve(duel)
        else:
            scalars = self.response.update(duel)
        self._done += 1
        if self._done == self._response_updates + self._payoff_updates:
            self._add(self._exact_wins(duel) if duel.exact else self._measured())
        return {**scalars, "policy/members": float(len(self.members))}

    def _solve(self, duel: Duel) -> dict[str, float]:
        """Makes the response the best one to the mixture: argmax P(y beats it), or start exp(P / tau) / Z."""
        from agents.policies.tabular import TabularPolicy

        table, start, tau = self.response.policy, self.members[0], self.config.tau
        assert isinstance(table, TabularPolicy)
        assert isinstance(start, TabularPolicy)
        wins = losses.win_rate(duel.prob, duel.right_weight).double()  # [B, N]
        with torch.no_grad():
            if tau:
                best = (start.log_probs(duel.prompts) + wins / tau).softmax(1)
            else:
                best = torch.zeros_like(wins).scatter_(1, wins.argmax(1, keepdim=True), 1)
            table.logits[table.cells.rows_of(duel.prompts)] = best.clamp_min(_LEAST).log()
        return {"policy/gain": (best * wins).sum(1).mean().item() - 0.5}

    def _exact_wins(self, duel: Duel) -> Tensor:
        """Returns [M] the response's exact chance against each member; both seats list every response."""
        prompts = duel.prompts
        own = self.response.policy.distribution(prompts, duel.left[0])  # [B, N]
        chances = (own[:, None] @ duel.prob.double())[:, 0]  # [B, N]
        others = [member.distribution(prompts, duel.right[0]) for member in self.members]
        return torch.stack([(chances * other).sum(1).mean() for other in others])

    def _measured(self) -> Tensor:
        """Returns [M] the response's share of wins against each member.

        Raises:
            ValueError: if it met one in no pair whose answer could be read.
        """
        if not self._met.all():
            raise ValueError(
                f"no pair of the new response with member {int(self._met.argmin())} was read: raise payoff_updates, "
                f"now {self._payoff_updates}, or take another judge"
            )
        return self._wins / self._met

    def _add(self, wins: Tensor) -> None:
        """Makes the response a member that beats the earlier ones by chances [M], and renews the mixture."""
        from agents.policies.mixtures import Mixture

        count = len(self.members)
        payoff = torch.full((count + 1, count + 1), 0.5, dtype=torch.float64)
        payoff[:count, :count] = self.payoff
        payoff[count, :count], payoff[:count, count] = wins, 1 - wins
        self.payoff = payoff
        self.members = [*self.members, self.response.policy.frozen()]
        self.policy = Mixture(self.members, self.config.solver()(payoff).tolist())
        self._begin_round(self.response.policy)

    def _begin_round(self, policy: Policy) -> None:
        """Begins to learn a response with the parameters of a policy that may be overwritten."""
        config = self.config
        policy.load_state_dict(self.members[0].state_dict())  # the start, which a KL term is about
        seed = hash_seed(self.seed, "response", len(self.members))
        learner = SPOConfig(
            config.tau, config.responses, gradient=config.gradient, average=False, optimiser=config.optimiser
        )
        self.response = SPO(learner, policy, seed)
        self.response.fixed_opponent = self.policy
        if config.begin == "last":
            policy.load_state_dict(self.members[-1].state_dict())
        self._done = 0
        self._wins, self._met = torch.zeros(2, len(self.members), dtype=torch.float64)  # over each, and pairs with it

    def state_dict(self) -> dict[str, Any]:
        """Returns the members with their payoffs and shares, and the state of the round."""
        members = {str(i): tensors(member) for i, member in enumerate(self.members)}
        game = {"members": members, "payoff": self.payoff, "shares": self.policy.weights}
        return {
            **game,
            "response": self.response.state_dict(),
            "wins": self._wins,
            "met": self._met,
            "done": self._done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        from agents.policies.mixtures import Mixture

        start = self.members[0]
        self.members = [start.frozen() for _ in state["members"]]
        for i, member in enumerate(self.members):
            restore(member, state["members"][str(i)])
        self.payoff = state["payoff"].clone()
        self.policy = Mixture(self.members, state["shares"].tolist())
        self._begin_round(self.response.policy)
        self.response.load_state_dict(state["response"])
        self._wins, self._met = state["wins"].clone(), state["met"].clone()
        self._done = int(state["done"])
