"""Token-by-token sampling: temperature, top-k and top-p, and inversion of keyed uniforms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from agents.policies.lm.constraints import Constraints
from agents.policies.lm.decoder import Decoder
from preference_duel.checks import at_least, positive, require, within
from preference_duel.keyed_random_torch import choose, cumulative_sum

_ROUNDING = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}
"""Largest difference, in nats, of the same logit between a cached and a whole forward pass."""
_LOOK = {"cpu": 1}
"""Tokens between two looks at which responses have ended, where it is not 8: to look, the host waits for the device."""


@dataclass(frozen=True)
class SamplingParams:
    """Sampling from a model's logits: temperature first, then top-k, then top-p.

    Attributes:
        temperature: divides the logits, > 0.
        top_k: number of likeliest tokens that stay; 0: all.
        top_p: the likeliest tokens stay whose mass first reaches this share, in (0, 1]; 1: all.

    Raises:
        ValueError: if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        temperature = replace(positive, reason="top_k=1 always takes the likeliest token")
        require(self, temperature=temperature, top_k=at_least(0, "0 keeps all tokens"), top_p=within("(0, 1]"))

    @property
    def truncates(self) -> bool:
        """True if some legal tokens get probability 0."""
        return self.top_k > 0 or self.top_p < 1

    def processed(
        self, logits: Tensor, legal: Tensor, tokens: Tensor | None = None, *, in_place: bool = False
    ) -> Tensor:
        """Returns the logits that tokens are sampled from.

        Args:
            logits: [R, V] of the model, any float type.
            legal: [R, V] or [1, V] bool.
            tokens: [R] tokens that were sampled here. One that lies within rounding of the truncation's edge counts as
                inside it: a forward pass of another shape must not call a sample impossible.
            in_place: whether the logits may be overwritten.

        Returns:
            [R, V] float32, -inf where a token can't be sampled.
        """
        scaled = logits.float() if self.temperature == 1 else logits.float() / self.temperature
        scaled = _without(scaled, ~legal, in_place)
        if not self.truncates:
            return scaled
        with torch.no_grad():
            edge = self._edge(scaled)
            if tokens is not None:
                own = scaled.gather(1, tokens[:, None])
                slack = _ROUNDING.get(logits.dtype, 0.0) / self.temperature
                edge = torch.where((own < edge) & (own > edge - slack), own, edge)
        return scaled.masked_fill(scaled < edge, -torch.inf)

    def _edge(self, scaled: Tensor) -> Tensor:
        """Returns [R, 1] the lowest logit that stays; equal ones stay together."""
        ordered = scaled.topk(min(self.top_k or scaled.shape[1], scaled.shape[1])).values
        if self.top_p == 1:
            return ordered[:, -1:]
        probs = ordered.softmax(-1)
        before = cumulative_sum(probs) - probs
        return ordered.masked_fill(before >= self.top_p, torch.inf).amin(-1, keepdim=True)


def _without(logits: Tensor, illegal: Tensor, in_place: bool) -> Tensor:
    """Returns logits [R, V] that are -inf where tokens are illegal, [R, V] or [1, V]."""
    if logits.device.type == "cpu" and len(illegal) == 1:  # a few columns; a device would be waited for
        columns = illegal[0].nonzero().squeeze(1)
        return (logits.index_fill_ if in_place else logits.index_fill)(1, columns, -torch.inf)
    return (logits.masked_fill_ if in_place else logits.masked_fill)(illegal, -torch.inf)


class Generation(NamedTuple):
    """A response in tokens, and the nats of each by the distribution that it was sampled from, if they are known."""

    tokens: list[int]
    token_logprob: list[float] | None = None


@torch.no_grad()
def generate(decoder: Decoder, constraints: Constraints, uniforms: Tensor) -> list[Generation]:
    """Samples one response for each row, by inversion of the cumulative distribution.

    Args:
        decoder: R empty responses.
        constraints: legal tokens and ends.
        uniforms: [R, limit] float64 on the decoder's device; token t of row r takes uniforms[r, t].

    Returns:
        R responses.
    """
    every = _LOOK.get(uniforms.device.type, 8)
    tokens = torch.full(uniforms.shape, -1, dtype=torch.long, device=uniforms.device)
    nats = torch.zeros(uniforms.shape, device=uniforms.device)
    rows = torch.arange(len(uniforms), device=uniforms.device)
    states = torch.full_like(rows, constraints.first)
    live = torch.ones_like(rows, dtype=torch.bool)
    for t in range(constraints.limit):
        probs = decoder.logits(states).softmax(-1)
        chosen = torch.where(live, choose(probs, uniforms[rows, t, None]).squeeze(1), 0)
        tokens[rows, t] = torch.where(live, chosen, -1)
        nats[rows, t] = probs.gather(1, chosen[:, None]).squeeze(1).log()
        if t + 1 == constraints.limit:
            break
        states = torch.where(live, constraints.follow(states, chosen), states)
        live = live & ~constraints.ended(states)
        if (t + 1) % every == 0:
            going = live.nonzero().squeeze(1)
            if not len(going):
                break
            if len(going) <= 0.75 * len(live):  # moving the caches costs about as much as one step
                decoder.select(going)
                rows, states, live, chosen = rows[going], states[going], live[going], chosen[going]
        decoder.append(chosen)
    found = zip(tokens.tolist(), nats.tolist(), (tokens >= 0).sum(1).tolist(), strict=True)
    return [Generation(row[:length], logprob[:length]) for row, logprob, length in found]
