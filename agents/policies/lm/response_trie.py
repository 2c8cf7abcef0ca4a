"""The listed responses of a finite task as a trie of tokens: a language model constrained to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from agents.policies.lm.constraints import TextConstraints
from envs.tasks.task import Task
from envs.tasks.tokenizers import Tokenizer, end_ids
from preference_duel.transfer import all_to_device
from preference_duel.types import Completion


class ResponseTrie:
    """Constraints that allow the listed responses only; a state is a node.

    At each node the model's distribution is renormalised over the node's children. EOS is one of them if a response is
    the beginning of another; at a leaf a response is complete without EOS.

    Args:
        responses: distinct responses in the policy's tokens.
        eos: closes a response that is the beginning of another.
        vocab_size: V, the width of the model's logits.
    """

    first = 0

    def __init__(self, responses: Sequence[tuple[str, Sequence[int]]], eos: int, vocab_size: int) -> None:
        inner = {tuple(tokens[:i]) for _, tokens in responses for i in range(len(tokens))}
        listed = []
        for text, tokens in responses:
            closed = (*tokens, eos) if not tokens or tuple(tokens) in inner else tuple(tokens)
            listed.append(Completion(text, closed))
        self.responses = tuple(listed)
        self.limit = max(len(response.ids) for response in listed)
        self._numbers = {response.text: i for i, response in enumerate(listed)}
        self.by_tokens = {response.tokens: response for response in listed}
        if len(self.by_tokens) < len(listed):
            raise ValueError(f"two of the {len(listed)} responses are the same tokens in the policy's vocabulary")
        self._width = vocab_size
        host = torch.device("cpu")
        edges, children, self._leaves = _edges(listed, vocab_size)
        self._tables = {host: (edges, children)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: it is immutable, and copies of a policy share it."""
        return self

    def same_as(self, other: object) -> bool:
        """Returns whether the same responses have the same tokens; then states mean the same too."""
        return isinstance(other, ResponseTrie) and self.responses == other.responses and self._width == other._width

    def listed(
        self, prompts: Sequence[str], logprob: Callable[[Sequence[str], list[list[Completion]]], Tensor]
    ) -> tuple[list[list[Completion]], Tensor]:
        """Lists every response for each of B prompts, with its probability as weight: [B][N] and [B, N] on the CPU.

        Args:
            prompts: B prompts.
            logprob: of the policy with these constraints.
        """
        responses = [list(self.responses) for _ in prompts]
        with torch.no_grad():
            return responses, logprob(prompts, responses).double().exp().cpu()

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Returns the tokens of a listed response.

        Raises:
            ValueError: if it is not listed.
        """
        return self.responses[self.number_of(text)].ids

    def number_of(self, text: str) -> int:
        """Returns the index of a response in the list.

        Raises:
            ValueError: if it is not listed.
        """
        if text not in self._numbers:
            raise ValueError(f"the task has no response {text!r}; it lists {len(self.responses)} responses")
        return self._numbers[text]

    def legal(self, states: Tensor) -> Tensor:
        """Returns [R, V] bool: the tokens that lead to a child."""
        edges, _ = self._table(states.device)
        start = torch.searchsorted(edges, states * self._width)
        counts = torch.searchsorted(edges, (states + 1) * self._width) - start
        rows = torch.arange(len(states), device=states.device).repeat_interleave(counts)
        place = torch.arange(len(rows), device=states.device) - (counts.cumsum(0) - counts - start)[rows]
        legal = torch.zeros(len(states), self._width, dtype=torch.bool, device=states.device)
        legal[rows, edges[place] % self._width] = True
        return legal

    def follow(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Returns [R] the children that the tokens lead to; -1 if there is none."""
        wanted = states * self._width + tokens
        edges, children = self._table(states.device)
        place = torch.searchsorted(edges, wanted).clamp(max=len(edges) - 1)
        return torch.where(edges[place] == wanted, children[place], -1)

    def ended(self, states: Tensor) -> Tensor:
        """Returns [R] bool: True at leaves."""
        edges, _ = self._table(states.device)
        return torch.searchsorted(edges, states * self._width) == torch.searchsorted(edges, (states + 1) * self._width)

    def leaves(self, device: torch.device) -> Tensor:
        """Returns [nodes] the number of the response that ends at a node; -1 if none does."""
        return self._leaves.to(device)

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns edges and children on a device, copied there once."""
        if device not in self._tables:
            edges, children = all_to_device(self._tables[torch.device("cpu")], device)
            self._tables[device] = edges, children
        return self._tables[device]


def _edges(responses: Sequence[Completion], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the sorted keys node * width + token, the node that each leads to, and each node's response or -1."""
    nodes: dict[int, int] = {}
    ends = []
    for response in responses:
        node = 0
        for token in response.ids:
            node = nodes.setdefault(node * width + token, len(nodes) + 1)
        ends.append(node)
    keys = sorted(nodes)
    leaves = torch.full((len(nodes) + 1,), -1)
    leaves[ends] = torch.arange(len(ends))
    return torch.tensor(keys), torch.tensor([nodes[key] for key in keys]), leaves


