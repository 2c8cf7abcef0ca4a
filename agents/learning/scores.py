"""Scores of a duel's responses, by which losses learn, and what they are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agents import losses
from preference_duel.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Batch
    from preference_duel.protocols import Policy, TokenTerm
    from preference_duel.types import Completion, Duel


PairLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""Returns a loss [b, K, L] of the scores [b, K, 1] of the first responses and [b, 1, L] of the second ones, and of the
probabilities [b, K, L] that the first wins; a loss of margins takes the difference of the two. Scores that have a term
beside them are [b, K, 1, 2] and [b, 1, L, 2]."""

ScoreLoss = Callable[["Tensor", "Batch"], "Tensor"]
"""Returns a loss [b] of the scores [b, K], of two seats [b, K + L], of a part of the batch."""


@dataclass(frozen=True)
class Score:
    """How a response is scored for a loss: by log pi - log reference, unless a field says otherwise.

    Attributes:
        to_reference: whether log reference is subtracted; if not, an agent keeps no reference.
        per_token: whether that is divided by the response's tokens, as the policy writes them.
        charge: nats by which each token of a response lowers log reference.
        term: what is scored beside it, summed over tokens; then a response has two scores, in a last dimension.
    """

    to_reference: bool = True
    per_token: bool = False
    charge: float = 0.0
    term: TokenTerm | None = None


LOG_RATIO = Score()
"""log pi - log reference."""


@dataclass(frozen=True)
class Scale:
    """What the scores of a duel's responses are measured by, all [B, K] (self-play) or [B, K + L].

    Attributes:
        anchor: nats that are subtracted from log pi.
        lengths: what the differences are divided by; None: they are the scores.
        read: returns log pi [b, K] and a second score [b, K] of prompts and responses; None: there is but one.
    """

    anchor: Tensor
    lengths: Tensor | None = None
    read: Callable[[Sequence[str], Sequence[Sequence[Completion]]], tuple[Tensor, Tensor]] | None = None


def responses_of(duel: Duel) -> list[list[Completion]]:
    """Returns what both seats hold, [B][K] in self-play or of thumbs, else [B][K + L] the left ones first."""
    if duel.self_play or duel.feedback == "thumb":
        return [list(row) for row in duel.left]
    return [[*left, *right] for left, right in zip(duel.left, duel.right, strict=True)]


def pair_weight(duel: Duel) -> Tensor:
    """Returns [B, K, L] how much each pair of a duel counts, see `losses.pair_weight`."""
    return losses.pair_weight(duel.left_weight, duel.right_weight, duel.asked, duel.exact)


def seats(duel: Duel, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scores [B, K, 1] of the first responses and [B, 1, L] of the second ones of `responses_of(duel)`.

    Raises:
        ValueError: if the second ones are not shown.
    """
    if duel.feedback == "thumb":
        raise ValueError("a loss of pairs needs both responses, and a thumb shows one; take an agent such as kto")
    count = len(duel.left[0])
    first, second = (scores, scores) if duel.self_play else (scores[:, :count], scores[:, count:])
    return first[:, :, None], second[:, None, :]


def token_counts(policy: Policy, responses: Sequence[Sequence[Completion]]) -> Tensor:
    """Returns [B, K] the tokens in which a policy writes responses, the one that ends them included.

    Raises:
        ValueError: if the policy does not know them.
    """
    return torch.tensor([[policy.length(y) for y in row] for row in responses])


def require_finite(ratio: Tensor) -> Tensor:
    """Returns log-ratios [B, K] unchanged.

    Raises:
        ValueError: if one is not finite.
    """
    if not ratio.isfinite().all():
        raise ValueError(
            "a log-ratio is not finite: the policy gives probability 0 to a response that is learned from, or its "
            "weights are not finite; train with top_p=1 and top_k=0, or lower the learning rate"
        )
    return ratio


def token_logprob(
    policy: Policy, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]
) -> tuple[Tensor, Tensor]:
    """Returns the log-probability of each token; a policy without tokens has one, the whole response.

    Returns:
        [B, K, T] nats, differentiable, and the mask [B, K, T]: True where a token counts.
    """
    tokenwise = getattr(policy, "token_logprob", None)
    if tokenwise is not None:
        return tokenwise(prompts, responses)
    whole = policy.logprob(prompts, responses)[..., None]
    return whole, torch.ones_like(whole, dtype=torch.bool)


def sampled_logprob(responses: Sequence[Sequence[Completion]], like: Tensor) -> Tensor:
    """Returns the nats of each token by what sampled it: [B, K, T], of the kind of a tensor, 0 after a response's end.

    Raises:
        ValueError: if the sampler did not say.
    """
    result = torch.zeros(like.shape)
    for b, row in enumerate(responses):
        for k, response in enumerate(row):
            if response.token_logprob is None:
                raise ValueError(
                    "sampler_cap needs the log-probabilities of what samples; language models and vLLM in this process "
                    "give them, exact policies, tables and a server of vLLM do not: leave sampler_cap out"
                )
            result[b, k, : len(response.token_logprob)] = torch.tensor(response.token_logprob)
    return to_device(result.to(like.dtype), like.device)
