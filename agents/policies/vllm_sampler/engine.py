"""An engine that draws in place of the training model: whose weights it has, and that it has their law."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor

from agents.policies.lm.constraints import TextRules
from agents.policies.lm.generation import Sharpening
from preference_duel import distributed
from preference_duel.keyed_random import Key

SUPPORTED = "0.32", "0.33"
"""The release lines of vLLM whose interface this is."""
SUPPORTED_NAMES = " or ".join(f"{line}.x" for line in SUPPORTED)
_APART = 0.25
"""Nats a token that vLLM's bfloat16 may lie from ours; other weights lie further."""


def is_supported(version: str) -> bool:
    """Returns whether a release of vLLM has the interface that this package speaks with."""
    return version.startswith(tuple(f"{line}." for line in SUPPORTED))


class Model(Protocol):
    """Whose law is drawn from."""

    @property
    def sharpening(self) -> Sharpening:
        """Temperature and truncation."""
        ...

    def stamp(self) -> object:
        """Returns what is equal only where no weight was changed in between."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Returns all tensors by name, tied ones under each of theirs."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a transformers folder."""
        ...

    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token at temperature 1, with nothing left out or forbidden."""
        ...


class Writer(Protocol):
    """What runs the model."""

    def load(self, model: Model) -> None:
        """Takes a model's weights."""
        ...

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **law: Any) -> list[list[Written]]:
        """Returns n responses to each prompt.

        Args:
            prompts: B prompts in tokens.
            seeds: [B]; response k of a prompt draws by the seed + k.
            **law: vLLM's sampling parameters.
        """
        ...


class Written(NamedTuple):
    """A response, and the nats of its tokens where they were asked for."""

    tokens: list[int]
    logprobs: list[float] | None = None


class Engine:
    """Draws for a policy and all its copies: whoever draws has its weights loaded, if they are not the last ones.

    Args:
        writer: runs the model.
        rules: what may be written.
    """

    def __init__(self, writer: Writer, rules: TextRules) -> None:
        self.writer, self._rules = writer, rules
        self._allowed = sorted({*rules.words.nonzero().flatten().tolist(), *rules.end_ids})
        self._holds: object = None
        self._loads = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: copies of a policy share it."""
        return self

    def law(self, sharpening: Sharpening) -> dict[str, Any]:
        """Returns vLLM's parameters for our law: what may be written, temperature first, then top-k, then top-p."""
        return {
            "temperature": sharpening.temperature,
            "top_k": sharpening.top_k or -1,
            "top_p": sharpening.top_p,
            "max_tokens": self._rules.limit,
            "min_tokens": self._rules.fewest,
            "allowed_token_ids": self._allowed,
            "stop_token_ids": self._rules.end_ids,
            "ignore_eos": True,
        }

    def draw(self, model: Model, prompts: Sequence[Sequence[int]], n: int, key: Key) -> list[list[list[int]]]:
        """Returns the tokens of n responses to each prompt; processes share the prompts.

        Args:
            model: who draws.
            prompts: B prompts in tokens.
            n: responses to each.
            key: names the draws: the seed of prompt b is `key.uniform(l=b)`, of which vLLM makes one for each response.

        Raises:
            ValueError: if vLLM does not have the model's law.
        """
        if (stamp := model.stamp()) != self._holds:
            self._holds = None
            self.writer.load(model)
            self._loads += 1
            if self._loads & (self._loads - 1) == 0:
                self._require_same_law(model, prompts[0])
            self._holds = stamp
        own = distributed.share(len(prompts))
        seeds = [int(key.uniform(l=b) * 2**53) for b in own]
        law = self.law(model.sharpening)
        written = self.writer.write([prompts[b] for b in own], seeds, n=n, **law) if own else []
        return distributed.exchange([[one.tokens for one in row] for row in written], len(prompts))

    def _require_same_law(self, model: Model, prompt: Sequence[int]) -> None:
        """Draws one response and compares its log-probabilities, after loads 1, 2, 4, 8, ...: cheap, and seldom enough.

        Some kernels keep a packed copy of a weight, which a refresh need not reach.
        """
        plain = {"n": 1, "temperature": 1.0, "max_tokens": self._rules.limit, "logprobs": 0, "ignore_eos": True}
        ((found,),) = self.writer.write([prompt], [self._loads], **plain)
        ours = model.plain_logprob(prompt, found.tokens)
        apart = sum(abs(a - b) for a, b in zip(ours, found.logprobs or (), strict=True)) / len(ours)
        if apart > _APART:
            raise ValueError(
                f"vLLM does not have the policy's weights: the log-probabilities of what it drew lie {apart:.2g} nats "
                f"from the policy's, a token; take --policy.sampler transformers (a server on the CPU can't refresh a "
                f"model whose embeddings are tied)"
            )
