"""Probabilities of all responses of a finite task, under a policy that writes token by token.

Responses share their beginnings: the 4096 strings of six letters out of four have 1365 proper ones, and the model reads
each of them once, with the cache of the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.policies.lm.decoder import Decoder
from agents.policies.lm.response_trie import ResponseTrie


@dataclass(frozen=True)
class _Frontier:
    """R beginnings of one length t: their prompts [R], tokens [R, t], nodes [R] and log-probabilities [R] float64."""

    rows: Tensor
    tokens: Tensor
    nodes: Tensor
    log_probs: Tensor

    def __getitem__(self, index: Tensor) -> _Frontier:
        return _Frontier(self.rows[index], self.tokens[index], self.nodes[index], self.log_probs[index])


@torch.no_grad()
def listed_logprob(
    trie: ResponseTrie, decoder_of: Callable[[list[int]], Decoder], count: int, most: int, device: torch.device
) -> Tensor:
    """Returns the log-probability of every listed response.

    Args:
        trie: the N responses.
        decoder_of: starts one response to each prompt of a list of indices.
        count: B, the number of prompts.
        most: beginnings in one pass, >= 1.
        device: the decoders' device.

    Returns:
        [B, N] float64 nats on the device, in the order of `trie.responses`; each row sums to 1 but for float64's
        rounding, whatever the network's precision.
    """
    result = torch.full((count, len(trie.responses)), -torch.inf, dtype=torch.float64, device=device)
    leaves, rows = trie.leaves(device), torch.arange(count, device=device)
    start = _Frontier(rows, rows[:, None][:, :0], torch.full_like(rows, trie.first), torch.zeros_like(result[:, 0]))
    pending = [start[part] for part in rows.split(max(1, most // len(trie.responses)))]
    while pending:
        here = pending.pop()
        decoder = decoder_of(here.rows.tolist())
        for tokens in here.tokens.unbind(1):
            decoder.append(tokens)
        while len(here.rows):
            parents, after = _children(here, decoder.logits(here.nodes), trie)
            ends = trie.ended(after.nodes)
            result[after.rows[ends], leaves[after.nodes[ends]]] = after.log_probs[ends]
            here, parents = after[~ends], parents[~ends]
            if len(here.rows) > most:  # too many for one cache: each part starts again with its own
                pending += [here[part] for part in torch.arange(len(here.rows), device=device).split(most)]
                break
            if len(here.rows):
                decoder.select(parents)
                decoder.append(here.tokens[:, -1])
    return result


def _children(here: _Frontier, logits: Tensor, trie: ResponseTrie) -> tuple[Tensor, _Frontier]:
    """Returns every legal continuation by one token, after the number of the beginning that each continues."""
    log_probs = logits.double().log_softmax(-1)
    parents, tokens = trie.legal(here.nodes).nonzero(as_tuple=True)
    extended = torch.cat([here.tokens[parents], tokens[:, None]], dim=1)
    nodes = trie.follow(here.nodes[parents], tokens)
    return parents, _Frontier(here.rows[parents], extended, nodes, here.log_probs[parents] + log_probs[parents, tokens])
