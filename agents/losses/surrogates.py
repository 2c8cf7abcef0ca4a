"""Policy gradients: rewards of responses as advantages of tokens, and the surrogate whose gradient they weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from agents.losses.shapes import require_one_shape
from preference_duel.keyed_random_torch import cumulative_sum

if TYPE_CHECKING:
    from torch import Tensor

TokenMean = Literal["none", "response", "batch"]
"""Tokens whose losses are averaged; "none": they are summed."""


def reward_to_go(reward: Tensor, log_ratio: Tensor, mask: Tensor, tau: float) -> Tensor:
    """Returns what each token earns: the response's reward less tau times the log-ratios from this token on.

    The KL term of a token's own past does not depend on the token, so that leaving it out changes no expectation
    (Munos et al. 2023, arXiv:2312.00886, Section 7; weighing a token by its own log-ratio alone, as some released
    code does, is another objective).

    Args:
        reward: [B, K] of whole responses.
        log_ratio: [B, K, T] log pi - log ref of each token, nats.
        mask: [B, K, T] bool, True where a token counts.
        tau: KL coefficient, at least 0.

    Returns:
        [B, K, T], detached; 0 where no token counts.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if reward.shape != log_ratio.shape[:2] or mask.shape != log_ratio.shape:
        raise ValueError(
            f"reward, log_ratio and mask must be [B, K], [B, K, T] and [B, K, T], got {tuple(reward.shape)}, "
            f"{tuple(log_ratio.shape)} and {tuple(mask.shape)}"
        )
    left = cumulative_sum((log_ratio.detach() * mask).flip(-1)).flip(-1)
    return (reward.detach()[..., None] - tau * left) * mask


def generalised_advantage(
    reward: Tensor, log_ratio: Tensor, value: Tensor, mask: Tensor, tau: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Returns advantages and the returns that a value function is fitted to (Schulman et al. 2016, arXiv:1506.02438).

    A token earns -tau times its log-ratio, the last one the response's reward too; nothing is discounted. With
    delta_t = r_t + V_{t+1} - V_t the advantage is sum_s decay^s delta_{t+s}, equation 16 at gamma = 1.

    Args:
        reward: [B, K] of whole responses.
        log_ratio: [B, K, T] log pi - log ref of each token, nats.
        value: [B, K, T] V before each token.
        mask: [B, K, T] bool, True where a token counts; the tokens of a response come first.
        tau: KL coefficient, at least 0.
        decay: lambda, in [0, 1]; at 1 the advantage is `reward_to_go` less V.

    Returns:
        [B, K, T] advantages, and [B, K, T] returns: advantage + V. Detached; 0 where no token counts.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if reward.shape != mask.shape[:2] or not log_ratio.shape == value.shape == mask.shape:
        raise ValueError(
            f"reward, log_ratio, value and mask must be [B, K] and thrice [B, K, T], got {tuple(reward.shape)}, "
            f"{tuple(log_ratio.shape)}, {tuple(value.shape)} and {tuple(mask.shape)}"
        )
    value = value.detach() * mask
    last = mask & ~torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], dim=-1)
    earned = (reward.detach()[..., None] * last - tau * log_ratio.detach()) * mask
    after = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], dim=-1)
    delta = (earned + after - value) * mask
    advantage = torch.zeros_like(delta)
    ahead = torch.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        ahead = delta[..., t] + decay * ahead
        advantage[..., t] = ahead
    return advantage * mask, (advantage + value) * mask


