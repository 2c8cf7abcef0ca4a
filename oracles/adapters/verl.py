"""A reward function for verl, which asks for one completion at a time: a client of `runners.serve`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from oracles.adapters.messages import prompt_text
from preference_duel.json_text import short

PAUSE = 1.0
"""Seconds between two requests for the same completion."""


def duel_score(
    url: str, *, group_size: int, prompt: str = "question", index: str = "index", tries: int = 5
) -> Callable[..., Coroutine[Any, Any, dict[str, float]]]:
    """Returns a function for `reward.custom_reward_function`, which rewards a completion within its prompt's group.

    The server waits for the other completions of the prompt (`python -m runners.serve --oracle ...`).

    Args:
        url: of the server, with the token if it needs one.
        group_size: K, `actor_rollout_ref.rollout.n`.
        prompt: key of `extra_info` under which the prompt's text or messages are.
        index: key of `extra_info` that tells prompts apart.
        tries: requests for a completion whose group is not whole in time.
    """
    clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    async def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **more: Any
    ) -> dict[str, float]:
        """Returns {"score": reward}.

        Raises:
            ValueError: if `extra_info` lacks a key.
            RuntimeError: if the server gives no reward, with its reason.
        """
        del ground_truth, more
        missing = [key for key in (prompt, index) if key not in (extra_info or {})]
        if missing or extra_info is None:
            raise ValueError(
                f"extra_info must have {' and '.join(map(repr, missing))}, got {short(sorted(extra_info or {}))}: "
                f"write the prompt and its number into the data set, or name other keys to duel_score"
            )
        question = str(prompt_text(extra_info[prompt]))
        content = {
            "query": [question + solution_str],
            "prompts": [question],
            "prompt_ids": [f"{data_source} {extra_info.get('split')} {extra_info[index]}"],
            "sample_ids": [uuid.uuid4().hex],  # by which a second try is the same completion
            "group_size": group_size,
        }
        loop = asyncio.get_running_loop()
        if loop not in clients:  # as many connections as completions: all of a group must wait at once
            clients[loop] = httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=None))
        return {"score": await _reward(clients[loop], content, tries)}

    return compute_score


async def _reward(client: httpx.AsyncClient, content: Mapping[str, Any], tries: int) -> float:
    reason = ""
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(PAUSE)
        try:
            answer = await client.post("/get_reward", json=content)
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} {error}"
            continue
        if answer.status_code == 200:
            return float(answer.json()["rewards"][0])
        reason = f"status {answer.status_code}: {answer.text}"
        if answer.status_code not in (502, 503):
            break
    raise RuntimeError(f"no reward of {client.base_url}: {reason}")
