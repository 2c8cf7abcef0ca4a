"""Beam search guided by the reward that a policy implies: its log-ratio to the reference, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from agents.policies.lm.generation import Generation
from agents.policies.tabular import TabularPolicy
from agents.policies.token_policy import TokenPolicy
from preference_duel.checks import at_least, require
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.transfer import to_device
from preference_duel.types import Completion

WIDTH = 5
"""Beginnings that stay."""


class BeamSearch(Policy):
    """The response of the largest sum of log pi/ref over its tokens that a beam finds; it draws nothing else.

    With r = beta log pi/ref of a policy that learned from preferences, the sum over the tokens so far is the soft value
    of the beginning, but for a constant of the prompt (Rafailov et al. 2024, arXiv:2404.12358). Each beginning goes on
    with its `width` likeliest tokens under the policy, and the `width` best beginnings of a prompt stay, complete
    responses among them. A width above the number of beginnings keeps all of them: on a finite task the result is then
    the response of the largest reward, exactly. On free text a wide beam finds texts that both policies think next to
    impossible, the reference even more.

    Args:
        policy: pi, a table or a language model; it is not copied.
        reference: ref, of the same kind and task.
        width: beginnings that stay, at least 1.

    Raises:
        ValueError: if the width is below 1, the two write different tokens, or one samples with top_p or top_k.
        TypeError: if one of them is of another kind.
    """

    exact = False

    def __init__(self, policy: Policy, reference: Policy, width: int = WIDTH) -> None:
        super().__init__()
        self.policy, self.reference, self.width = policy, reference, width
        require(self, width=at_least(1))
        if isinstance(policy, TabularPolicy) and isinstance(reference, TabularPolicy):
            alike = policy.cells.columns == reference.cells.columns
        elif isinstance(policy, TokenPolicy) and isinstance(reference, TokenPolicy):
            alike = policy.constraints.same_as(reference.constraints)
        else:
            kinds = f"{type(policy).__name__} and {type(reference).__name__}"
            raise TypeError(f"beam search takes two tables or two language models, got {kinds}")
        if not alike:
            raise ValueError("beam search compares tokens, and the policy and its reference may write different ones")
        if any(isinstance(one, TokenPolicy) and one.truncates for one in (policy, reference)):
            raise ValueError("beam search needs probabilities of all tokens: build the policies with top_p=1, top_k=0")

    @torch.no_grad()
    def best(self, prompts: Sequence[str]) -> list[Completion]:
        """Returns the response to each prompt."""
        if isinstance(self.policy, TabularPolicy) and isinstance(self.reference, TabularPolicy):
            reader = _Tables(self.policy, self.reference, prompts)
            return [
                self.policy.cells.responses[reader.column(path)] for path in _search(reader, len(prompts), self.width)
            ]
        policy, reference = self.policy, self.reference
        assert isinstance(policy, TokenPolicy)
        assert isinstance(reference, TokenPolicy)
        longest = max(map(policy.prompt_length, prompts), default=0) + policy.constraints.limit
        size = max(1, policy.rows_at_once(longest) // (2 * self.width))  # the reference reads them too
        found: list[Completion] = []
        with policy.gathered(), reference.gathered():
            for start in range(0, len(prompts), size):
                part = prompts[start : start + size]
                paths = _search(_Networks(policy, reference, part), len(part), self.width)
                found += policy.completions([Generation(path) for path in paths])
        return found

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Returns the response to each prompt n times; nothing is random."""
        del key
        return [[response] * n for response in self.best(prompts)], torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats: 0 of the text that is found, -inf of all others."""
        found = zip(self.best(prompts), responses, strict=True)
        return torch.tensor([[0.0 if y.text == best.text else -torch.inf for y in row] for best, row in found])

    def blend(self, other: Policy, weight: float) -> None:
        """Raises TypeError: only the policy inside can be blended."""
        raise TypeError("BeamSearch is not blended; blend the policy that it decodes")

    def save(self, directory: Path) -> None:
        """Raises TypeError: what is decoded is saved."""
        raise TypeError("BeamSearch is not saved; save the policy that it decodes")


class _Reader(Protocol):
    """Next tokens of R unfinished beginnings, each of a prompt and in a state."""

    first: int

    def next(self, rows: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log pi and log ref of the next token, [R, V] each; -inf if it is illegal."""
        ...

    def go_on(self, parents: Tensor, tokens: Tensor) -> None:
        """Goes on with these beginnings [R'] only, each by one token."""
        ...

    def follow(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the states after tokens, and whether the response is complete."""
        ...


class _Tables:
    """Tables, in the tokens of their task; a state is a node of the responses' trie."""

    first = 0

    def __init__(self, policy: TabularPolicy, reference: TabularPolicy, prompts: Sequence[str]) -> None:
        self.trie = policy.cells.trie
        self.reached = [self.trie.logsumexp(one.log_probs(prompts)) for one in (policy, reference)]  # [B, M]

    def next(self, rows: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        children, after = self.trie.children[states], rows[:, None]  # [R, V]
        policy, reference = (
            (reached[after, children.clamp(min=0)] - reached[after, states[:, None]]).masked_fill(
                children < 0, -torch.inf
            )
            for reached in self.reached
        )
        return policy, reference

    def go_on(self, parents: Tensor, tokens: Tensor) -> None:
        del parents, tokens

    def follow(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        states = self.trie.children[states, tokens]
        return states, (self.trie.children[states] < 0).all(1)

    def column(self, path: Sequence[int]) -> int:
        """Returns which response has these tokens."""
        state = self.first
        for token in path:
            state = int(self.trie.children[state, token])
        return int((self.trie.paths[:, -1] == state).nonzero())


class _Networks:
    """Language models with a cache each; states are those of their constraints."""

    def __init__(self, policy: TokenPolicy, reference: TokenPolicy, prompts: Sequence[str]) -> None:
        self.first, self.constraints = policy.constraints.first, policy.constraints
        self.decoders = [one.decoder(prompts, list(range(len(prompts)))) for one in (policy, reference)]
        self.device = policy.device

    def next(self, rows: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        del rows
        there = to_device(states, self.device)
        policy, reference = (decoder.logits(there).log_softmax(-1) for decoder in self.decoders)
        return policy, reference

    def go_on(self, parents: Tensor, tokens: Tensor) -> None:
        for decoder in self.decoders:
            decoder.select(to_device(parents, self.device))
            decoder.append(to_device(tokens, self.device))

    def follow(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        after = self.constraints.follow(to_device(states, self.device), to_device(tokens, self.device))
        return after.cpu(), self.constraints.ended(after).cpu()


def _search(reader: _Reader, count: int, width: int) -> list[list[int]]:
    """Returns the tokens of the best response to each of `count` prompts."""
    best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * count
    rows, states = torch.arange(count), torch.full((count,), reader.first)
    scores, paths = torch.zeros(count, dtype=torch.float64), [[] for _ in range(count)]
    ended_rows, ended_scores = rows[:0], scores[:0]
    while len(rows):
        log_policy, log_reference = reader.next(rows, states)
        likely, tokens = log_policy.topk(min(width, log_policy.shape[1]))  # [R, k]
        gains = (likely - log_reference.gather(1, tokens)).double().cpu()
        parents, places = (likely > -torch.inf).cpu().nonzero(as_tuple=True)
        tokens, gains = tokens.cpu()[parents, places], gains[parents, places]
        if not gains.isfinite().all():
            raise ValueError("the reference gives probability 0 to a token of the policy; beam search needs log pi/ref")
        # responses that ended earlier keep their place in the beam
        kept = _largest(
            torch.cat([ended_rows, rows[parents]]), torch.cat([ended_scores, scores[parents] + gains]), width
        )
        ended_kept, kept = kept[: len(ended_rows)], kept[len(ended_rows) :]
        parents, tokens, gains = parents[kept], tokens[kept], gains[kept]
        rows, scores = rows[parents], scores[parents] + gains
        states, ended = reader.follow(states[parents], tokens)
        paths = [[*paths[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        for i in ended.nonzero()[:, 0].tolist():
            if scores[i] > best[int(rows[i])][0]:
                best[int(rows[i])] = scores[i].item(), paths[i]
        ended_rows = torch.cat([ended_rows[ended_kept], rows[ended]])
        ended_scores = torch.cat([ended_scores[ended_kept], scores[ended]])
        going = ~ended
        paths = [paths[i] for i in going.nonzero()[:, 0].tolist()]
        rows, states, scores = rows[going], states[going], scores[going]
        if len(rows):
            reader.go_on(parents[going], tokens[going])
    return [path for _, path in best]


def _largest(rows: Tensor, scores: Tensor, width: int) -> Tensor:
    """Returns [C] bool: the `width` largest scores of each row; of equal ones the first."""
    order = scores.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    ranked = rows[order]
    place = torch.arange(len(ranked)) - torch.searchsorted(ranked, ranked)
    kept = torch.zeros_like(rows, dtype=torch.bool)
    kept[order[place < width]] = True
    return kept
