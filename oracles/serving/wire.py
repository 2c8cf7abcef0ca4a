"""Requests and answers of the trainers' protocols: one pair of functions for each.

Read in the trainers' sources in August 2026: `openrlhf/utils/agent.py` and `openrlhf/cli/serve_rm.py` of OpenRLHF,
`resources_servers/genrm_compare` of NeMo-Gym, `oat/oracles/remote` of oat. What does not fit is a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oracles.adapters.messages import Messages, prompt_text
from oracles.group_rewards import GroupRewards
from oracles.serving.cohorts import Sample
from preference_duel.json_text import short

Pairs = tuple[list[str], list[tuple[str, str]]]
"""Prompts, and two responses to each."""
NG_TASK, NG_ROLLOUT = "_ng_task_index", "_ng_rollout_index"


def read_prob(content: Any) -> Pairs:
    """Reads {"prompts": [...], "first": [...], "second": [...]}; a prompt is text or a list of messages."""
    prompts = [prompt_text(prompt) for prompt in _list(content, "prompts")]
    first, second = (_texts(content, name, len(prompts)) for name in ("first", "second"))
    return prompts, list(zip(first, second, strict=True))


def read_feedback(content: Any) -> Pairs:
    """Reads oat's {"batch_prompt": [...], "batch_response": [], "batch_candidates": [[first, second], ...]}."""
    prompts = _texts(content, "batch_prompt")
    if content.get("batch_response"):
        raise ValueError("this oracle compares two candidates and scores no single one: batch_response must be empty")
    pairs = _list(content, "batch_candidates", len(prompts))
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"batch_candidates must hold two texts for each prompt, got {short(pair)}")
    return prompts, [(first, second) for first, second in pairs]


def write_feedback(prob: Sequence[float]) -> dict[str, list[float]]:
    """Returns what oat's client reads."""
    return {"batch_score": [], "batch_first_win_prob": list(prob)}


def read_reward(content: Any, size: int | None, ends: Sequence[str]) -> list[Sample]:
    """Reads OpenRLHF's {"query": [...], "prompts": [...], "labels": [...]}.

    A query is the prompt with the response, special tokens included. Clients of your own may add, for each query,
    `prompt_ids` (default: the prompt) and `sample_ids` (default: None), and `group_size` (default: the server's).

    Args:
        content: of the request.
        size: completions of a group, if the request does not say; None: it must.
        ends: texts at the first of which a response ends.
    """
    prompts = _texts(content, "prompts")
    queries = _texts(content, "query", len(prompts))
    groups = _ids(content, "prompt_ids", len(prompts))
    names = _ids(content, "sample_ids", len(prompts))
    size = _size(content.get("group_size"), size)
    samples = []
    for prompt, query, group, name in zip(prompts, queries, groups, names, strict=True):
        if not query.startswith(prompt):
            raise ValueError(f"a query must begin with its prompt, got {short(query)} for the prompt {short(prompt)}")
        response = query.removeprefix(prompt)
        for end in ends:
            response = response.partition(end)[0]
        samples.append(Sample(prompt if group is None else group, prompt, size, response, name))
    return samples


def write_reward(rewards: Sequence[float]) -> dict[str, Any]:
    """Returns what OpenRLHF's client reads."""
    return {"rewards": list(rewards), "scores": list(rewards), "extra_logs": {}}


def read_verify(content: Any, size: int | None) -> Sample:
    """Reads the request of NeMo-Gym's `/verify`: responses_create_params, response, and who it is about.

    The group is `_ng_task_index` or else `prompt_id`, with the principle; the name `_ng_rollout_index`.
    """
    params = _mapping(content, "responses_create_params")
    prompt = _conversation(params.get("input"))
    group = next((content[key] for key in (NG_TASK, "prompt_id") if content.get(key) is not None), prompt)
    name, principle = content.get(NG_ROLLOUT), content.get("principle")
    return Sample(
        group=str(group) if principle is None else f"{group} ({principle})",
        prompt=prompt,
        size=_size(content.get("group_size"), size),
        completion=_output(_mapping(content, "response")),
        name=None if name is None else str(name),
    )


