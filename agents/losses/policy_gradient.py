"""Policy gradients: rewards of responses as advantages of tokens, and the surrogate whose gradient they weigh."""

from __future__ import annotations

from torch import Tensor


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
    left = (log_ratio.detach() * mask).flip(-1).cumsum(-1).flip(-1)
    return (reward.detach()[..., None] - tau * left) * mask


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
    if not token_logprob.shape == advantage.shape == mask.shape:
        raise ValueError(
            f"token_logprob, advantage and mask must have one shape, got {tuple(token_logprob.shape)}, "
            f"{tuple(advantage.shape)} and {tuple(mask.shape)}"
        )
    return -(token_logprob * advantage.detach() * mask).sum(-1)
