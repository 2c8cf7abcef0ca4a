"""A check of the contract of an oracle, built-in or your own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from oracles.base import answers_of, require_prob
from preference_duel.protocols import Oracle, PayoffOracle

__all__ = ["check_oracle", "require_prob"]


def check_oracle(oracle: Oracle, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> None:
    """Checks range, determinism, batch independence, antisymmetry, and `payoff` against `prob`.

    Answers may differ by 1e-9 in float64 and by 1e-5 in float32; the same question asked twice must have the same
    answer to the last bit.

    Args:
        oracle: the oracle to check.
        prompts: B prompts.
        responses: `[B][K]` responses, K >= 2.

    Raises:
        ValueError: naming the broken promise and the pair that broke it.
        Unanswered: if a pair is left unread.
    """
    widths = {len(row) for row in responses}
    if len(prompts) != len(responses) or len(widths) != 1 or min(widths) < 2:
        raise ValueError(
            f"check_oracle needs as many responses, at least 2, for each of the {len(prompts)} prompts; got "
            f"{len(responses)} rows of {sorted(widths)}"
        )
    name = type(oracle).__name__
    triples = [
        (prompt, first, second)
        for prompt, texts in zip(prompts, responses, strict=True)
        for first in texts
        for second in texts
    ]
    asked, first, second = ([triple[i] for triple in triples] for i in range(3))

    def ask(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        return answers_of(oracle, prompts, first, second)

    prob = ask(asked, first, second)

    def require(close: Tensor, other: Tensor, promise: str) -> None:
        if not close.all():
            i = int((~close).nonzero()[0])
            raise ValueError(f"{name}: {promise}; {triples[i]!r} got {prob[i].item():.9g} and {other[i].item():.9g}")

    tolerance = 1e-9 if prob.dtype == torch.float64 else 1e-5
    again = ask(asked, first, second)
    require(again == prob, again, "the same question must get the same answer twice")
    alone = torch.cat([ask([x], [a], [b]) for x, a, b in triples])
    require((alone - prob).abs() <= tolerance, alone, "an answer must not depend on the rest of the batch")
    if oracle.antisymmetric:
        swapped = ask(asked, second, first)
        promise = "prob(a, b) + prob(b, a) must be 1, so prob(a, a) 1/2"
        require((swapped + prob - 1).abs() <= tolerance, swapped, promise)
    if isinstance(oracle, PayoffOracle):
        for answers in _payoff_answers(oracle, prompts, responses):
            require((answers - prob).abs() <= tolerance, answers, "payoff must agree with prob")


def _payoff_answers(
    oracle: PayoffOracle, prompts: Sequence[str], responses: Sequence[Sequence[str]]
) -> Iterator[Tensor]:
    """Yields [B * K * K] answers of `payoff`: asked as a square, and with the first row asked alone."""
    name, width = f"{type(oracle).__name__}.payoff", len(responses[0])
    square = oracle.payoff(prompts, responses, responses)
    require_prob(square, (len(prompts), width, width), name)
    yield square.reshape(-1)
    row = oracle.payoff(prompts, [texts[:1] for texts in responses], responses)
    require_prob(row, (len(prompts), 1, width), name)
    yield torch.cat([row, square[:, 1:]], dim=1).reshape(-1)
