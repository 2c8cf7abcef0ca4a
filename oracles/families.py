"""Families that read features: cyclic embeddings, a population of annotators, a judge who likes length.

On a finite task every listed response to a prompt has features of its own; on text they come from the words, so that
a policy can learn them and carry them over to prompts that it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from oracles.features import Compare, FeatureOracle, FinishListed, FinishWords, ListedFeatures, WordFeatures
from oracles.gpm_checkpoint import PublishedGPM, find_heads, published_logits
from oracles.ranges import require_positive, require_share
from oracles.reward_model import ReaderConfig, RewardModel, require_idle


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
            ValueError: if a field is out of range, is set although nothing reads it, or a finite task lists too few
                responses.
            OSError: if the model cannot be found.
        """
        del prompts  # drawn when asked about
        drawn = "lam", "planes", "scale", "seed"
        require_idle("gpm", self, drawn if self.model is not None else ("reader", "tau"))
        if self.model is not None:
            require_positive(tau=self.tau)
            if (heads := find_heads(self.model, self.reader.revision)) is not None:
                published = PublishedGPM.load(self.model, heads, self.reader, device)
                return FeatureOracle(published.rows, partial(_read_published, self.tau), published.forget)
            require_idle("gpm", self, ("tau",))
            return gpm_oracle(RewardModel.load(self.model, self.reader, device, embeds=True))
        require_share(lam=self.lam)
        require_positive(scale=self.scale, planes=self.planes)
        width = 1 + 2 * self.planes
        return _oracle("gpm", self.seed, width, _gpm_listed, _gpm_words, partial(_gpm, self.lam, self.scale), responses)


def _gpm(lam: float, scale: float, left: Tensor, right: Tensor) -> Tensor:
    gradient = left[..., :, None, 0] - right[..., None, :, 0]
    cycle = _turned(left[..., 1:]) @ right[..., 1:].mT
    return torch.sigmoid(gradient.mul_(scale * math.sqrt(1 - lam)).add_(cycle, alpha=scale * math.sqrt(lam)))


def gpm_oracle(model: RewardModel) -> FeatureOracle:
    """Returns the oracle of a model that reads rewards and embeddings."""
    return FeatureOracle(model.rows, _read_gpm, model.forget)


def _read_published(tau: float, left: Tensor, right: Tensor) -> Tensor:
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
    return gradient + _turned(left[..., 1:]) @ right[..., 1:].mT / planes if planes else gradient


def _turned(vectors: Tensor) -> Tensor:
    """Returns [..., 2k] R u: (x, y) -> (-y, x) in each plane."""
    pairs = vectors.unflatten(-1, (-1, 2))
    return torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)


def _gpm_listed(drawn: Tensor) -> Tensor:
    count = len(drawn)
    embedding = drawn[:, 1:]
    gram = embedding.mT @ embedding
    energy = (_turned(_turned(gram).mT) * gram).sum()  # of <R u_i, u_j>^2 over pairs
    return torch.cat([_unit_gaps(drawn[:, :1]), embedding * (count * (count - 1) / energy) ** 0.25], dim=1)


def _gpm_words(drawn: Tensor, counts: Tensor) -> Tensor:
    del counts
    planes = (drawn.shape[1] - 1) / 2
    return torch.cat([drawn[:, :1] / math.sqrt(2), drawn[:, 1:] / (2 * planes) ** 0.25], dim=1)


