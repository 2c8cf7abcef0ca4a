"""Group relative policy optimisation on comparisons inside the group of a prompt's samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.held_groups import HeldGroups
from agents.learning.learning_agent import LearningAgent
from agents.learning.scalars import policy_scalars
from agents.learning.scores import require_finite, sampled_logprob, token_logprob
from agents.losses.surrogates import TokenMean
from agents.optim.optimiser import OptimiserConfig
from preference_duel import distributed, groups
from preference_duel.checks import at_least, one_of, positive, require
from preference_duel.groups import Aggregate, FixedSchedule
from preference_duel.types import Completion, Duel, Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class GRPOConfig:
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300), rewarded by comparisons in the group."""

    tau: float = 0.04
    """KL coefficient around the starting policy, >= 0 (the paper's beta)."""
    responses: int = 4
    """Samples per prompt, K >= 2; the paper takes 64, Nemotron-3 16. Ignored if the policy is exact."""
    schedule: FixedSchedule = "all_pairs"
    """Pairs that are asked: all; circular: each sample and its two neighbours on a ring; chunks: all inside fours;
    anchor: each against the first. Ignored if the policy is exact: every schedule compares with the policy."""
    aggregate: Aggregate = "win_rate"
    """Reward from comparisons: the win rate, NeMo-Gym's scores of 1 to 5, or the group's Bradley-Terry score."""
    leave_one_out: bool = True
    """Leave a sample's tie with itself out of its reward; False: the mean over all K."""
    baseline: Literal["mean", "others"] = "mean"
    """Baseline of a reward: the mean of the group, or the mean of its others (RLOO's leave-one-out)."""
    scale_rewards: bool = True
    """Divide by the standard deviation of the group's rewards."""
    kl: Literal["return", "loss"] = "loss"
    """loss: the k3 estimate of the paper's equation 4 is added to the loss. return: every token pays tau times the
    log-ratios from itself on, which with `token_mean` none is the gradient of KL(policy || start)."""
    clip: float = 0.2
    """Largest distance of the ratio to the sampling policy from 1 that still pays, > 0."""
    clip_high: float | None = None
    """The same above 1, > 0 (0.28 in DAPO, Yu et al. 2025, arXiv:2503.14476); None: `clip`."""
    token_mean: TokenMean = "none"
    """none: the loss of a response is the sum over its tokens, as in Dr. GRPO (Liu et al. 2025, arXiv:2503.20783).
    response: their mean, as in GRPO's paper. batch: all tokens of the batch count alike, as in DAPO."""
    epochs: int = 1
    """Steps on each group, >= 1."""
    redraws: int | None = None
    """DAPO's dynamic sampling: groups of equal rewards are left out of the mean, and a step waits for as many others as
    a duel has groups, through so many further duels at most, >= 0. None: they stay in the mean, with advantage 0."""
    sampler_cap: float | None = None
    """Multiply a token's advantage by min(p / p_sampler, sampler_cap), > 0, where vLLM's arithmetic makes p_sampler
    another (truncated importance sampling, Yao et al. 2025, openreview.net/forum?id=xsonlP8DRV; published runs take 2);
    None: never."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=at_least(0), responses=at_least(2, "one sample has no other to beat"), epochs=at_least(1))
        require(self, schedule=one_of(FixedSchedule), aggregate=one_of(Aggregate), clip=positive)
        require(self, sampler_cap=positive.or_none(), clip_high=positive.or_none(), token_mean=one_of(TokenMean))
        require(self, redraws=at_least(0).or_none())
        require(self, baseline=one_of(Literal["mean", "others"]), kl=one_of(Literal["return", "loss"]))

    def build(self, *, policy: Policy, seed: int = 0) -> GRPO:
        """Builds the agent around the policy that it trains."""
        if policy.exact and self.aggregate == "bt":
            raise ValueError("aggregate='bt' fits the scores of a finite group: build the policy without exact")
        if policy.exact and self.redraws is not None:
            raise ValueError("redraws are of sampled groups: build the policy without exact, or leave redraws out")
        return GRPO(self, policy, seed)


class GRPO(LearningAgent):
    """Compares K samples by a schedule, and moves the policy towards those with the better comparisons.

    An exact policy's group is infinite: R = P pi for win rates. Without `scale_rewards` its gradient is SPO's, and with
    kl="return" it vanishes where log pi/ref = P pi / tau + const, at the regularised Nash policy: to each player the
    other's policy and KL term are constants. With kl="loss" it vanishes where pi = tau ref / (tau + 1/2 - P pi), at the
    equilibrium with penalties KL(start || policy), whose gradient is that of k3 at given samples.
    """

    def __init__(self, config: GRPOConfig, policy: Policy, seed: int) -> None:
        self.config, self.start = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.start)
        self.held = None if config.redraws is None else HeldGroups(config.redraws)
        if self.held is not None:
            self.learner.batchable = False  # prompts wait for each other

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats and the pairs of the schedule, or the whole distribution if it is exact."""
        proposal = self.self_play(self.policy, prompts, self.config.responses)
        if self.policy.exact:
            return proposal
        scheduled, _ = groups.meetings(self.config.schedule, _texts(proposal.left))
        return replace(proposal, ask=scheduled)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes `epochs` steps on the group's advantages, with `redraws` on those of several duels.

        Raises:
            ValueError: if the seats hold different samples, or a sample's comparisons were all left unanswered.
        """
        if not duel.self_play:
            raise ValueError("GRPO learns from its own samples, and this duel's seats hold different ones")
        config, weight = self.config, duel.left_weight  # [B, K] 1/K, or pi_t(y) if exact
        self.include_in_average(self.policy)
        reward = self._reward(duel)
        advantage = losses.group_advantage(
            reward, weight, leave_one_out=config.baseline == "others", scale=config.scale_rewards, exact=duel.exact
        )
        flat = reward.amax(1) == reward.amin(1)  # [B]
        scalars = {"duel/flat_groups": flat.double().mean().item()}
        batch = Batch(duel.prompts, duel.left, {"weight": weight, "advantage": advantage})
        if self.held is not None:
            due = self.held.add(batch, ~flat)
            if due is None:
                self.learner.updates += 1
                return scalars
            batch, scalars["duel/groups"] = due, float(len(due.prompts))
        return scalars | self._step(batch)

    def _reward(self, duel: Duel) -> Tensor:
        """Returns [B, K] what the comparisons of a response are worth."""
        config, weight = self.config, duel.left_weight
        if duel.exact:
            prob, opponents, compared = duel.prob, duel.right_weight, torch.ones_like(duel.asked)
        else:
            scheduled, equal = groups.meetings(config.schedule, _texts(duel.left))
            prob = torch.where(equal, 0.5, duel.prob)  # an outcome of equal texts is a coin's
            opponents, compared = None, scheduled & (duel.asked | equal)  # [B, K, K]
            compared = compared | torch.diag_embed(weight == 0)  # all unread: it ties with itself and weighs nothing
        return groups.aggregate(prob, compared, config.aggregate, leave_one_out=config.leave_one_out, weight=opponents)

    def _step(self, batch: Batch) -> dict[str, float]:
        """Takes `epochs` steps on groups with their weights and advantages, [B, K] each."""
        config, weight, prompts, responses = self.config, batch["weight"], batch.prompts, batch.responses
        with torch.no_grad():
            start, mask = token_logprob(self.start, prompts, responses)  # [B, K, T]
            old = token_logprob(self.policy, prompts, responses)[0] if self._looks_back else None
        tau = config.tau if config.kl == "return" else 0.0
        log_ratio = torch.zeros_like(start) if old is None else old - start
        earned = losses.reward_to_go(batch["advantage"].to(start), log_ratio, mask, tau)
        if old is not None and config.sampler_cap is not None:
            earned = earned * losses.sampler_weight(old, sampled_logprob(responses, old), mask, config.sampler_cap)

        drew = torch.full_like(start[..., 0], torch.nan)  # [B, K] nats before the first step, as it reads them
        of_tokens = {"start": start, "earned": earned} | ({} if old is None else {"old": old})
        values = {"weight": losses.per_token(weight.to(start), mask, config.token_mean), **of_tokens}

        def loss(part: Batch) -> Tensor:
            log_policy, counted = token_logprob(self.policy, part.prompts, part.responses)  # [b, K, T]
            read = {name: part[name][:, :, : log_policy.shape[2]] for name in of_tokens}
            before = read.get("old", log_policy.detach())
            nats = require_finite((log_policy * counted).sum(-1)).detach()
            assert part.rows is not None
            drew[part.rows] = torch.where(drew[part.rows].isnan(), nats, drew[part.rows])
            surrogate = losses.clipped(log_policy, before, read["earned"], counted, config.clip, config.clip_high)
            if config.kl == "loss" and config.tau:
                surrogate = surrogate + config.tau * losses.k3(log_policy, read["start"], counted)
            return (part["weight"] * surrogate).sum(1)  # [b]

        scalars = self.learner.step(Batch(prompts, responses, values), loss, epochs=config.epochs)
        drew = distributed.largest(drew.nan_to_num(nan=-torch.inf))
        return {**policy_scalars(weight, drew, start.sum(-1), responses), **scalars}

    @property
    def _looks_back(self) -> bool:
        """Whether the samples' log-probabilities are needed before the pass that learns, or after its first step."""
        config = self.config
        several = config.epochs > 1 or config.optimiser.method == "lbfgs"
        return several or config.kl == "return" or config.sampler_cap is not None

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser, the number of updates, and the groups that wait."""
        state = self.learner.state_dict()
        return state if self.held is None else {"training": state, "held": self.held.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.learner.load_state_dict(state if self.held is None else state["training"])
        if self.held is not None:
            self.held.load_state_dict(state["held"])


def _texts(responses: Sequence[Sequence[Completion]]) -> list[list[str]]:
    return [[response.text for response in row] for row in responses]
