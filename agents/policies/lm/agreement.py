"""Self-check of a loaded model: sampling token by token and learning in one pass give the same log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policies.lm.decoder import CachedDecoder, ForwardArguments, refusing_errors
from agents.policies.lm.loading import ModelTokenizer, context_length
from agents.policies.lm.scoring import Root, Texts, chosen, fused_logprob_at, logits_at

_TOLERANCE = 2e-4
"""Nats by which a token's log-probability may differ in float32."""
_HALF_TOLERANCE = 1e-2
"""The same in half precision, on average over the tokens; more if the rounding of large logits is."""
_RESPONSE, _PROMPTS = 6, (2, 6)
"""Tokens of the response that is tried, and of the two prompts before it, which one pass pads."""


@torch.no_grad()
def require_agreement(
    root: Root,
    arguments: ForwardArguments,
    tokenizer: ModelTokenizer,
    plain: bool,
    decoding: type[CachedDecoder] = CachedDecoder,
) -> None:
    """Raises unless a model's cached decoding and its pass over whole texts agree on a short response.

    Three rows of two prompts of different lengths pass through everything that sampling does: padding on the left, a
    prompt that is read once for two rows, and rows that are dropped and exchanged on the way.

    Args:
        root: of the causal language model.
        arguments: of its forward pass.
        tokenizer: whose tokens are tried.
        plain: whether its logits are hidden states times a matrix, as `scoring.is_plain` finds.
        decoding: what writes its responses.

    Raises:
        ValueError: if they differ, or a pass fails.
    """
    model = root.model
    with refusing_errors(model):
        drawn, learned, largest = _logprobs(root, arguments, tokenizer, plain, decoding)
    gaps = (drawn - learned).abs()
    half = model.dtype != torch.float32
    gap = (gaps.mean() if half else gaps.max()).item()
    tolerance = max(_HALF_TOLERANCE, 2 * torch.finfo(model.dtype).eps * largest) if half else _TOLERANCE
    if not gap <= tolerance:
        raise ValueError(
            f"'{model.name_or_path}': {type(model).__name__} draws other tokens than it learns from: between writing a "
            f"short response token by token and reading it whole, log-probabilities differ by {gap:.2g} nats a token, "
            f"and {tolerance:.2g} is rounding; take a decoder, whose tokens see earlier ones alone"
        )


def _logprobs(
    root: Root, arguments: ForwardArguments, tokenizer: ModelTokenizer, plain: bool, decoding: type[CachedDecoder]
) -> tuple[Tensor, Tensor, float]:
    """Returns [M] nats by either way, unconstrained and at temperature 1, and the largest logit's size."""
    model = root.model
    room = min(_RESPONSE + _PROMPTS[1], context_length(model) or _RESPONSE + _PROMPTS[1])
    count = max(1, min(_RESPONSE, room // 2))
    lengths = [max(1, min(length, room - count)) for length in _PROMPTS]
    words = sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids) or [tokenizer.eos_id]
    picked = [words[i * 7919 % len(words)] for i in range(sum(lengths) + 3 * count)]
    first, second = tuple(picked[: lengths[0]]), tuple(picked[lengths[0] : sum(lengths)])
    prompts = [second, first, second]
    tokens = torch.tensor(picked[sum(lengths) :], device=model.device).view(3, count)
    rows = torch.arange(3, device=model.device)
    decoder = decoding(root, arguments, prompts, lambda logits, _: logits.float(), count)
    drawn, largest = torch.zeros(3, count, device=model.device), 0.0
    for t in range(count):
        logits = decoder.logits(rows)
        largest = max(largest, logits.abs().max().item())
        drawn[rows, t] = logits.log_softmax(-1).gather(1, tokens[rows, t, None]).squeeze(1)
        if t == count // 2:
            kept = torch.tensor([2, 1], device=model.device)
            rows = rows[kept]
            decoder.select(kept)
        if t + 1 < count:
            decoder.append(tokens[rows, t])
    lists = tokens[rows].tolist()
    texts = Texts.of([prompts[i] for i in rows.tolist()], lists, model.device)
    if plain:
        learned = root(fused_logprob_at, texts, _as_they_are, 1.0, False)
    else:
        learned = chosen(root(logits_at, texts, False, arguments.last_only, False).float(), texts.tokens)
    return drawn[rows].flatten(), learned, largest


def _as_they_are(logits: Tensor, rows: slice) -> Tensor:
    del rows
    return logits.float()
