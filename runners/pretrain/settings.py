"""The settings of `runners.pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PolicyTraining:
    """Settings of the embedded policy."""

    steps: int = 4000
    """Steps of AdamW; above 0."""
    batch: int = 64
    """Pairs of prompt and answer per step, all of them new."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    vocabulary: int = 1536
    """At most so many tokens, with 4 special ones and 256 bytes; above 260. The corpus fills 1431: a token per word."""
    hidden: int = 128
    """Width; heads are 32 wide."""
    layers: int = 4
    """Transformer blocks."""
    samples: int = 2048
    """Answers sampled on held-out prompts to measure the result."""


@dataclass(frozen=True)
class PairRMTraining:
    """Settings of the embedded PairRM."""

    reading_steps: int = 1000
    """Steps of AdamW on what texts are about and how they are written; above 0."""
    steps: int = 5000
    """Steps of AdamW on votes; above 0."""
    batch: int = 64
    """Pairs per step, all of them new."""
    learning_rate: float = 1e-3
    """Peak learning rate of either lesson."""
    initializer_range: float = 0.1
    """Standard deviation of the first weights; DeBERTa's 0.02 is for much wider networks."""
    hidden: int = 96
    """Width."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads."""
    on_topic: float = 0.8
    """Chance that an answer of a training pair is about what was asked."""
    broken: float = 0.2
    """Chance that an answer of a training pair is damaged, so that text outside the grammar is known to lose."""
    samples: int = 4000
    """Held-out pairs that measure the result."""


@dataclass(frozen=True)
class PretrainConfig:
    """Makes the tokenizer, the prompts, the policy `tiny` and the judge `pairrm-tiny`, each with its card."""

    out: Path = Path(".")
    """A clone's root, or any folder: gets envs/data/chat, agents/checkpoints/tiny, oracles/checkpoints/pairrm-tiny."""
    seed: int = 0
    """Names every random number."""
    only: Literal["all", "policy", "pairrm"] = "all"
    """Part to make; "policy" comes with tokenizer and prompts."""
    small: bool = False
    """Go through every step in seconds, with models that know nothing."""
    policy: PolicyTraining = field(default_factory=PolicyTraining)
    pairrm: PairRMTraining = field(default_factory=PairRMTraining)

    def reduced(self) -> PretrainConfig:
        """Returns this configuration at the size of a test, where `small` says so."""
        if not self.small:
            return self
        policy = replace(self.policy, steps=20, batch=16, hidden=32, layers=1, samples=32)
        return replace(
            self,
            policy=policy,
            pairrm=replace(self.pairrm, reading_steps=10, steps=10, batch=16, hidden=32, samples=32),
        )
