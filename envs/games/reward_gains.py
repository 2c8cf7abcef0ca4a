"""The KL that a gain of reward costs: the first-order limit sqrt(2 Var KL), and best-of-n exactly."""

from __future__ import annotations

from torch import Tensor


def most_gain(variance: Tensor, kl: Tensor) -> Tensor:
    """Returns sqrt(2 Var KL), which the mean reward can rise by at a KL from the start, to first order.

    The policy start e^(R / tau) / Z gains Var / tau at a KL of Var / (2 tau^2), to first order in 1 / tau, and no
    policy of that KL gains more: the gain grows with sqrt(KL), as Gao et al. 2022 measured (arXiv:2210.10760).

    Args:
        variance: [...] of the reward under the start.
        kl: [...] KL(policy, start), nats; a sampled one below 0 counts as 0.
    """
    return (2 * variance * kl.clamp(min=0)).sqrt()


def best_of_n_distribution(start: Tensor, score: Tensor, n: int) -> Tensor:
    """Returns the distribution of the best of n samples, equal scores drawn among at random.

    P(y) = start(y) (F(y)^n - F(y-)^n) / (F(y) - F(y-)) with F(y) the start's probability of scores up to that of y, and
    F(y-) of those below it. Its KL from the start is at most `lower_bounds.best_of_n_kl(n)`.

    Args:
        start: [..., N] what is sampled from.
        score: [..., N] what is compared.
        n: samples, at least 1.

    Returns:
        [..., N], rows sum to 1.

    Raises:
        ValueError: if the shapes differ or n is below 1.
    """
    if start.shape != score.shape or n < 1:
        raise ValueError(
            f"start and score must have one shape and n be at least 1, got {tuple(start.shape)}, {tuple(score.shape)} "
            f"and {n}"
        )
    other, own = score[..., None, :], score[..., :, None]
    level, below = ((start[..., None, :] * kept).sum(-1) for kept in (other == own, other < own))
    share = start / level.where(level > 0, level.new_ones(()))  # of its level
    policy = share * ((below + level).pow(n) - below.pow(n))
    return policy / policy.sum(-1, keepdim=True)