def sampler_weight(token_logprob: Tensor, sampled: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Returns min(p(token) / p_sampler(token), cap): what each token counts if the sampler's arithmetic is another.

    Truncated importance sampling (Ionides 2008, doi:10.1198/106186008X320456), token by token as Yao et al. 2025 weigh
    samples of vLLM ("On the Rollout-Training Mismatch in Modern RL Systems", openreview.net/forum?id=xsonlP8DRV).

    Args:
        token_logprob: [B, K, T] nats of the policy that learns, before its step.
        sampled: [B, K, T] nats of the same policy, as what sampled it computes them.
        mask: [B, K, T] bool.
        cap: positive.

    Returns:
        [B, K, T], detached; 0 where no token counts.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(token_logprob=token_logprob, sampled=sampled, mask=mask)
    return (token_logprob.detach() - sampled).exp().clamp(max=cap) * mask


def policy_gradient(token_logprob: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Returns the surrogate -sum_t log pi(y_t) A_t of each response (Williams 1992).

    Args:
        token_logprob: [B, K, T] nats.
        advantage: [B, K, T], taken as given.
        mask: [B, K, T] bool.

    Returns:
        [B, K].

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(token_logprob=token_logprob, advantage=advantage, mask=mask)
    return -(token_logprob * advantage.detach() * mask).sum(-1)


def advantage(reward: Tensor, exact: bool = False, counted: Tensor | None = None) -> Tensor:
    """Returns each draw's reward less the mean of the others of its prompt (Ahmadian et al. 2024, arXiv:2402.14740).

    Args:
        reward: [B, K] of whole responses.
        exact: whether the responses are a whole distribution; then the reward itself, no baseline is needed.
        counted: [B, K] bool, the draws that have a reward; None: all. One without others has no baseline.

    Returns:
        [B, K], detached; 0 where not counted.

    Raises:
        ValueError: if there are not at least two draws of a prompt.
    """
    reward = reward.detach()
    count = reward.shape[1]
    if exact:
        return reward
    if count < 2:
        raise ValueError(f"a baseline needs at least 2 draws of a prompt, got {count}")
    if counted is None or counted.all():
        return (reward - reward.mean(1, keepdim=True)) * (count / (count - 1))
    present = counted.sum(1, keepdim=True)
    reward = reward * counted
    centred = (reward - reward.sum(1, keepdim=True) / present) * (present / (present - 1).clamp(min=1))
    return torch.where(present > 1, centred, reward) * counted


def group_advantage(
    reward: Tensor, weight: Tensor, *, leave_one_out: bool = False, scale: bool = True, exact: bool = False
) -> Tensor:
    """Returns the advantages of a group, (R - mean) / (std + 1e-4) (Shao et al. 2024, arXiv:2402.03300, Section 4.1.2).

    Args:
        reward: [B, K] of whole responses.
        weight: [B, K] of the responses, rows sum to 1: 1/K of samples, 0 of one that has no reward.
        leave_one_out: the mean of the others as baseline, which is K / (K - 1) times the distance from the mean.
        scale: whether to divide by the standard deviation, of K samples that with K - 1 in its denominator.
        exact: whether the responses are a whole distribution, a group of infinitely many.

    Returns:
        [B, K], detached.

    Raises:
        ValueError: if the shapes differ, or a group of samples has fewer than two.
    """
    if reward.ndim != 2 or reward.shape != weight.shape:
        raise ValueError(f"reward and weight must both be [B, K], got {tuple(reward.shape)} and {tuple(weight.shape)}")
    reward, count = reward.detach(), reward.shape[1]
    if count < 2 and not exact:
        raise ValueError(f"a baseline needs at least 2 samples of a prompt, got {count}")
    present = (weight > 0).sum(1, keepdim=True).clamp(min=2).to(reward)
    unbiased = torch.ones_like(present) if exact else present / (present - 1)
    centred = reward - (weight * reward).sum(1, keepdim=True)
    std = (unbiased * (weight * centred.square()).sum(1, keepdim=True)).sqrt()
    return centred * (unbiased if leave_one_out else torch.ones_like(unbiased)) / ((std + 1e-4) if scale else 1.0)


def k3(token_logprob: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """Returns sum_t (x - log x - 1), x = start / policy: the KL penalty of GRPO (arXiv:2402.03300, equation 4).

    At samples of the policy its mean is KL(policy || start), but its gradient's mean is that of KL(start || policy),
    since the samples do not move: E[(1 - start / policy) grad log policy] = -sum_y start(y) grad log policy(y).

    Args:
        token_logprob: [B, K, T] nats of the policy.
        start: [B, K, T] nats of the start.
        mask: [B, K, T] bool.

    Returns:
        [B, K], at least 0.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(token_logprob=token_logprob, start=start, mask=mask)
    log_ratio = (start.detach() - token_logprob) * mask
    return (log_ratio.exp() - log_ratio - 1).sum(-1)


def rebel(log_ratio: Tensor, reward: Tensor, weight: Tensor, eta: float | Tensor) -> Tensor:
    """Returns the distance of each log-ratio to the sampling policy from eta R, up to a constant of the prompt.

    The mean over pairs of (r_k - r_l - eta (R_k - R_l))^2 (Gao et al. 2024, arXiv:2404.16767, equation 3) is twice the
    mean of the squares of these. Its minimum over all distributions is pi_t exp(eta R) / Z: Hedge.

    Args:
        log_ratio: [B, K] log pi - log pi_t, nats.
        reward: [B, K], taken as given.
        weight: [B, K] of the draws, rows sum to 1.
        eta: step size, nats per unit of reward, positive; or one of each prompt, [B, 1].

    Returns:
        [B, K].

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(log_ratio=log_ratio, reward=reward, weight=weight)
    distance = log_ratio - eta * reward.detach()
    return distance - (weight * distance).sum(1, keepdim=True)


def clipped(
    token_logprob: Tensor, drew: Tensor, advantage: Tensor, mask: Tensor, clip: float, high: float | None = None
) -> Tensor:
    """Returns PPO's surrogate -sum_t min(rho_t A_t, clip(rho_t, 1 - c, 1 + c) A_t) (Schulman et al. 2017, 1707.06347).

    Args:
        token_logprob: [B, K, T] nats of the policy.
        drew: [B, K, T] nats of the policy that drew.
        advantage: [B, K, T], taken as given.
        mask: [B, K, T] bool.
        clip: c, positive.
        high: c above 1, positive, as DAPO's clip-higher has it apart (Yu et al. 2025, arXiv:2503.14476); None: `clip`.

    Returns:
        [B, K].

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(token_logprob=token_logprob, drew=drew, advantage=advantage, mask=mask)
    ratio = ((token_logprob - drew.detach()) * mask).exp()
    gain = advantage.detach()
    near = ratio.clamp(1 - clip, 1 + (clip if high is None else high))
    return -(torch.minimum(ratio * gain, near * gain) * mask).sum(-1)


def per_token(weight: Tensor, mask: Tensor, mean: TokenMean) -> Tensor:
    """Returns the weights of responses whose losses are sums over tokens, such that they become means.

    Args:
        weight: [B, K] of the responses, rows sum to 1.
        mask: [B, K, T] bool, True where a token counts.
        mean: "none": the sums stay, as in Dr. GRPO up to a constant (Liu et al. 2025, arXiv:2503.20783); "response":
            each is divided by its own length, as in GRPO; "batch": all by the mean length of the batch, so that every
            token counts alike (Yu et al. 2025, arXiv:2503.14476, whose equation 8 does it inside a group).

    Returns:
        [B, K].

    Raises:
        ValueError: if the shapes do not fit.
    """
    if mask.shape[:2] != weight.shape:
        raise ValueError(f"weight, mask must be [B, K], [B, K, T], got {tuple(weight.shape)}, {tuple(mask.shape)}")
    if mean == "none":
        return weight
    lengths = mask.sum(-1).to(weight)  # [B, K]
    if mean == "batch":
        lengths = (weight * lengths).sum(1).mean()
    return weight / lengths.masked_fill(lengths == 0, 1)  # a row without rewards weighs nothing


def value_distance(value: Tensor, target: Tensor, before: Tensor, clip: float | None) -> Tensor:
    """Returns (V - G)^2, or if larger that of V clipped to its value at sampling (OpenAI's PPO2).

    Args:
        value: [...] V, differentiable.
        target: [...] G, the returns.
        before: [...] V when the responses were sampled.
        clip: largest distance from it that pays, positive; None: no clipping.

    Returns:
        [...], unreduced.

    Raises:
        ValueError: if the shapes differ.
    """
    require_one_shape(value=value, target=target, before=before)
    distance = (value - target).square()
    if clip is None:
        return distance
    near = before + (value - before).clamp(-clip, clip)
    return torch.maximum(distance, (near - target).square())