def encode_responses(task: Task, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Returns the task's responses in a policy's tokens.

    The task's own tokens are kept if each of them is one token of the policy too (the letters of `symbols`); otherwise
    each text is encoded whole.
    """
    whole = [(text, tokenizer.encode(text)) for text in task.response_texts]
    responses = task.responses or ()
    if any(response.tokens is None for response in responses):
        return whole
    own = {token for response in responses for token in response.ids}
    pieces = {token: tokenizer.encode(task.tokenizer.decode([token])) for token in own}
    if any(len(piece) != 1 for piece in pieces.values()):
        return whole
    spelled = [(r.text, [pieces[token][0] for token in r.ids]) for r in responses]
    return spelled if all(tokenizer.decode(tokens) == text for text, tokens in spelled) else whole


def constraints_of(
    task: Task, tokenizer: Tokenizer, width: int, name: str, max_new_tokens: int | None = None, exact: bool = False
) -> ResponseTrie | TextConstraints:
    """Returns the constraints of a task for a language model.

    Args:
        task: finite, or of free text in the model's own vocabulary.
        tokenizer: the model's.
        width: V, the width of its logits.
        name: the model's name in messages.
        max_new_tokens: a limit below the task's; None: the task's.
        exact: whether all responses will be listed.

    Raises:
        ValueError: if the task does not fit the model or the limit.
    """
    if task.responses is not None:
        trie = ResponseTrie(encode_responses(task, tokenizer), tokenizer.eos_id, width)
        if max_new_tokens is not None and max_new_tokens < trie.limit:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}, and the longest response of task '{task.name}' has "
                f"{trie.limit} tokens; leave max_new_tokens out"
            )
        return trie
    if exact:
        raise ValueError(f"exact needs a finite task, and '{task.name}' lists no responses; leave exact out")
    theirs, ours = end_ids(task.tokenizer), end_ids(tokenizer)
    if (len(task.response_tokens), theirs) != (tokenizer.vocab_size, ours):
        raise ValueError(
            f"task '{task.name}' was built for a vocabulary of {len(task.response_tokens)} tokens with EOS "
            f"{_listed(theirs)}, the policy '{name}' has {tokenizer.vocab_size} with EOS {_listed(ours)}; build the "
            f"task with tokenizer=config.load_tokenizer() of the policy's config"
        )
    limit = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    if not max(1, task.min_new_tokens) <= limit <= task.max_new_tokens:
        raise ValueError(
            f"max_new_tokens must lie between the task's min_new_tokens={task.min_new_tokens} and its "
            f"max_new_tokens={task.max_new_tokens}, got {limit}"
        )
    words = torch.zeros(width, dtype=torch.bool)
    words[: tokenizer.vocab_size] = torch.from_numpy(task.response_tokens)
    words[[i for i in (*end_ids(tokenizer), tokenizer.pad_id) if i is not None]] = False
    return TextConstraints(words, tokenizer.eos_id, task.min_new_tokens, limit, frozenset(end_ids(tokenizer)))


def _listed(ids: Sequence[int]) -> str:
    return " or ".join(map(str, ids))
