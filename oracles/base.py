"""Queries to an oracle: payoff matrices, pairs and Bernoulli outcomes, with checks of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preference_duel.keyed_random import Key, verdict
from preference_duel.protocols import Oracle, PayoffOracle, leaves_unread
from preference_duel.types import Unanswered


def require_prob(prob: Tensor, shape: tuple[int, ...], source: str) -> None:
    """Raises unless `prob` is a tensor of this shape, on the CPU, that holds finite probabilities.

    Raises:
        ValueError: with the first offending value.
    """
    if not isinstance(prob, Tensor) or prob.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{source} must return a float32 or float64 tensor, got {getattr(prob, 'dtype', type(prob))}")
    if tuple(prob.shape) != shape:
        raise ValueError(f"{source} must return shape {shape}, got {tuple(prob.shape)}")
    if prob.device.type != "cpu":
        raise ValueError(f"{source} must return its answers on the CPU, got {prob.device}; add .cpu()")
    bad = ~((prob >= 0) & (prob <= 1))
    if bad.any():
        raise ValueError(f"prob must lie in [0, 1], {source} returned {prob[bad][0].item():g}; is it returning logits?")


def payoff(
    oracle: Oracle,
    prompts: Sequence[str],
    left: Sequence[Sequence[str]],
    right: Sequence[Sequence[str]] | None = None,
    ask: Tensor | None = None,
    partial: bool = False,
) -> Tensor:
    """Returns P(left k beats right l) for every prompt, asking each pair once.

    In self-play (`right` is None) each unordered pair is asked once, the other half is 1 - it and the diagonal
    is 1/2. If the oracle is not antisymmetric, both orders are asked and averaged, so that the seat does not
    matter.

    Args:
        oracle: the oracle.
        prompts: B prompts.
        left: `[B][K]` responses.
        right: `[B][L]` responses; None: the left ones.
        ask: [B, K, L] bool, True where the answer is wanted; the others come back as 1/2. None: all.
        partial: whether pairs that the oracle left unread come back as NaN; False: one of them raises.

    Returns:
        [B, K, L] on the CPU.

    Raises:
        ValueError: if the oracle answers anything but probabilities of the right shape.
        Unanswered: if it leaves a pair unread, and `partial` is False.
    """
    opposite = left if right is None else right
    if ask is not None and right is None:
        ask = ask | ask.mT
    if isinstance(oracle, PayoffOracle):
        return _read_alone(oracle, prompts, left, opposite, ask)
    wanted = torch.ones(len(prompts), len(left[0]), len(opposite[0]), dtype=torch.bool) if ask is None else ask
    if right is None:
        wanted = wanted.triu(1)
    pairs: list[tuple[int, int, int]] = [tuple(index) for index in wanted.nonzero().tolist()]
    if not pairs:
        return torch.full(wanted.shape, 0.5, dtype=torch.float64)
    asked = [prompts[b] for b, _, _ in pairs]
    first = [left[b][k] for b, k, _ in pairs]
    second = [opposite[b][l] for b, _, l in pairs]
    answers = ask_pairs(oracle, asked, first, second, partial)
    prob = torch.full(wanted.shape, 0.5, dtype=answers.dtype)
    prob[wanted] = answers
    if right is None:
        prob.mT[wanted] = 1 - answers
    return prob


def ask_pairs(
    oracle: Oracle, prompts: Sequence[str], first: Sequence[str], second: Sequence[str], partial: bool = False
) -> Tensor:
    """Returns [N] P(first beats second | prompt), both orders averaged if the oracle is not antisymmetric.

    Args:
        oracle: the oracle.
        prompts: N prompts.
        first: N responses.
        second: N responses.
        partial: whether pairs that the oracle left unread, in any order, come back as NaN; False: one of them raises.

    Raises:
        ValueError: if the oracle answers anything but N probabilities.
        Unanswered: if it leaves a pair unread, and `partial` is False.
    """
    answers = answers_of(oracle, prompts, first, second, partial)
    if oracle.antisymmetric:
        return answers
    return _average(answers, answers_of(oracle, prompts, second, first, partial))


def answers_of(
    oracle: Oracle, prompts: Sequence[str], first: Sequence[str], second: Sequence[str], partial: bool = False
) -> Tensor:
    """Returns [N] P(first beats second | prompt) as the oracle gives it, in this order alone; see `ask_pairs`."""
    answers = oracle.prob(prompts, first, second)
    shape = (len(prompts),)
    if prompts and isinstance(answers, Tensor) and answers.dtype == torch.float64 and answers.device.type == "cpu":
        values = answers.numpy()  # whose reductions of few numbers cost half of torch's
        if values.shape == shape and values.min() >= 0 and values.max() <= 1:
            return answers
    return require_answers(oracle, answers, shape, partial)


def require_answers(oracle: Oracle, answers: Tensor, shape: tuple[int, ...], partial: bool = False) -> Tensor:
    """Returns the answers of an oracle, once they are found to be probabilities; see `ask_pairs` for the errors."""
    name = type(oracle).__name__
    if not leaves_unread(oracle) or not isinstance(answers, Tensor):
        require_prob(answers, shape, name)
        return answers
    unread = answers.isnan()
    require_prob(answers.masked_fill(unread, 0.5), shape, name)
    if unread.any() and not partial:
        raise Unanswered(
            f"{name} left {int(unread.sum())} of {unread.numel()} pairs unread, and each is needed here: nothing is "
            f"put in place of an answer. Change the judge's question, format or token budget, or take another judge"
        )
    return answers


def _average(prob: Tensor, swapped: Tensor) -> Tensor:
    """Returns P without position bias: the mean of P(a, b) and 1 - P(b, a)."""
    return (prob + 1 - swapped) / 2


def _read_alone(
    oracle: PayoffOracle,
    prompts: Sequence[str],
    left: Sequence[Sequence[str]],
    right: Sequence[Sequence[str]],
    ask: Tensor | None,
) -> Tensor:
    shape = (len(prompts), len(left[0]), len(right[0]))
    prob = oracle.payoff(prompts, left, right)
    require_prob(prob, shape, f"{type(oracle).__name__}.payoff")
    if not oracle.antisymmetric:
        prob = _average(prob, oracle.payoff(prompts, right, left).mT)
    return prob if ask is None else torch.where(ask, prob, torch.full_like(prob, 0.5))


def outcomes(oracle: Oracle, prompts: Sequence[str], first: Sequence[str], second: Sequence[str], key: Key) -> Tensor:
    """Returns the Bernoulli verdicts of N duels: True where the first response won.

    Args:
        oracle: the oracle.
        prompts: N prompts.
        first: N responses.
        second: N responses.
        key: names the uniforms; `key.episode` is [N], one for each duel.

    Returns:
        [N] bool on the CPU.

    Raises:
        ValueError: if the oracle answers anything but N probabilities.
        Unanswered: if it leaves one unread.
    """
    return draw(answers_of(oracle, prompts, first, second), key)


def draw(prob: Tensor, key: Key, k: Any = 0, l: Any = 0, vote: Any = 0) -> Tensor:
    """Draws y ~ Bernoulli(prob) at the key's positions."""
    uniforms = np.broadcast_to(key.uniform(k, l, vote), prob.shape)
    return verdict(prob.double(), torch.from_numpy(uniforms.copy()))