@dataclass(frozen=True)
class AnnotatorsConfig:
    """A population: every person is Bradley-Terry, the majority is not.

    P(a beats b) = mean over kinds k of sigmoid(s (r^k_a - r^k_b)), r^k = sqrt(1 - lam) (a taste that all share) +
    sqrt(lam) (a ranking that is each kind's shift of one circle).
    """

    lam: float = 0.5
    """Weight of what the kinds do not share, in [0, 1]."""
    kinds: int = 3
    """Kinds of people, equally many of each, >= 2; three shifts of one circle are Condorcet's cycle."""
    scale: float = 6.0
    """Root mean square of one person's logits over pairs, in nats, > 0."""
    seed: int = 0
    """Names tastes and the circle."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> FeatureOracle:
        """Returns the oracle.

        Raises:
            ValueError: if a field is out of range, or a finite task lists too few responses.
        """
        del prompts, device
        require_share(lam=self.lam)
        require_positive(scale=self.scale)
        if self.kinds < 2:
            raise ValueError(f"kinds must be at least 2, got {self.kinds}: one kind of people is oracle 'bt'")
        listed, words = (partial(finish, self.lam, self.kinds) for finish in (_tastes_listed, _tastes_words))
        return _oracle("annotators", self.seed, 2, listed, words, partial(_mean_vote, self.scale), responses)


def _mean_vote(scale: float, left: Tensor, right: Tensor) -> Tensor:
    kinds = left.shape[-1]
    votes = torch.zeros(*left.shape[:-1], right.shape[-2], dtype=left.dtype)
    for k in range(kinds):
        gap = left[..., :, None, k] - right[..., None, :, k]
        votes += torch.sigmoid(gap.mul_(scale))
    return votes / kinds


def _tastes_listed(lam: float, kinds: int, drawn: Tensor) -> Tensor:
    count = len(drawn)
    rank = drawn[:, 1].argsort().argsort()
    shift = torch.arange(kinds) * count // kinds
    private = -((rank[:, None] + shift) % count).double()
    return math.sqrt(1 - lam) * _unit_gaps(drawn[:, :1]) + math.sqrt(lam) * _unit_gaps(private)


def _tastes_words(lam: float, kinds: int, drawn: Tensor, counts: Tensor) -> Tensor:
    del counts
    circle = torch.special.ndtr(drawn[:, 1:])  # uniform on [0, 1]
    private = -((circle + torch.arange(kinds) / kinds) % 1 - 0.5) * math.sqrt(12)
    return (math.sqrt(1 - lam) * drawn[:, :1] + math.sqrt(lam) * private) / math.sqrt(2)


@dataclass(frozen=True)
class LengthBiasConfig:
    """A judge of quality who falls for length where the difference is plain to see (a semiorder, Luce 1956).

    logit P(a beats b) = s [(1 - lam g) (q_a - q_b) + 1.5 lam g (l_a - l_b)], g = sigmoid((|l_a - l_b| - delta) / w):
    of neighbours in length the better wins, of distant ones the longer. Not monotone in lam.
    """

    lam: float = 0.5
    """How far length replaces quality where it differs, in [0, 1]."""
    delta: float = 1.0
    """The difference in length that is noticed, in standard deviations on finite tasks, `unit` words on text, >= 0."""
    width: float = 0.15
    """w, how sharply it is noticed, in the same unit, > 0."""
    scale: float = 2.0
    """s, nats per standard deviation of quality, > 0."""
    unit: float = 4.0
    """On text: words that count as length 1, > 0. (On finite tasks lengths are drawn, -.8 correlated with quality.)"""
    seed: int = 0
    """Names qualities, and lengths on finite tasks."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> FeatureOracle:
        """Returns the oracle.

        Raises:
            ValueError: if a field is out of range, or a finite task lists too few responses.
        """
        del prompts, device
        require_share(lam=self.lam)
        require_positive(width=self.width, scale=self.scale, unit=self.unit)
        if not self.delta >= 0:
            raise ValueError(f"delta must be at least 0, got {self.delta:g}")
        compare = partial(_semiorder, self)
        words = partial(_quality_and_words, self.unit)
        return _oracle("length_bias", self.seed, 2, _quality_and_length, words, compare, responses)


def _semiorder(config: LengthBiasConfig, left: Tensor, right: Tensor) -> Tensor:
    better = left[..., :, None, 0] - right[..., None, :, 0]
    longer = left[..., :, None, 1] - right[..., None, :, 1]
    noticed = config.lam * torch.sigmoid((longer.abs() - config.delta) / config.width)
    return torch.sigmoid(config.scale * ((1 - noticed) * better + 1.5 * noticed * longer))


def _quality_and_length(drawn: Tensor) -> Tensor:
    noise, length = drawn.unbind(-1)
    return torch.stack([0.6 * noise - 0.8 * length, length], dim=-1)


def _quality_and_words(unit: float, drawn: Tensor, counts: Tensor) -> Tensor:
    return torch.cat([drawn[:, :1], counts / unit], dim=1)


def _unit_gaps(values: Tensor) -> Tensor:
    """Scales each column so that its differences have root mean square 1 over the pairs i != j."""
    return values / (values.std(0, correction=1) * math.sqrt(2))


def _oracle(
    name: str,
    seed: int,
    width: int,
    listed: FinishListed,
    words: FinishWords,
    compare: Compare,
    responses: Sequence[str] | None,
) -> FeatureOracle:
    if responses is None:
        return FeatureOracle(WordFeatures(name, seed, width, words), compare)
    return FeatureOracle(ListedFeatures(name, seed, width, listed, responses), compare)
