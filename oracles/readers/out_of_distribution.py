"""A wrapper that leaves pairs unread whose responses lie far from a reference set in the hidden states of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from scipy.special import fdtrc
from torch import Tensor, nn

from oracles.judging.unread import UnreadPairs
from oracles.readers.classifier import ReaderConfig, RewardModel
from oracles.readers.loading import load_network
from preference_duel.checks import at_least, require, within
from preference_duel.json_text import read_json_lines, short
from preference_duel.protocols import Oracle, forget
from preference_duel.types import Conversation

RESPONSES = "response", "first", "second", "chosen", "rejected"
"""Fields of a reference's responses."""
Read = Callable[[Sequence[str], Sequence[str]], Tensor]
"""Returns [N, H] states of prompts and responses."""


@dataclass(frozen=True)
class OutOfDistribution:
    """Leaves a pair unread if one of its responses is out of the distribution of a reference set.

    By the Mahalanobis distance of hidden states (Lee et al. 2018, arXiv:1807.03888; of language models Ren et al. 2023,
    arXiv:2209.15558): of the last layer, averaged over the tokens of prompt and response. Departures: there the prompt
    and the response have a distance each, less that of a background of other texts; here the states' leading principal
    components alone count, since all of them take more reference texts than dimensions.
    """

    model: str = ""
    """Directory or hub id of a transformers model whose states are read: the policy, or the reward model."""
    reference: str = ""
    """JSON lines with prompt and response (or first, second, chosen, rejected), on which the oracle is trusted."""
    level: float = 0.01
    """Share of the reference's own distribution that is left unread, in (0, 1), if its states are Gaussian."""
    components: int = 32
    """Most principal components of the states, >= 1."""

    def wrap(
        self, build: Callable[..., Oracle], prompts: Sequence[str] | None, device: str = "cpu", **changes: Any
    ) -> Oracle:
        """Returns the oracle that abstains.

        Raises:
            ValueError: if a field is missing or out of range, or the reference is too small or has other fields.
            OSError: if the model or the reference can't be read.
        """
        require(self, level=within("(0, 1)"), components=at_least(1))
        if not (self.model and self.reference):
            raise ValueError("wrapper 'ood' needs a model and a reference: pass ood.model DIR and ood.reference FILE")
        given = [pair for line in read_json_lines(self.reference) for pair in _pairs(self.reference, *line)]
        if len(given) <= self.components + 1:
            raise ValueError(
                f"{self.reference} has {len(given)} responses, too few for {self.components} components: pass more, or "
                f"a lower ood.components"
            )
        inner = build(prompts, device=device, **changes)
        advice = "pass a transformers directory or hub id as ood.model"
        network, tokenizer = load_network("AutoModel", "model", self.model, ReaderConfig(), device, advice)
        reader = RewardModel(MeanState(network), tokenizer, ReaderConfig())
        states = reader.rows([prompt for prompt, _ in given], [response for _, response in given])
        return AbstainingOracle(inner, reader.rows, Gaussian(states, self.components), self.level, reader.forget)


class MeanState(nn.Module):
    """A transformers model as a classifier whose logits are the last layer's states, averaged over tokens.

    Args:
        network: a model without a head.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.config.num_labels = self.config.get_text_config().hidden_size
        self.device, self.dtype = network.device, network.dtype

    def forward(self, attention_mask: Tensor, **fields: Tensor) -> SimpleNamespace:
        """Returns `logits` [N, H] of N texts."""
        states = self.network(attention_mask=attention_mask, **fields).last_hidden_state  # [N, T, H]
        counted = attention_mask[:, :, None].to(states)
        return SimpleNamespace(logits=(states * counted).sum(1) / counted.sum(1))


class Gaussian:
    """The normal distribution of rows of features, in their leading principal components.

    Args:
        features: [N, H].
        components: most components; those without any variance are left out.
    """

    def __init__(self, features: Tensor, components: int) -> None:
        self.count = len(features)
        self.mean = features.double().mean(0)
        _, deviations, axes = torch.linalg.svd(features.double() - self.mean, full_matrices=False)
        kept = int((deviations > deviations[0] * 1e-6).sum())
        if not kept:
            raise ValueError("all states of the reference are the same: pass different responses")
        self.size = min(components, kept)
        self.scale = axes[: self.size].mT * (self.count - 1) ** 0.5 / deviations[: self.size]  # [H, d]

    def distance(self, features: Tensor) -> Tensor:
        """Returns [M] squared Mahalanobis distances; chi-square with d degrees of freedom as N grows."""
        return ((features.double() - self.mean) @ self.scale).square().sum(1)

    def p_value(self, features: Tensor) -> Tensor:
        """Returns [M] P(a new row is as far away), uniform for Gaussian rows and d = H components.

        Hotelling's (1931): the mean and the covariance are estimated from N rows, so that N (N - d) / ((N^2 - 1) d)
        times the distance has an F distribution with d and N - d degrees of freedom, d times F tending to chi-square.
        """
        n, d = self.count, self.size
        ratio = self.distance(features) * n * (n - d) / ((n**2 - 1) * d)
        return torch.from_numpy(fdtrc(d, n - d, ratio.numpy()))


class AbstainingOracle:
    """An oracle that is asked about pairs of familiar responses alone; the others are unread.

    Args:
        inner: the wrapped oracle.
        read: gives the states of responses.
        known: the distribution of the reference's.
        level: p-value below which a response is out of it.
        drop: drops what `read` remembers.
    """

    leaves_unread = True

    def __init__(self, inner: Oracle, read: Read, known: Gaussian, level: float, drop: Callable[[], None]) -> None:
        self.inner, self.read, self.known, self.level, self.drop = inner, read, known, level, drop
        self.antisymmetric = inner.antisymmetric
        self._unread = UnreadPairs("ood", "drop", "pass a reference that is nearer to the policy, or a lower ood.level")

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt), NaN if one of them is out of the reference's distribution.

        Raises:
            ValueError: if more than half of all pairs so far are, once there are enough.
        """
        p_values = self.known.p_value(self.read([*prompts, *prompts], [*first, *second]))
        familiar = (p_values >= self.level).view(2, -1).all(0)
        self._unread.add(len(familiar), int((~familiar).sum()))
        kept = cast("list[int]", familiar.nonzero()[:, 0].tolist())
        columns = ([column[i] for i in kept] for column in (prompts, first, second))
        prob = torch.full((len(familiar),), torch.nan, dtype=torch.float64)
        if kept:
            prob[kept] = self.inner.prob(*columns).double()
        return prob

    def forget(self) -> None:
        """Drops what the inner oracle and the model remember."""
        self.drop()
        forget(self.inner)


def _pairs(path: str, number: int, row: Any) -> list[tuple[str, str]]:
    """Returns the prompt of a line with each of its responses."""
    fields = row if isinstance(row, dict) else {}
    prompt = fields.get("prompt")
    texts = [fields[name] for name in RESPONSES if isinstance(fields.get(name), str)]
    if not (texts and isinstance(prompt, (str, list))):
        raise ValueError(f'{path}:{number}: expected {{"prompt": ..., "response": TEXT}}, got {short(row)}')
    return [(prompt if isinstance(prompt, str) else Conversation(prompt), text) for text in texts]
