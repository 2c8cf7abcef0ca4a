"""Probabilities of all responses of a finite task, under a policy that writes token by token.

Responses share their beginnings: the 4096 strings of six letters out of four have 1365 proper ones, and the model reads
each of them once, with the cache of the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.policies.lm.decoder import Autoregressive
from agents.policies.lm.response_trie import ResponseTrie
from preference_duel.types import Completion

_SHARE = 4
"""Tokens of `micro_tokens` that one beginning counts for: it reads one token, with a cache of those before."""


@dataclass(frozen=True)
class _Frontier:
    """R beginnings of one length t: their prompts [R], tokens [R, t], nodes [R] and log-probabilities [R] float64."""

    rows: Tensor
    tokens: Tensor
    nodes: Tensor
    log_probs: Tensor

    def __getitem__(self, index: Tensor) -> _Frontier:
        return _Frontier(self.rows[index], self.tokens[index], self.nodes[index], self.log_probs[index])


def listed_probs(policy: Autoregressive, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
    """Returns [B, N] float64 on the CPU: the probabilities of a finite task's responses, in their order.

    Args:
        policy: a policy of the task.
        prompts: B prompts.
        responses: N responses.

    Raises:
        TypeError: if the task is not finite.
        ValueError: if a response is none of the task.
    """
    trie = policy.constraints
    if not isinstance(trie, ResponseTrie):
        raise TypeError("only a finite task has a whole law")
    places = [trie.number_of(response.text) for response in responses]
    return listed_logprob(policy, trie, prompts)[:, places].exp().cpu()


@torch.no_grad()
def listed_logprob(policy: Autoregressive, trie: ResponseTrie, prompts: Sequence[str]) -> Tensor:
    """Returns the log-probability of every listed response.

    Args:
        policy: the policy.
        trie: its constraints, N responses.
        prompts: B prompts.

    Returns:
        [B, N] float64 nats on the policy's device, in the order of `constraints.responses`; each row sums to 1 but for
        float64's rounding, whatever the network's precision.
    """
    result = torch.full((len(prompts), len(trie.responses)), -torch.inf, dtype=torch.float64, device=policy.device)
    rows = torch.arange(len(prompts), device=policy.device)
    start = _Frontier(rows, rows[:, None][:, :0], torch.full_like(rows, trie.first), torch.zeros_like(result[:, 0]))
    most = max(1, policy.micro_tokens // _SHARE)
    pending = [start[part] for part in rows.split(max(1, most // len(trie.responses)))]
    with policy.gathered():
        _descend(policy, trie, prompts, pending, result)
    return result


def _descend(
    policy: Autoregressive, trie: ResponseTrie, prompts: Sequence[str], pending: list[_Frontier], result: Tensor
) -> None:
    """Extends pending beginnings to their ends; writes the log-probabilities of responses into `result` [B, N]."""
    leaves, most = trie.leaves(policy.device), max(1, policy.micro_tokens // _SHARE)
    while pending:
        here = pending.pop()
        decoder = policy.decoder(prompts, here.rows.tolist())
        for tokens in here.tokens.unbind(1):
            decoder.append(tokens)
        while len(here.rows):
            parents, after = _children(here, decoder.logits(here.nodes), trie)
            ends = trie.ended(after.nodes)
            result[after.rows[ends], leaves[after.nodes[ends]]] = after.log_probs[ends]
            here, parents = after[~ends], parents[~ends]
            if len(here.rows) > most:
                pending += [here[part] for part in torch.arange(len(here.rows), device=policy.device).split(most)]
                break
            if len(here.rows):
                decoder.select(parents)
                decoder.append(here.tokens[:, -1])


def _children(here: _Frontier, logits: Tensor, trie: ResponseTrie) -> tuple[Tensor, _Frontier]:
    """Returns every legal continuation by one token, after the number of the beginning that each continues."""
    log_probs = logits.double().log_softmax(-1)
    parents, tokens = trie.legal(here.nodes).nonzero(as_tuple=True)
    extended = torch.cat([here.tokens[parents], tokens[:, None]], dim=1)
    nodes = trie.follow(here.nodes[parents], tokens)
    return parents, _Frontier(here.rows[parents], extended, nodes, here.log_probs[parents] + log_probs[parents, tokens])
