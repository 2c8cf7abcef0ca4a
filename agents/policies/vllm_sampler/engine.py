"""Generates responses with vLLM and keeps its weights in sync with the training policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor

from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.generation import SamplingParams
from preference_duel import distributed
from preference_duel.keyed_random import Key

SUPPORTED = "0.32", "0.33"
"""Release lines of vLLM that are supported."""
SUPPORTED_NAMES = " or ".join(f"{line}.x" for line in SUPPORTED)
_TOLERANCE = 0.25
"""Largest difference in nats per token that bfloat16 explains; other weights differ more."""


def is_supported(version: str) -> bool:
    """Returns whether a release of vLLM is supported."""
    return version.startswith(tuple(f"{line}." for line in SUPPORTED))


class SyncedPolicy(Protocol):
    """A policy whose weights vLLM takes."""

    @property
    def sampling(self) -> SamplingParams:
        """Temperature and truncation."""
        ...

    def weights_version(self) -> object:
        """Returns a value that is equal only if no weight was changed in between."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Returns all tensors by name, tied ones under each of their names."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a transformers folder."""
        ...

    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token at temperature 1, untruncated and unconstrained."""
        ...


class Generator(Protocol):
    """Runs vLLM, in this process or as a server."""

    def load(self, policy: SyncedPolicy) -> None:
        """Loads a policy's weights."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **parameters: Any
    ) -> list[list[Generation]]:
        """Returns n responses to each prompt.

        Args:
            prompts: B prompts in tokens.
            seeds: [B]; response k of a prompt is sampled by the seed + k.
            **parameters: vLLM's sampling parameters.
        """
        ...


class Generation(NamedTuple):
    """A response, and the nats of its tokens if they were requested."""

    tokens: list[int]
    logprobs: list[float] | None = None


class Engine:
    """Generates for a policy and all its copies; loads the weights of the one that samples, if they are not loaded.

    Args:
        generator: runs the model.
        constraints: legal tokens and ends.
    """

    def __init__(self, generator: Generator, constraints: TextConstraints) -> None:
        self.generator, self._constraints = generator, constraints
        self._allowed = sorted({*constraints.words.nonzero().flatten().tolist(), *constraints.end_ids})
        self._holds: object = None
        self._loads = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: copies of a policy share it."""
        return self

    def parameters(self, sampling: SamplingParams) -> dict[str, Any]:
        """Returns vLLM's parameters for our distribution: legal tokens, temperature, then top-k, then top-p."""
        return {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or -1,
            "top_p": sampling.top_p,
            "max_tokens": self._constraints.limit,
            "min_tokens": self._constraints.min_tokens,
            "allowed_token_ids": self._allowed,
            "stop_token_ids": self._constraints.end_ids,
            "ignore_eos": True,
        }

    def draw(self, policy: SyncedPolicy, prompts: Sequence[Sequence[int]], n: int, key: Key) -> list[list[list[int]]]:
        """Returns the tokens of n responses to each prompt; processes share the prompts.

        Args:
            policy: the policy that samples.
            prompts: B prompts in tokens.
            n: responses to each.
            key: random key: the seed of prompt b is `key.uniform(l=b)`, from which vLLM makes one for each response.

        Raises:
            ValueError: if vLLM's distribution is not the policy's.
        """
        if (version := policy.weights_version()) != self._holds:
            self._holds = None
            self.generator.load(policy)
            self._loads += 1
            if self._loads & (self._loads - 1) == 0:
                self._require_same_weights(policy, prompts[0])
            self._holds = version
        own = distributed.share(len(prompts))
        seeds = [int(key.uniform(l=b) * 2**53) for b in own]
        parameters = self.parameters(policy.sampling)
        results = self.generator.generate([prompts[b] for b in own], seeds, n=n, **parameters) if own else []
        return distributed.exchange([[result.tokens for result in row] for row in results], len(prompts))

    def _require_same_weights(self, policy: SyncedPolicy, prompt: Sequence[int]) -> None:
        """Samples one response and compares its log-probabilities, after loads 1, 2, 4, 8, ..., which costs little.

        Some kernels keep a packed copy of a weight, which a refresh need not reach.
        """
        plain = {"n": 1, "temperature": 1.0, "max_tokens": self._constraints.limit, "logprobs": 0, "ignore_eos": True}
        ((result,),) = self.generator.generate([prompt], [self._loads], **plain)
        ours = policy.plain_logprob(prompt, result.tokens)
        gap = sum(abs(a - b) for a, b in zip(ours, result.logprobs or (), strict=True)) / len(ours)
        if gap > _TOLERANCE:
            raise ValueError(
                f"vLLM does not have the policy's weights: the log-probabilities of what it drew lie {gap:.2g} nats "
                f"from the policy's, a token; take --policy.sampler transformers (a server on the CPU can't refresh a "
                f"model whose embeddings are tied)"
            )
