"""The contract of an oracle, as a check that anyone can run on their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from oracles.base import Oracle, PayoffOracle


def require_prob(prob: torch.Tensor, shape: tuple[int, ...], who: str) -> None:
    """Raises unless `prob` has this shape and holds finite probabilities.

    Raises:
        ValueError: with the first offending value.
    """
    if tuple(prob.shape) != shape:
        raise ValueError(f"{who} must return shape {shape}, got {tuple(prob.shape)}")
    if not prob.is_floating_point():
        raise ValueError(f"{who} must return float32 or float64, got {prob.dtype}")
    bad = ~((prob >= 0) & (prob <= 1))
    if bad.any():
        raise ValueError(f"prob must lie in [0, 1], {who} returned {prob[bad][0].item():g}; is it returning logits?")


def check_oracle(oracle: Oracle, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> None:
    """Checks range, antisymmetry, ties, batch independence, determinism and `payoff` against `prob`.

    Args:
        oracle: the oracle to check.
        prompts: B prompts.
        responses: [B][K] responses, K >= 2.

    Raises:
        ValueError: naming the broken promise and the pair that broke it.
    """
    name = type(oracle).__name__
    triples = [
        (prompt, first, second)
        for prompt, texts in zip(prompts, responses, strict=True)
        for first in texts
        for second in texts
    ]
    asked, first, second = ([triple[i] for triple in triples] for i in range(3))
    prob = oracle.prob(asked, first, second)
    require_prob(prob, (len(triples),), name)
    tolerance = 1e-9 if prob.dtype == torch.float64 else 1e-5

    def require(close: torch.Tensor, promise: str) -> None:
        if not close.all():
            i = int((~close).nonzero()[0])
            raise ValueError(f"{name}: {promise}; broken for {triples[i]!r}, where prob is {prob[i].item():.6g}")

    require((oracle.prob(asked, first, second) == prob), "the same question must get the same answer twice")
    alone = torch.cat([oracle.prob([x], [a], [b]) for x, a, b in triples])
    require((alone - prob).abs() <= tolerance, "an answer must not depend on the rest of the batch")
    if oracle.antisymmetric:
        swapped = oracle.prob(asked, second, first)
        require((swapped + prob - 1).abs() <= tolerance, "prob(a, b) + prob(b, a) must be 1")
        same = torch.tensor([a == b for a, b in zip(first, second, strict=True)])
        require(~same | ((prob - 0.5).abs() <= tolerance), "prob(a, a) must be 1/2")
    if isinstance(oracle, PayoffOracle):
        matrix = oracle.payoff(prompts, responses, responses)
        require((matrix.reshape(-1) - prob).abs() <= tolerance, "payoff must agree with prob")
