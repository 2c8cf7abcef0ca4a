"""Online exploration with a learned preference model: play its equilibrium, and ask where it is in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents.ipo import IPO, IPOConfig
from agents.learning.learner import policy_scalars
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.tabular import TabularPolicy
from agents.policies.tensors import restore
from agents.preference_models.counts import DuelCounts
from agents.preference_models.factory import foretold, model_of
from agents.preference_models.network import ModelConfig
from agents.preference_models.uncertainty import LinearDoubt
from envs.games import regularised_nash
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Policy
from preference_duel.types import Completion, Duel, Proposal

Enhancer = Literal["optimistic", "tournament", "none", "uniform"]
Planner = Literal["exact", "ipo"]
_LEAST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class OELHFConfig:
    """Optimistic equilibrium learning from human feedback (Ye et al. 2024, arXiv:2402.07314), batch online."""

    planner: Literal["exact", "ipo"] | None = None
    """How the main agent reaches the equilibrium of the learned model: exact, solved (tables alone), or ipo, by
    self-play IPO on the model's probabilities. None: exact for tables, ipo for networks."""

    enhancer: Literal["optimistic", "tournament", "none", "uniform"] | None = None
    """Who plays the second seat. optimistic: the response about whose duels with the main agent the model could be most
    wrong, of all responses of a table, or of `responses` x `candidates` draws of a network. tournament: the model's
    favourite among `candidates` draws of the main agent, the paper's practice. none: another draw of the main agent.
    uniform: both seats draw evenly (tables alone). None: optimistic for tables, tournament for networks."""

    responses: int = 1
    """Duels per prompt and update, >= 1."""

    candidates: int = 4
    """Draws of the main agent for each of the second seat, >= 2; the paper takes 4."""

    ridge: float = 1.0
    """lambda of the optimistic enhancer, > 0: a table's pair is in doubt by 1 / (lambda + its duels / `responses`), a
    network's by the norm of its features in (lambda I + their covariance)^-1."""

    inner_steps: int = 1
    """With planner ipo: its updates after each duel, >= 1."""

    ipo: IPOConfig = field(default_factory=lambda: IPOConfig(optimiser=OptimiserConfig()))
    """The main agent: its `tau` is the game's with either planner; the rest is for planner ipo. A model's probabilities
    have no noise of single outcomes: its learning rate stays, and is twice the policy's own where none is given."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The preference model of a network; a table counts wins."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        for name, kind in (("planner", Planner), ("enhancer", Enhancer)):
            if getattr(self, name) not in (*get_args(kind), None):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {getattr(self, name)!r}")
        for name, least in {"responses": 1, "candidates": 2, "inner_steps": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.ridge > 0:
            raise ValueError(f"ridge must be positive, got {self.ridge}")

    @property
    def tau(self) -> float:
        """KL coefficient of the game."""
        return self.ipo.tau

    def build(self, *, policy: Policy, seed: int = 0) -> OELHF:
        """Builds the agent around the policy that it trains."""
        return OELHF(self, policy, seed)


class OELHF:
    """Learns a model of the preferences, plays its regularised Nash policy, and asks where the model is in doubt.

    Attributes:
        policy: the main agent's.
        reference: what the game is regularised towards, the start.
        average: the mean of pi_1..pi_T, start included, where kept.
        model: what the duels so far say.
    """

    def __init__(self, config: OELHFConfig, policy: Policy, seed: int) -> None:
        if policy.exact:
            raise ValueError("oelhf learns from single duels: build its policy without exact")
        self.config, self.policy, self.seed = config, policy, seed
        self.table = policy if isinstance(policy, TabularPolicy) else None
        self.planner = config.planner or ("ipo" if self.table is None else "exact")
        self.enhancer = config.enhancer or ("tournament" if self.table is None else "optimistic")
        if self.table is None and (self.planner == "exact" or self.enhancer == "uniform"):
            raise ValueError(
                f"planner '{self.planner}' with enhancer '{self.enhancer}' needs a table of all responses, and the "
                f"policy is a {type(policy).__name__}; take planner 'ipo', and not enhancer 'uniform'"
            )
        optimiser = config.ipo.optimiser
        if optimiser.method != "lbfgs" and optimiser.learning_rate is None:
            optimiser = replace(optimiser, learning_rate=2 * policy.learning_rate)
        self.main = IPO(replace(config.ipo, optimiser=optimiser), policy, seed)
        self.reference, self.average = policy.frozen(), self.main.average
        self.model = model_of(policy, config.model, seed)
        self.doubt = None
        if self.enhancer == "optimistic" and isinstance(self.reference, HFPolicy):
            self.doubt = LinearDoubt(self.reference, config.ridge, config.responses)
        self._updates = 0

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the main agent, each against one of the enhancer's."""
        count = self.config.responses
        with torch.no_grad():
            if self.enhancer == "uniform":
                left, right = self._even(prompts, Stream.TOKEN), self._even(prompts, Stream.OPPONENT)
            else:
                left, _ = self.policy.draw(prompts, count, Key(self.seed, self._updates, Stream.TOKEN))
                right = self._enhanced(prompts, left)
        return Proposal(left, right, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

    def update(self, duel: Duel) -> dict[str, float]:
        """Adds the duel to what is known, and moves the main agent to the equilibrium of that."""
        surprise, foresight = foretold(self.model, duel)
        self.model.add(duel)
        if self.doubt is not None:
            self.doubt.add(duel)
        scalars = self._solve(duel) if self.planner == "exact" else self._learn(duel.prompts)
        self._updates += 1
        return {**scalars, **foresight, "loss/policy": surprise}

    def _solve(self, duel: Duel) -> dict[str, float]:
        """Gives the policy the regularised Nash law of the model for a duel's prompts; returns what it was before."""
        if self.average is not None:
            self.average.blend(self.policy, 1 / (self._updates + 1))
        table, counts = self._counted()
        distinct = list(dict.fromkeys(duel.prompts))
        with torch.no_grad():
            log_reference = self.reference.logprob(duel.prompts, duel.left)
            scalars = policy_scalars(duel.left_weight, self.policy.logprob(duel.prompts, duel.left), log_reference)
            ref = self.reference.law(distinct, table.cells.responses)
            nash = regularised_nash(counts.matrix(distinct), ref / ref.sum(-1, keepdim=True), self.config.tau, tol=1e-8)
            table.logits[table.cells.rows_of(distinct)] = nash.policy.clamp_min(_LEAST).log()
        return scalars

    def _counted(self) -> tuple[TabularPolicy, DuelCounts]:
        """Returns policy and model where they are tables."""
        assert self.table is not None
        assert isinstance(self.model, DuelCounts)
        return self.table, self.model

    def _learn(self, prompts: Sequence[str]) -> dict[str, float]:
        """Lets the main agent play against itself with the model as judge."""
        scalars = {}
        for _ in range(self.config.inner_steps):
            proposal = self.main.propose(prompts)
            left = proposal.left
            prob = self.model.prob(prompts, left, left)
            weight = torch.full(prob.shape[:2], 1 / prob.shape[1], dtype=torch.float64)
            asked = ~torch.eye(prob.shape[1], dtype=torch.bool).expand(prob.shape)
            scalars = self.main.update(Duel(prompts, left, left, prob, weight, weight, asked, "probability", 1))
        scalars["loss/planner"] = scalars.pop("loss/policy")
        return scalars

    def _enhanced(self, prompts: Sequence[str], left: Sequence[Sequence[Completion]]) -> list[list[Completion]]:
        """Returns [B][K] what the second seat plays against each of the main agent's draws."""
        count, key = self.config.responses, Key(self.seed, self._updates, Stream.OPPONENT)
        if self.enhancer == "none":
            return self.policy.draw(prompts, count, key)[0]
        if self.enhancer == "tournament" or self.doubt is not None:
            drawn, _ = self.policy.draw(prompts, count * self.config.candidates, key)
            if self.doubt is None:
                return self._favourites(prompts, drawn)
            chosen = self.doubt.choose(self.doubt.features(prompts, left), self.doubt.features(prompts, drawn))
            return [[row[i] for i in columns] for row, columns in zip(drawn, chosen, strict=True)]
        table, counts = self._counted()
        laws = table.law(prompts, table.cells.responses)
        return [
            self._doubtful(counts.counts(prompt), law, counts.columns([row])[0], table.cells.responses)
            for prompt, law, row in zip(prompts, laws, left, strict=True)
        ]

    def _favourites(self, prompts: Sequence[str], drawn: Sequence[Sequence[Completion]]) -> list[list[Completion]]:
        """Returns [B][K] the model's favourites of each group of candidates."""
        count, size = self.config.responses, self.config.candidates
        groups = [list(row[i : i + size]) for row in drawn for i in range(0, count * size, size)]
        wins = self.model.prob([prompt for prompt in prompts for _ in range(count)], groups, groups).mean(2)
        chosen = [group[i] for group, i in zip(groups, wins.argmax(1).tolist(), strict=True)]
        return [chosen[i : i + count] for i in range(0, len(chosen), count)]

    def _doubtful(
        self, counts: Tensor, law: Tensor, first: Tensor, responses: Sequence[Completion]
    ) -> list[Completion]:
        """Returns the pure responses that maximise Gamma, one after the other, each counted before the next.

        For one free number per pair Gamma^2 = sum_{a<b} (pi1(a) pi2(b) - pi1(b) pi2(a))^2 / (lambda + n_ab / m),
        convex in pi2; at a pure response b it is sum_{a != b} pi1(a)^2 / (lambda + n_ab / m).
        """
        pending, chosen = counts.clone(), []
        squares = law.square()
        for a in first.tolist():
            doubt = 1 / (self.config.ridge + pending / self.config.responses)
            doubt.fill_diagonal_(0)
            b = int((squares @ doubt).argmax())
            chosen.append(responses[b])
            pending[a, b] += 1
            pending[b, a] += 1
        return chosen

    def _even(self, prompts: Sequence[str], stream: Stream) -> list[list[Completion]]:
        table, _ = self._counted()
        even = torch.zeros(len(prompts), len(table.cells.columns), dtype=torch.float64).log_softmax(-1)
        return table.cells.draw(even, self.config.responses, Key(self.seed, self._updates, stream))[0]

    def state_dict(self) -> dict[str, Any]:
        """Returns the main agent's state with the start, the model, the enhancer's doubt and the number of updates."""
        doubt = {} if self.doubt is None else self.doubt.state_dict()
        main, model = self.main.state_dict(), self.model.state_dict()
        return {"main": main, "model": model, "doubt": doubt, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.main.load_state_dict(state["main"])
        self.model.load_state_dict(state["model"])
        if self.doubt is not None:
            self.doubt.load_state_dict(state["doubt"])
        self._updates = int(state["updates"])
        restore(self.reference, state["main"]["start"])
