"""Responses written token by token: what may come next, drawing by inversion, the log-probability of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.policies.lm.constraints import Rules
from agents.policies.lm.decoder import Autoregressive, Reader
from preference_duel import distributed
from preference_duel.keyed_random import Key
from preference_duel.keyed_random_torch import choose
from preference_duel.types import Completion

UNLEARNED = 4
"""How many times as many tokens fit into a pass that keeps nothing for a gradient."""
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


def token_logprob(
    policy: Autoregressive, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]
) -> tuple[Tensor, Tensor]:
    """Returns the log-probability of every token under the law that `draw` uses, differentiable.

    Responses of like length are read together. Where they have more than `micro_tokens` together, one group at a time
    holds what its gradient needs, and is read again for it. Without gradients processes share the responses; with them
    each reads what it was given, in one pass where the policy is sharded.

    Args:
        policy: the policy.
        prompts: B prompts.
        responses: [B][K] responses.

    Returns:
        [B, K, T] nats, 0 after a response's end, and the mask [B, K, T]: True where a token counts.
    """
    flat = [(prompt, policy.tokens_of(y)) for prompt, row in zip(prompts, responses, strict=True) for y in row]
    lengths = [len(tokens) for _, tokens in flat]
    width = max(lengths, default=0)
    read = [policy.prompt_length(prompt) + len(tokens) for prompt, tokens in flat]
    learns = torch.is_grad_enabled()
    most = policy.micro_tokens if learns else UNLEARNED * policy.micro_tokens
    own = [i for i in (range(len(flat)) if learns else distributed.share(len(flat))) if lengths[i]]
    whole = learns and policy.sharded
    passes = [own] if whole else [[own[i] for i in group] for group in groups([read[i] for i in own], most)]
    again = learns and not whole and sum(read) > most
    values, places = [], []
    with nullcontext() if learns else policy.gathered():
        for part in filter(None, passes):
            texts = [flat[i][0] for i in part], [flat[i][1] for i in part]
            values.append(
                checkpoint(policy.written_logprob, *texts, use_reentrant=False, preserve_rng_state=False)
                if again
                else policy.written_logprob(*texts)
            )
            places += [i * width + t for i in part for t in range(lengths[i])]
    index = torch.tensor(places, dtype=torch.long, device=policy.device)
    result = torch.zeros(len(flat) * width, device=policy.device)
    if values:
        result = result.index_put((index,), torch.cat(values))
    if not learns:
        distributed.add(result)
    mask = torch.arange(width, device=policy.device) < torch.tensor(lengths, device=policy.device)[:, None]
    shape = len(prompts), -1, width
    return result.reshape(shape), mask.reshape(shape)


def chosen(scores: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Returns [M] nats of the M tokens of R responses whose scores [M, V] stood before them."""
    written = torch.tensor([token for row in tokens for token in row], dtype=torch.long, device=scores.device)
    return scores.gather(1, written[:, None]).squeeze(1) - scores.logsumexp(-1)


def groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Returns groups of at most `most` tokens, padding included, and at least one text.

    The lengths in a group differ by a quarter at most: little is padded.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        group = groups[-1] if groups else []
        if not group or (len(group) + 1) * lengths[i] > most or lengths[i] > 1.25 * lengths[group[0]]:
            groups.append([])
        groups[-1].append(i)
    return groups


def packed(weights: Sequence[int], most: int) -> list[list[int]]:
    """Returns the indices of some weights, the lightest first, in parts of at most `most` and at least one."""
    parts: list[list[int]] = []
    total = 0
    for i in sorted(range(len(weights)), key=weights.__getitem__):
        total += weights[i]
        if not parts or total > most:
            parts.append([])
            total = weights[i]
        parts[-1].append(i)
    return parts