def write_verify(content: Mapping[str, Any], reward: float) -> dict[str, Any]:
    """Returns what NeMo-Gym reads: the request and its reward."""
    return {name: content[name] for name in ("responses_create_params", "response")} | {"reward": reward}


def read_compare(content: Any) -> tuple[str, list[str]]:
    """Reads NeMo-Gym's {"conversation_history": [messages], "response_objs": [responses], "principle": ...}."""
    prompt = _conversation(_list(content, "conversation_history"))
    completions = [_output(response) for response in _list(content, "response_objs")]
    if len(completions) < 2:
        raise ValueError(f"response_objs must hold at least two responses to compare, got {len(completions)}")
    return prompt, completions


def write_compare(result: GroupRewards) -> dict[str, Any]:
    """Returns the rewards of one group, and its comparisons as scores of 1 to 5 and a ranking of 1 to 6.

    They are P on the scale of NeMo-Gym's judge, see `preference_duel.groups.genrm_score`; `prob` is P itself.
    """
    unanswered = set(result.unanswered)
    comparisons = []
    for b, i, j in result.pairs:
        if (b, i, j) in unanswered:
            continue
        prob = float(result.prob[b, i, j])
        first, second = float(round(1 + 4 * prob)), float(round(5 - 4 * prob))
        pair = {"response_i": i, "response_j": j, "judge_idx": 0, "score_1": first, "score_2": second}
        comparisons.append(pair | {"ranking": float(round(6 - 5 * prob)), "prob": prob})
    metrics = {"queries": float(result.queries), "unanswered": float(len(unanswered))}
    return {"rewards": result.rewards[0].tolist(), "comparison_results": comparisons, "metrics": metrics}


def _conversation(value: Any) -> str:
    if isinstance(value, str):
        return value
    turns: Messages = [turn for turn in value or () if not isinstance(turn, Mapping) or "content" in turn]
    return prompt_text(turns)


def _output(response: Any) -> str:
    """Returns the text of an object of the Responses API: that of its messages, reasoning left out."""
    output = response.get("output") if isinstance(response, Mapping) else None
    if not isinstance(output, list):
        raise ValueError(
            f"a response must be an object of the Responses API with a list `output`, got {short(response)}"
        )
    parts = [
        part
        for item in output
        if isinstance(item, Mapping) and item.get("type") == "message"
        for part in item.get("content") or ()
    ]
    return "".join(
        str(part.get("text", "")) for part in parts if isinstance(part, Mapping) and part.get("type") == "output_text"
    )


def _mapping(content: Any, name: str) -> Mapping[str, Any]:
    value = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {short(value)}")
    return value


def _list(content: Any, name: str, count: int | None = None) -> list[Any]:
    value = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {short(content if value is None else value)}")
    if count is not None and len(value) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} prompts, got {len(value)}")
    return value


def _texts(content: Any, name: str, count: int | None = None) -> list[str]:
    texts = _list(content, name, count)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None or None in texts:
        raise ValueError(f"{name} must hold texts, got {short(wrong)}")
    return texts


def _ids(content: Mapping[str, Any], name: str, count: int) -> Sequence[str | None]:
    if content.get(name) is None:
        return [None] * count
    ids = _list(content, name, count)
    wrong = next((one for one in ids if not isinstance(one, str | int) or isinstance(one, bool)), None)
    if wrong is not None or None in ids:
        raise ValueError(f"{name} must hold texts or integers, got {short(wrong)}")
    return [str(one) for one in ids]


def _size(value: Any, default: int | None) -> int:
    size = default if value is None else value
    if size is None:
        raise ValueError("how many completions a group has must be known: start the server with --group_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 2:
        raise ValueError(f"group_size must be an integer of at least 2, got {short(size)}")
    return size
