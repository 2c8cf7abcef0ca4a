"""Policy gradients on rewards of whole responses: what SPO and RLHF have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.scalars import policy_scalars
from agents.learning.scores import require_finite, sampled_logprob, token_logprob
from agents.optim.optimiser import Optimiser, OptimiserConfig
from agents.policies.tensors import restore, tensors
from preference_duel.checks import at_least, one_of, positive, require, share
from preference_duel.types import Completion

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Task
    from agents.learning.learner import Learner
    from preference_duel.protocols import Policy

    Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Loss [b, K] of token log-probabilities now and when sampled, advantages and mask, [b, K, T] each."""

Form = Literal["reinforce", "ppo", "rebel"]
Baseline = Literal["draws", "value"]
KL = Literal["return", "loss"]


@dataclass(frozen=True)
class GradientConfig:
    """Settings of a policy gradient."""

    form: Literal["reinforce", "ppo", "rebel"] = "reinforce"
    """reinforce: leave-one-out baseline. ppo: steps on the same draws with the ratio to the sampling policy clipped.
    rebel: log-ratios to that policy are regressed onto eta times the reward; solved (optimiser lbfgs on an exact
    policy) it is Hedge, a no-regret learner. Advantages divided by their standard deviation are --agent grpo."""

    eta: float = 1.0
    """rebel: step size, nats per unit of reward, > 0 (arXiv:2404.16767 takes 1 on rewards of its own scale)."""

    trust_region: float | None = None
    """rebel: KL of a step to second order, nats, > 0: eta is sqrt(2 trust_region / Var R) of each prompt. Solved on a
    table it is the natural gradient's step, with TRPO's length (arXiv:1502.05477, whose limit is 0.01); None: eta."""

    kl: Literal["return", "loss"] = "return"
    """return: every token pays tau times the log-ratios from itself on, the gradient of KL(policy || start). loss: the
    k3 estimate is added to the loss of reinforce and ppo, as GRPO does, the gradient of KL(start || policy)."""

    entropy: float = 0.0
    """Coefficient of the entropy of responses, nats, >= 0, charged as the KL term of `return` is."""

    epochs: int = 1
    """Steps on each batch of draws, >= 1; more than one with forms ppo and rebel alone."""

    clip: float = 0.2
    """ppo: how far the ratio may move from 1 before it stops paying, > 0."""

    baseline: Literal["draws", "value"] = "draws"
    """draws: the other draws of the prompt. value: with form ppo, a value function learned beside the policy: a table's
    prompts have a number each, a language model's copy has a scalar head."""

    gae: float = 0.95
    """lambda of generalised advantages, in [0, 1], with baseline value; PPO's 0.95."""

    value_clip: float | None = None
    """Distance from its value at sampling beyond which a value's step no longer pays, > 0 (PPO2's 0.2); None: none."""

    value: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adamw", momentum=0.9))
    """Optimiser of the value function; its learning rate is 1e-3 if none is given."""

    sampler_cap: float | None = None
    """Multiply a token's advantage by min(p / p_sampler, sampler_cap), > 0, where vLLM's arithmetic makes p_sampler
    another (truncated importance sampling, Yao et al. 2025, openreview.net/forum?id=xsonlP8DRV; published runs take 2);
    None: never. Not with form rebel."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        if self.form == "grpo":
            raise ValueError(
                "form='grpo' is an agent of its own: --agent grpo (docs/agents/grpo.md); a run begun with the form "
                "goes on only with the version that began it"
            )
        require(self, form=one_of(Form), baseline=one_of(Baseline), gae=share, eta=positive, clip=positive)
        require(self, sampler_cap=positive.or_none())
        if self.form == "rebel" and self.sampler_cap is not None:
            raise ValueError("sampler_cap weighs the tokens of forms reinforce and ppo; rebel regresses on responses")
        require(
            self, kl=one_of(KL), entropy=at_least(0), trust_region=positive.or_none(), value_clip=positive.or_none()
        )
        if self.trust_region is not None and self.form != "rebel":
            raise ValueError(f"a trust region belongs to form='rebel', got {self.form!r}; leave trust_region out")
        if self.kl == "loss" and self.form == "rebel":
            raise ValueError("form='rebel' has its KL term in the return; take kl='return'")
        if self.value_clip is not None and self.baseline != "value":
            raise ValueError("value_clip is about a value function; take baseline='value', or leave it out")
        if self.baseline == "value" and self.form != "ppo":
            raise ValueError(f"a value function belongs to form='ppo', got {self.form!r}; take baseline='draws'")
        if self.epochs < 1 or (self.epochs > 1 and self.form == "reinforce"):
            raise ValueError(f"epochs must be 1, or more with ppo and rebel, got {self.epochs} with {self.form!r}")

    def surrogate(self) -> Surrogate:
        """Returns the loss of forms reinforce and ppo, [b, K] of each response."""
        if self.form == "ppo":
            return partial(losses.clipped, clip=self.clip)
        return lambda log_policy, old_logprob, advantage, mask: losses.policy_gradient(log_policy, advantage, mask)


@dataclass(frozen=True)
class Draws:
    """Samples of a policy: prompts, responses [B][K], weights [B, K], and whether they are its whole distribution.

    A sample of weight 0 has no reward, and is not learned from.
    """

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    weight: Tensor
    exact: bool


class PolicyGradient:
    """Moves a policy up the gradient of E[reward] - tau KL(policy || start).

    Args:
        learner: of the policy.
        start: what the KL term pulls towards.
        tau: KL coefficient, at least 0.
        config: how.

    Raises:
        ValueError: if a value function is asked for, and the policy is exact or of an unknown kind.
    """

    def __init__(self, learner: Learner, start: Policy, tau: float, config: GradientConfig) -> None:
        self.learner, self.start, self.tau, self.config = learner, start, tau, config
        self.critic, self._optimiser = None, None
        if config.baseline == "value":
            if learner.policy.exact:
                raise ValueError("a whole distribution needs no value function: build the policy without exact")
            from agents.learning.critic import critic_of

            self.critic = critic_of(learner.policy)
            self._optimiser = Optimiser(self.critic.parameters(), config.value, 1e-3)
            learner.batchable = False  # its first gradients are rounding alone, which AdamW makes steps of

    def step(self, draws: Draws, reward: Tensor, beside: Task | None = None) -> dict[str, float]:
        """Takes `epochs` steps on draws of the policy as it is.

        Args:
            draws: its draws.
            reward: [B, K] of whole responses.
            beside: another batch with its loss, whose mean is added.

        Returns:
            Scalars by tag, the loss before the first step among them.
        """
        learner, config, policy = self.learner, self.config, self.learner.policy
        with torch.no_grad():
            drew, mask = token_logprob(policy, draws.prompts, draws.responses)
            log_start, _ = token_logprob(self.start, draws.prompts, draws.responses)
        values = {"weight": draws.weight.to(drew), "drew": drew, "start": log_start}
        log_ratio, tau = drew - log_start, self.tau if config.kl == "return" else 0.0
        if config.entropy:
            log_ratio, tau = tau * log_ratio + config.entropy * drew, 1.0
        if config.form == "rebel":
            values["earned"] = reward.to(drew) - tau * log_ratio.sum(-1)
            values["eta"] = self._step_size(values["earned"], values["weight"])
        else:
            values |= self._advantages(draws, reward.to(drew), log_ratio, mask, tau)
            if config.sampler_cap is not None:
                sampled = sampled_logprob(draws.responses, drew)
                values["earned"] = values["earned"] * losses.sampler_weight(drew, sampled, mask, config.sampler_cap)

        surrogate = config.surrogate()

        def distance(part: Batch) -> Tensor:
            ratio = require_finite(policy.logprob(part.prompts, part.responses) - part["drew"].sum(-1))
            return (2 * part["weight"]).sqrt() * losses.rebel(ratio, part["earned"], part["weight"], part["eta"])

        def loss(part: Batch) -> Tensor:
            if config.form == "rebel":
                return distance(part).square().sum(1)
            log_policy, mask = token_logprob(policy, part.prompts, part.responses)
            width = log_policy.shape[2]
            earned, drew, start = (part[name][:, :, :width] for name in ("earned", "drew", "start"))
            cost = surrogate(log_policy, drew, earned, mask)  # [b, K]
            if config.kl == "loss":
                cost = cost + self.tau * losses.k3(log_policy, start, mask)
            return (part["weight"] * cost).sum(1)

        batch = Batch(draws.prompts, draws.responses, values)
        scalars = policy_scalars(draws.weight, drew.sum(-1), log_start.sum(-1), draws.responses)
        if self.critic is not None:
            scalars["loss/value"] = self._fit_critic(batch, mask)
        squares = distance if config.form == "rebel" else None
        steps = [learner.fit(batch, loss, squares, beside) for _ in range(config.epochs)]
        scalars["loss/learning_rate"] = learner.learning_rate
        return {**scalars, "loss/policy": steps[0][0], "loss/grad_norm": steps[0][1]}

    def _step_size(self, earned: Tensor, weight: Tensor) -> Tensor:
        """Returns [B, 1] eta of each prompt; 0 if all rewards in a trust region are the same."""
        if self.config.trust_region is None:
            return torch.full_like(earned[:, :1], self.config.eta)
        mean = (weight * earned).sum(1, keepdim=True)
        variance = (weight * (earned - mean).square()).sum(1, keepdim=True)
        return torch.where(variance > 0, (2 * self.config.trust_region / variance.clamp(min=1e-30)).sqrt(), 0.0)

    def _advantages(
        self, draws: Draws, reward: Tensor, log_ratio: Tensor, mask: Tensor, tau: float
    ) -> dict[str, Tensor]:
        """Returns what each token earns [B, K, T], and the returns where a value function learns from them."""
        if self.critic is None:
            advantage = losses.advantage(reward, draws.exact, draws.weight > 0)
            return {"earned": losses.reward_to_go(advantage, log_ratio, mask, tau)}
        with torch.no_grad():
            value = self.critic(draws.prompts, draws.responses).to(reward)
        earned, returns = losses.generalised_advantage(reward, log_ratio, value, mask, tau, self.config.gae)
        return {"earned": earned, "returns": returns, "value": value}

    def _fit_critic(self, batch: Batch, mask: Tensor) -> float:
        """Takes as many steps on the mean square over tokens as the policy; returns it before the first."""
        counted = mask & (batch["weight"] > 0)[..., None]
        critic, optimiser, count = self.critic, self._optimiser, int(counted.sum())
        assert critic is not None
        assert optimiser is not None

        def accumulate() -> Tensor:
            total = torch.zeros(())
            for part in batch.split(self.learner.policy.parts(batch.prompts, batch.responses)):
                value = critic(part.prompts, part.responses)
                target = part["returns"][:, :, : value.shape[2]].to(value)
                counts = (part["weight"] > 0).to(value)[..., None]
                before = part["value"][:, :, : value.shape[2]].to(value)
                distance = losses.value_distance(value, target, before, self.config.value_clip)
                loss = (counts * distance).sum() / count  # all are 0 after a response's end
                loss.backward()
                total = total + loss.detach().cpu()
            return total

        steps = [optimiser.step(accumulate) for _ in range(self.config.epochs)]
        return steps[0][0]

    def state_dict(self) -> dict[str, Any]:
        """Returns the value function's tensors and optimiser, where there is one."""
        if self.critic is None or self._optimiser is None:
            return {}
        return {"critic": tensors(self.critic), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        if self.critic is not None and self._optimiser is not None:
            restore(self.critic, state["critic"])
            self._optimiser.load_state_dict(state["optimiser"])
