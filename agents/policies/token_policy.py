"""Contract of policies that write token by token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.policies.lm.batching import groups
from agents.policies.lm.constraints import Constraints
from agents.policies.lm.decoder import Decoder
from agents.policies.lm.enumeration import listed_logprob
from agents.policies.lm.generation import Generation, generate
from agents.policies.lm.response_trie import ResponseTrie
from agents.policies.lm.scoring import chosen
from preference_duel import distributed
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy, TokenTerm
from preference_duel.transfer import all_to_device, to_device
from preference_duel.types import Completion

if TYPE_CHECKING:
    from agents.policies.vllm_sampler.engine import Engine

_UNLEARNED = 4
"""Ratio of the tokens of a pass without gradients to those of a pass with."""
_SHARE = 4
"""Tokens of `micro_tokens` that one beginning of a listed response counts for: a pass reads one token of it."""


class TokenPolicy(Policy):
    """A policy that writes token by token.

    Attributes:
        constraints: legal tokens and ends.
        micro_tokens: tokens in one forward pass with gradients, >= 1.
        truncates: True if some legal tokens get probability 0.
        engine: vLLM, if it is the sampler.
    """

    constraints: Constraints
    micro_tokens: int
    truncates: bool = False
    engine: Engine | None = None

    @abstractmethod
    def decoder(self, prompts: Sequence[str], rows: Sequence[int]) -> Decoder:
        """Starts one response to `prompts[i]` for each i of `rows`."""

    @abstractmethod
    def logits(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32: a decoder's logits before each of the M tokens of R responses, differentiable."""

    @abstractmethod
    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats float32: the log-probability of each of the M tokens of R responses, differentiable."""

    @abstractmethod
    def prompt_length(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt, those of the chat template included."""

    @abstractmethod
    def completions(self, generated: Sequence[Generation]) -> list[Completion]:
        """Returns the responses of these tokens, with their log-probabilities."""

    @abstractmethod
    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens of a response: those that were sampled, if they are known.

        Raises:
            ValueError: if the response is not one of a finite task, or too long.
        """

    def length(self, response: Completion) -> int:
        """Returns the number of tokens of a response, the one that ends it included, in this policy's vocabulary."""
        return len(self.tokens_of(response))

    def gathered(self) -> AbstractContextManager[None]:
        """Gathers sharded parameters inside the block, for any number of passes without gradients."""
        return nullcontext()

    def rows_at_once(self, longest: int) -> int:
        """Returns how many responses are sampled at once, prompt and response of at most `longest` tokens each."""
        return max(1, _UNLEARNED * self.micro_tokens // longest)

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples responses, as many at a time as fit into memory, or lists those of a finite task if exact.

        Processes share the prompts.
        """
        if self.exact and isinstance(self.constraints, ResponseTrie):
            return self.constraints.listed(prompts, self.logprob)
        shape = len(prompts), n, self.constraints.limit
        lengths = [self.prompt_length(prompt) for prompt in prompts]
        own = sorted(distributed.share(shape[0]), key=lengths.__getitem__)  # little padding, or none, in a batch
        b, (k, t) = np.array(own, dtype=np.int64)[:, None, None], np.ogrid[: shape[1], : shape[2]]
        uniforms = torch.from_numpy(key.uniform(k=k, l=b, vote=t)).reshape(-1, shape[2])
        generated: list[Generation] = []
        rows_at_once = self.rows_at_once(max(lengths, default=0) + shape[2])
        with self.gathered():
            for rows in torch.tensor(own, dtype=torch.long).repeat_interleave(n).split(rows_at_once):
                part = to_device(uniforms[len(generated) : len(generated) + len(rows)], self.device)
                generated += generate(self.decoder(prompts, rows.tolist()), self.constraints, part) if len(rows) else []
        by_prompt = dict(zip(own, (generated[i : i + n] for i in range(0, len(generated), n)), strict=True))
        everything = distributed.exchange([by_prompt[i] for i in sorted(own)], shape[0])
        return [self.completions(rows) for rows in everything], torch.full(shape[:2], 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, float32, differentiable."""
        return self._of_tokens(prompts, responses, self.flat_logprob)[0].sum(-1)

    def distribution(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64 on the CPU; each beginning of a response is read once.

        Raises:
            TypeError: if the task is not finite.
            ValueError: if a response is not one of the task.
        """
        trie = self.constraints
        if not isinstance(trie, ResponseTrie):
            raise TypeError("only a finite task has a distribution over all its responses")
        columns = [trie.number_of(response.text) for response in responses]
        most = max(1, self.micro_tokens // _SHARE)
        with self.gathered():
            logprobs = listed_logprob(trie, partial(self.decoder, prompts), len(prompts), most, self.device)
        return logprobs[:, columns].exp().cpu()

    def token_logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> tuple[Tensor, Tensor]:
        """Returns the log-probability of every token under the distribution that `draw` samples from, differentiable.

        For tokens that stop before EOS and the limit, it is that of all responses with this beginning.

        Responses of similar length are read together. If they have more than `micro_tokens` together, one group at a
        time holds what its gradient needs, and is read again for it. Without gradients processes share the responses;
        with them each reads what it was given, in one pass if the policy is sharded.

        Returns:
            [B, K, T] nats, 0 after a response's end, and the mask [B, K, T]: True where a token counts.

        Raises:
            ValueError: if a response is not one of the task, or too long.
        """
        return self._of_tokens(prompts, responses, self.flat_logprob)

    def token_terms(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[Completion]],
        term: TokenTerm,
        reference: Policy | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities [B, K] and the sums [B, K] of a term, float32, in one pass of each model.

        The logits of `micro_tokens` tokens are held at a time, those of the reference too; responses of more tokens
        together are read again by both for the gradient.

        Raises:
            TypeError: if the reference does not write token by token.
            ValueError: if a response is not one of the task, or too long.
        """
        if not isinstance(reference, TokenPolicy | None):
            raise TypeError(
                f"the reference must write token by token, as the policy does; got {type(reference).__name__}"
            )

        def read(prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
            logits, flat = self.logits(prompts, tokens), torch.tensor([token for row in tokens for token in row])
            flat = to_device(flat, self.device)
            with torch.no_grad(), nullcontext() if reference is None or reference.sharded else reference.gathered():
                base = None if reference is None else reference.logits(prompts, tokens)
            return torch.stack([chosen(logits, flat), term(logits, base, flat)], -1)

        values, _ = self._of_tokens(prompts, responses, read, 2)
        log_policy, terms = values.sum(2).unbind(-1)
        return log_policy, terms

    def _of_tokens(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[Completion]],
        reading: Callable[[Sequence[str], Sequence[Sequence[int]]], Tensor],
        *each: int,
    ) -> tuple[Tensor, Tensor]:
        """Returns what is read of every token, [B, K, T, *each], 0 after a response's end, and the mask [B, K, T].

        Args:
            prompts: B prompts.
            responses: [B][K].
            reading: returns [M, *each] of R prompts and the tokens of a response to each, M in all.
            *each: shape of what is read of one token.
        """
        flat = [(prompt, self.tokens_of(y)) for prompt, row in zip(prompts, responses, strict=True) for y in row]
        lengths = [len(tokens) for _, tokens in flat]
        width = max(lengths, default=0)
        read = [self.prompt_length(prompt) + len(tokens) for prompt, tokens in flat]
        learns = torch.is_grad_enabled()
        most = self.micro_tokens if learns else _UNLEARNED * self.micro_tokens
        own = [i for i in (range(len(flat)) if learns else distributed.share(len(flat))) if lengths[i]]
        whole = learns and self.sharded
        passes = [own] if whole else [[own[i] for i in group] for group in groups([read[i] for i in own], most)]
        again = learns and not whole and sum(read) > most
        values, places = [], []
        with nullcontext() if learns else self.gathered():
            for part in filter(None, passes):
                texts = [flat[i][0] for i in part], [flat[i][1] for i in part]
                values.append(
                    checkpoint(reading, *texts, use_reentrant=False, preserve_rng_state=False)
                    if again
                    else reading(*texts)
                )
                places += [i * width + t for i in part for t in range(lengths[i])]
        index, counts = all_to_device([torch.tensor(places, dtype=torch.long), torch.tensor(lengths)], self.device)
        result = torch.zeros(len(flat) * width, *each, device=self.device)
        if values:
            result = result.index_put((index,), torch.cat(values))
        if not learns:
            distributed.add(result)
        mask = torch.arange(width, device=self.device) < counts[:, None]
        shape = len(prompts), -1, width
        return result.reshape(*shape, *each), mask.reshape(shape)
