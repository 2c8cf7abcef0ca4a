"""General preference model (Zhang et al. 2024): skew-symmetric scores, with an adjustable cyclic share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from oracles.features import FeatureOracle, feature_oracle, unit_gaps
from oracles.readers.classifier import ReaderConfig, RewardModel, require_idle
from preference_duel.checks import positive_finite, require, share
from preference_duel.planes import quarter_turn

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GPMConfig:
    """A reward and a skew product of embeddings (Zhang et al. 2024, arXiv:2410.02197): a cycle that generalises.

    logit P(a beats b) = s [sqrt(1 - lam) (r_a - r_b) + sqrt(lam) <R u_a, u_b>], R a quarter turn in each of k planes.
    With a model r and u are what it reads, and the logit is r_a - r_b + <R u_a, u_b> / k.
    """

    lam: float = 0.5
    """Weight of the cyclic part, in [0, 1]; about the curl ratio, which `cyclic` has exactly."""
    planes: int = 3
    """k, independent cycles, >= 1; an embedding has 2k numbers."""
    scale: float = 2.0
    """Root mean square of each part's logits over pairs, in nats, > 0: exact on finite tasks, about so on text."""
    seed: int = 0
    """Names rewards and embeddings."""
    model: str | None = None
    """Directory or hub id of a published model, such as general-preference/GPM-Llama-3.1-8B-Instruct, or of a sequence
    classifier with 1 + 2k labels, as `python -m runners.fit_oracle --kind gpm` makes them; it reads none of the fields
    above. None: rewards and embeddings are drawn."""
    tau: float = 0.1
    """Of a published model: divides the logits, > 0; they were trained with 0.1."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """With a model: how it reads."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> FeatureOracle:
        """Returns the oracle.

        Raises:
            ValueError: if a field is out of range, is set although nothing reads it, a finite task lists too few
                responses, or the model cannot read a prompt.
            OSError: if the model cannot be found.
        """
        drawn = "lam", "planes", "scale", "seed"
        require_idle("gpm", self, drawn if self.model is not None else ("reader", "tau"))
        if self.model is not None:
            require(self, tau=positive_finite)
            from oracles.readers.published_gpm import PublishedGPM, find_heads  # imports torch

            if (heads := find_heads(self.model, self.reader.revision)) is not None:
                published = PublishedGPM.load(self.model, heads, self.reader, device)
                published.require_readable(prompts or ())
                return FeatureOracle(published.rows, partial(_read_published, self.tau), published.forget)
            require_idle("gpm", self, ("tau",))
            model = RewardModel.load(self.model, self.reader, device, embeds=True)
            model.require_readable(prompts or ())
            return gpm_oracle(model)
        require(self, lam=share, scale=positive_finite, planes=positive_finite)
        width = 1 + 2 * self.planes
        return feature_oracle(
            "gpm", self.seed, width, _gpm_listed, _gpm_words, partial(_gpm, self.lam, self.scale), responses
        )


def _gpm(lam: float, scale: float, left: Tensor, right: Tensor) -> Tensor:
    gradient = left[..., :, None, 0] - right[..., None, :, 0]
    cycle = quarter_turn(left[..., 1:]) @ right[..., 1:].mT
    return torch.sigmoid(gradient.mul_(scale * math.sqrt(1 - lam)).add_(cycle, alpha=scale * math.sqrt(lam)))


def gpm_oracle(model: RewardModel) -> FeatureOracle:
    """Returns the oracle of a model that reads rewards and embeddings."""
    return FeatureOracle(model.rows, _read_gpm, model.forget)


def _read_published(tau: float, left: Tensor, right: Tensor) -> Tensor:
    from oracles.readers.published_gpm import published_logits

    return torch.sigmoid(published_logits(left.double(), right.double(), tau)).float()


def _read_gpm(left: Tensor, right: Tensor) -> Tensor:
    return torch.sigmoid(gpm_logits(left.double(), right.double())).float()


def gpm_logits(left: Tensor, right: Tensor) -> Tensor:
    """Returns [..., K, L] nats r_a - r_b + <R u_a, u_b> / k (Zhang et al. 2024, arXiv:2410.02197, Section 4).

    Args:
        left: [..., K, 1 + 2k] reward and embedding of responses; k = 0 is Bradley-Terry.
        right: [..., L, 1 + 2k].
    """
    gradient = left[..., :, None, 0] - right[..., None, :, 0]
    planes = left.shape[-1] // 2
    return gradient + quarter_turn(left[..., 1:]) @ right[..., 1:].mT / planes if planes else gradient


def _gpm_listed(drawn: Tensor) -> Tensor:
    count = len(drawn)
    embedding = drawn[:, 1:]
    gram = embedding.mT @ embedding
    energy = (quarter_turn(quarter_turn(gram).mT) * gram).sum()  # of <R u_i, u_j>^2 over pairs
    return torch.cat([unit_gaps(drawn[:, :1]), embedding * (count * (count - 1) / energy) ** 0.25], dim=1)


def _gpm_words(drawn: Tensor, counts: Tensor) -> Tensor:
    del counts
    planes = (drawn.shape[1] - 1) / 2
    return torch.cat([drawn[:, :1] / math.sqrt(2), drawn[:, 1:] / (2 * planes) ** 0.25], dim=1)
