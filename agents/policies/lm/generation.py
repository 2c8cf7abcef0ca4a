"""Responses written token by token: what may come next, drawing by inversion, the log-probability of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.policies.lm.constraints import Rules
from agents.policies.lm.decoder import Autoregressive, Reader
from agents.policies.lm.scoring import UNLEARNED
from preference_duel import distributed
from preference_duel.keyed_random import Key
from preference_duel.keyed_random_torch import choose
from preference_duel.types import Completion

_ROUNDING = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}
"""How far, in nats, the same logit may lie apart between a cached and a whole forward pass."""


@dataclass(frozen=True)
class Sharpening:
    """How a model's logits become the law that is drawn from: temperature first, then top-k, then top-p.

    Attributes:
        temperature: divides the logits, > 0.
        top_k: only so many of the likeliest tokens stay; 0: all.
        top_p: only the likeliest tokens stay whose mass first reaches this share, in (0, 1]; 1: all.

    Raises:
        ValueError: if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be positive, got {self.temperature}; top_k=1 always takes the likeliest"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0: all tokens), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    @property
    def truncates(self) -> bool:
        """True where some legal tokens get probability 0."""
        return self.top_k > 0 or self.top_p < 1

    def scores(self, logits: Tensor, legal: Tensor, written: Tensor | None = None, *, in_place: bool = False) -> Tensor:
        """Returns the log-law up to a constant of each row.

        Args:
            logits: [R, V] of the model, any float type.
            legal: [R, V] or [1, V] bool.
            written: [R] the tokens that a drawn response has here. One that lies within rounding of the truncation's
                edge counts as inside it: another way through the same network must not call a draw impossible.
            in_place: whether the logits may be overwritten.

        Returns:
            [R, V] float32, -inf where a token cannot be drawn.
        """
        scores = logits.float() if self.temperature == 1 else logits.float() / self.temperature
        scores = scores.masked_fill_(~legal, -torch.inf) if in_place else scores.masked_fill(~legal, -torch.inf)
        if not self.truncates:
            return scores
        with torch.no_grad():
            edge = self._edge(scores)
            if written is not None:
                own = scores.gather(1, written[:, None])
                slack = _ROUNDING.get(logits.dtype, 0.0) / self.temperature
                edge = torch.where((own < edge) & (own > edge - slack), own, edge)
        return scores.masked_fill(scores < edge, -torch.inf)

    def _edge(self, scores: Tensor) -> Tensor:
        """Returns [R, 1] the lowest score that stays; equal scores stay together."""
        ordered = scores.topk(min(self.top_k or scores.shape[1], scores.shape[1])).values
        if self.top_p == 1:
            return ordered[:, -1:]
        law = ordered.softmax(-1)
        before = law.cumsum(-1) - law
        return ordered.masked_fill(before >= self.top_p, torch.inf).amin(-1, keepdim=True)


@torch.no_grad()
def write(reader: Reader, rules: Rules, uniforms: Tensor) -> list[list[int]]:
    """Draws one response for each row.

    Args:
        reader: R responses of which nothing is written yet.
        rules: where they end.
        uniforms: [R, limit] float64 on the reader's device; token t of row r takes uniforms[r, t].

    Returns:
        R lists of tokens.
    """
    tokens = torch.full(uniforms.shape, -1, dtype=torch.long, device=uniforms.device)
    rows = torch.arange(len(uniforms), device=uniforms.device)
    states = torch.full_like(rows, rules.first)
    live = torch.ones_like(rows, dtype=torch.bool)
    for t in range(rules.limit):
        chosen = torch.where(live, choose(reader.scores(states).softmax(-1), uniforms[rows, t, None]).squeeze(1), 0)
        tokens[rows[live], t] = chosen[live]
        states = torch.where(live, rules.follow(states, chosen), states)
        live = live & ~rules.ended(states)
        going = int(live.sum())
        if not going:
            break
        if going <= 0.75 * len(live):  # moving the caches costs about as much as one step
            kept = live.nonzero().squeeze(1)
            reader.keep(kept)
            rows, states, live, chosen = rows[kept], states[kept], live[kept], chosen[kept]
        reader.append(chosen)
    return [row[: row.index(-1)] if -1 in row else row for row in tokens.tolist()]


def draw(policy: Autoregressive, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
    """Draws n responses for each prompt, as many at a time as there is room for; processes share the prompts.

    Returns:
        Responses [B][n], and their weights 1/n: [B, n] on the CPU.
    """
    shape = len(prompts), n, policy.rules.limit
    own = distributed.share(shape[0])
    b, k, t = np.ogrid[own.start : own.stop : own.step, : shape[1], : shape[2]]
    uniforms = torch.from_numpy(key.uniform(k=k, l=b, vote=t)).reshape(-1, shape[2])
    written: list[list[int]] = []
    longest = max((policy.prompt_length(prompt) for prompt in prompts), default=0) + shape[2]
    rows_at_once = max(1, UNLEARNED * policy.micro_tokens // longest)
    with policy.gathered():
        for rows in torch.tensor(own, dtype=torch.long).repeat_interleave(n).split(rows_at_once):
            part = uniforms[len(written) : len(written) + len(rows)].to(policy.device)
            written += write(policy.reader(prompts, rows.tolist()), policy.rules, part) if len(rows) else []
    by_prompt = distributed.exchange([written[i : i + n] for i in range(0, len(written), n)], shape[0])
    return [policy.completions(rows) for rows in by_prompt], torch.full(shape[:2], 1 / n)
