"""Soft values of the beginnings of responses: the credit that a reward of whole responses gives to each token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.games.tries import Trie
from envs.games.validation import require_distribution


def soft_values(responses: Sequence[Sequence[int]], ref: Tensor, reward: Tensor, tau: float) -> Tensor:
    """Returns the optimal value of every beginning of every response, in the token game with KL coefficient tau.

    V(y) = R(y) at a response's end, and before it V(y_<t) = tau log E_ref exp(V(y_<t, token) / tau) (Rafailov et al.
    2024, arXiv:2404.12358), which is tau log of the mean of exp(R / tau) over the responses that begin so.
    From it follow Q(y_<t, y_t) = tau log ref(y_t | y_<t) + V(y_<=t), the credit of a token

        V(y_<=t) - V(y_<t) = tau log pi(y_t | y_<t) / ref(y_t | y_<t),

    pi = ref exp(R / tau) / Z, and their sum R(y) - V(). With reward = tau log pi / ref the values are those of any
    policy, and their differences its credits.

    Args:
        responses: N token strings; one that is the beginning of another gets an end as its last token.
        ref: [..., N] probabilities under the reference, positive.
        reward: [..., N] of whole responses.
        tau: KL coefficient, positive.

    Returns:
        [..., N, T + 1] float64: of the first t tokens of each response, T the longest; R from a response's end on.

    Raises:
        ValueError: if `ref` is no positive distribution over the responses, the shapes differ or tau is not positive.
    """
    ref, reward = require_distribution("ref", ref, positive=True), torch.as_tensor(reward, dtype=torch.float64)
    if not ref.shape[-1:] == reward.shape[-1:] == (len(responses),):
        raise ValueError(
            f"{len(responses)} responses need as many entries, got {tuple(ref.shape)}, {tuple(reward.shape)}"
        )
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau:g}")
    trie = Trie(responses)
    values = tau * (trie.logsumexp(ref.log() + reward / tau) - trie.logsumexp(ref.log()))
    return values[..., trie.paths]
