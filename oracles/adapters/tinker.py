"""Preference models for tinker_cookbook's pairwise reinforcement learning."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from oracles.adapters.messages import Messages, completion_text, prompt_text
from oracles.base import ask_pairs
from preference_duel.protocols import Oracle


class Comparison(Protocol):
    """Fields of tinker_cookbook.preference.types.Comparison."""

    prompt_conversation: Messages
    completion_A: Messages
    completion_B: Messages


class DuelPreferenceModel:
    """Answers as `tinker_cookbook.preference.types.PreferenceModel` does: from -1 (A is preferred) to 1 (B is).

    Comparisons that wait at the same time, as those of a group do, are asked in one batch. Both orders are asked if the
    oracle is not antisymmetric, so that `ALL_PAIRS_ONE_WAY` is unbiased.

    Args:
        oracle: answers; a question without an answer raises.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self._waiting: list[tuple[tuple[str, str, str], asyncio.Future[float]]] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def __call__(self, comparison: Comparison) -> float:
        """Returns P(B beats A) - P(A beats B)."""
        question = (
            prompt_text(comparison.prompt_conversation),
            completion_text(comparison.completion_A),
            completion_text(comparison.completion_B),
        )
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        await asyncio.sleep(0)  # the other comparisons of the group join
        batch, self._waiting = self._waiting, []
        if batch:
            asking = asyncio.create_task(self._ask(batch))  # a task of its own: it outlives a caller that is cancelled
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        return 1 - 2 * await answer

    async def _ask(self, batch: Sequence[tuple[tuple[str, str, str], asyncio.Future[float]]]) -> None:
        prompts, first, second = ([question[i] for question, _ in batch] for i in range(3))
        awaited = [answer for _, answer in batch]
        try:
            chances = (await asyncio.to_thread(ask_pairs, self.oracle, prompts, first, second)).tolist()
        except Exception as error:
            for answer in awaited:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, chance in zip(awaited, chances, strict=True):
            if not answer.done():
                answer.set_result(chance)
