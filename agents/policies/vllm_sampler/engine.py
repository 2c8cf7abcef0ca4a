"""Generates responses with vLLM and keeps its weights in sync with the training policy."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.generation import Generation, SamplingParams
from preference_duel import distributed
from preference_duel.keyed_random import Key
from preference_duel.types import Arriving, Completion

SUPPORTED = "0.32", "0.33"
"""Release lines of vLLM that are supported."""
SUPPORTED_NAMES = " or ".join(f"{line}.x" for line in SUPPORTED)
MOST_IDS = 1024
"""Tokens that vLLM's runner of GPUs allows, or biases, in one request at most (v1/worker/gpu/sample/logit_bias.py)."""
_MOVED = 1e-6
"""Change in nats per token between two policies that vLLM must show too."""


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
        """Returns a value that is equal only if no weight was changed in between, but for steps of an optimiser."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all tensors by name, tied ones under each of their names."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a transformers folder."""
        ...

    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token at temperature 1, untruncated and unconstrained."""
        ...

    def completions(self, generated: Sequence[Generation]) -> list[Completion]:
        """Returns the responses of these tokens."""
        ...


class Generator(Protocol):
    """Runs vLLM, in this process or as a server."""

    @property
    def tolerance(self) -> float:
        """Largest difference in nats per token that its precision explains; other weights differ more."""
        ...

    @property
    def processed(self) -> bool:
        """Whether log-probabilities are of the distribution that is sampled, not of the model's before temperature."""
        ...

    def load(self, policy: SyncedPolicy) -> None:
        """Loads a policy's weights."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **parameters: Any
    ) -> Iterator[tuple[int, list[Generation]]]:
        """Yields the index of each prompt with its n responses, as soon as they are sampled.

        Args:
            prompts: B prompts in tokens.
            seeds: [B]; response k of a prompt is sampled by the seed + k.
            **parameters: vLLM's sampling parameters.
        """
        ...

    def rest(self) -> bool:
        """Frees memory until the next batch, where it can; returns whether the weights are still there."""
        ...


class Engine:
    """Generates for a policy and all its copies; loads the weights of the one that samples, if they are not loaded.

    Args:
        generator: runs the model.
        constraints: legal tokens and ends.
        longest: tokens of the longest prompt, the chat template's included.
    """

    def __init__(self, generator: Generator, constraints: TextConstraints, longest: int) -> None:
        self.generator, self._constraints, self._longest = generator, constraints, longest
        self._legal = _legal_tokens(constraints)
        self._restriction = restriction(constraints)
        self._steps = _optimiser_steps(self)
        self._holds: object = None
        self._loads = 0
        self._under_way: Arriving | None = None
        self._probe: _Probe | None = None

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
            "stop_token_ids": self._constraints.end_ids,
            "ignore_eos": True,
            **({"logprobs": 0} if self.generator.processed else {}),
            **self._restriction,
        }

    def start(self, policy: SyncedPolicy, prompts: Sequence[Sequence[int]], n: int, key: Key) -> Arriving:
        """Returns n responses to each prompt, which are sampled while they are read; processes share the prompts.

        The next batch waits for them.

        Args:
            policy: the policy that samples.
            prompts: B prompts in tokens.
            n: responses to each.
            key: random key: the seed of prompt b is `key.uniform(l=b)`, from which vLLM makes one for each response.

        Raises:
            ValueError: if a prompt is too long, or vLLM's distribution is not the policy's.
        """
        if (longest := max(map(len, prompts))) > self._longest:
            raise ValueError(
                f"vLLM was started for the task's prompts, of {self._longest} tokens at most, and one has {longest}; "
                f"build the policy with a task that holds it, or take --policy.sampler transformers"
            )
        if self._under_way is not None:
            self._under_way.finish()
        if (version := (policy.weights_version(), self._steps())) != self._holds:
            self._holds = None
            self.generator.load(policy)
            self._loads += 1
            if self._loads & (self._loads - 1) == 0:
                self._require_same_weights(policy, prompts[0])
            self._holds = version
        rows = self._sampled(policy, prompts, n, key)
        if distributed.count() > 1:
            own = [row for _, row in sorted(rows, key=lambda one: one[0])]
            rows = enumerate(distributed.exchange(own, len(prompts)))
        self._under_way = Arriving(rows, (len(prompts), n))
        return self._under_way

    def _sampled(
        self, policy: SyncedPolicy, prompts: Sequence[Sequence[int]], n: int, key: Key
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yields the index and the responses of each prompt of this process' share."""
        own = distributed.share(len(prompts))
        seeds = [int(key.uniform(l=b) * 2**53) for b in own]
        parameters = self.parameters(policy.sampling)
        try:
            if own:
                for i, row in self.generator.generate([prompts[b] for b in own], seeds, n=n, **parameters):
                    self._require_legal(row)
                    yield own[i], policy.completions(row)
        finally:
            self._under_way = None
            if not self.generator.rest():
                self._holds = None

    def _require_same_weights(self, policy: SyncedPolicy, prompt: Sequence[int]) -> None:
        """Samples one response and compares its log-probabilities, after loads 1, 2, 4, 8, ..., which costs little.

        Some kernels keep a packed copy of a weight, which a refresh need not reach. The difference between a policy and
        its next update is far below bfloat16's rounding, so that the response is compared with the one before as well:
        the same prompt and random seed give the same numbers only if no weight changed.
        """
        before = self._probe
        prompt = prompt if before is None else before.prompt
        plain = {"n": 1, "temperature": 1.0, "max_tokens": self._constraints.limit, "logprobs": 0, "ignore_eos": True}
        ((_, (result,)),) = self.generator.generate([prompt], [0], **plain)
        ours = policy.plain_logprob(prompt, result.tokens)
        self._probe = _Probe(prompt, result, ours)
        advice = (
            "take --policy.sampler transformers (a server on the CPU can't refresh a model whose embeddings are tied)"
        )
        if (gap := _distance(ours, result.token_logprob or ())) > self.generator.tolerance:
            raise ValueError(
                f"vLLM does not have the policy's weights: the log-probabilities of what it drew lie {gap:.2g} nats "
                f"from the policy's, a token; {advice}"
            )
        if before is not None and result == before.result and (moved := _distance(ours, before.ours)) > _MOVED:
            raise ValueError(
                f"vLLM still has the weights of an earlier policy: its log-probabilities did not change, and the "
                f"policy's moved by {moved:.2g} nats a token; {advice}"
            )

    def _require_legal(self, row: Sequence[Generation]) -> None:
        illegal = {token for result in row for token in result.tokens}.difference(self._legal)
        if illegal:
            raise ValueError(
                f"vLLM drew token {min(illegal)}, which a response can't hold: its server weakens a token by 100 nats "
                f"at most, of which a high temperature leaves little; lower --policy.temperature, or take "
                f"--policy.sampler transformers"
            )


class _Probe(NamedTuple):
    """A checked response, and its nats by the policy that vLLM was to have."""

    prompt: Sequence[int]
    result: Generation
    ours: list[float]


def _legal_tokens(constraints: TextConstraints) -> list[int]:
    """Returns the tokens that a response may hold, in order."""
    return sorted({*constraints.words.nonzero().flatten().tolist(), *constraints.end_ids})


def restriction(constraints: TextConstraints) -> dict[str, Any]:
    """Returns the parameter that keeps vLLM to legal tokens.

    The others are forbidden one by one if they are few enough for every runner of vLLM, or else the legal ones listed.
    """
    legal = _legal_tokens(constraints)
    forbidden = sorted(set(range(len(constraints.words))).difference(legal))
    if len(forbidden) <= MOST_IDS:
        return {"logit_bias": dict.fromkeys(forbidden, -math.inf)}
    return {"allowed_token_ids": legal}


def _optimiser_steps(owner: object) -> Callable[[], int]:
    """Returns a function that counts the steps of all optimisers of torch since now, as long as the owner lives.

    A fused step changes tensors without raising their versions.
    """
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    weakref.finalize(owner, register_optimizer_step_post_hook(count).remove)
    return lambda: steps


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
