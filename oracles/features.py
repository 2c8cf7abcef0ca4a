"""Oracles that read each response alone, as a row of features, and then compare rows.

On a finite task every listed response to a prompt has features of its own; on text they come from the words, so that
a policy can learn them and generalise to unseen prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.names import nearest

if TYPE_CHECKING:
    from torch import Tensor

    Read = Callable[[Sequence[str], Sequence[str]], Tensor]
    """Returns [M, F] the features of M (prompt, response) pairs: float64, or float32 where a network reads."""
    Compare = Callable[[Tensor, Tensor], Tensor]
    """Returns [..., K, L] chances that a row of the first [..., K, F] beats a row of the second [..., L, F]."""
    FinishListed = Callable[[Tensor], Tensor]
    """Makes the features [N, F] of a finite task's responses of standard normal numbers [N, W]."""
    FinishWords = Callable[[Tensor, Tensor], Tensor]
    """Makes the features [M, F] of texts of standard normal numbers [M, W] and the numbers of words [M, 1]."""


class FeatureOracle:
    """Compares the features of two responses; K responses are read K times, not K * K.

    Args:
        read: gives the features.
        compare: gives P(first beats second) from them; compare(a, b) + compare(b, a)' = 1.
        forget: drops what the reader remembers; a runner calls it at every step, so that a resumed run equals it.
    """

    antisymmetric = True

    def __init__(self, read: Read, compare: Compare, forget: Callable[[], None] = lambda: None) -> None:
        self.read, self.compare, self.forget = read, compare, forget

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt): float64, or float32 where a network reads."""
        features = self.read([*prompts, *prompts], [*first, *second])[:, None]
        return self.compare(features[: len(prompts)], features[len(prompts) :]).flatten()

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L] likewise."""
        ours = self._rows(prompts, left)
        return self.compare(ours, ours if right is left else self._rows(prompts, right))

    def _rows(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Tensor:
        asked = [prompt for prompt, texts in zip(prompts, responses, strict=True) for _ in texts]
        return self.read(asked, [text for texts in responses for text in texts]).unflatten(0, (len(prompts), -1))


class ListedFeatures:
    """The features of a finite task's responses, drawn for each prompt at its first query.

    Args:
        name: of the family, and `seed`: they name the numbers.
        seed: likewise.
        width: W, numbers drawn for a response.
        finish: makes the features of all responses to one prompt.
        responses: N distinct responses.
    """

    def __init__(self, name: str, seed: int, width: int, finish: FinishListed, responses: Sequence[str]) -> None:
        self.name, self.seed, self.width, self.finish = name, seed, width, finish
        self._column = {text: i for i, text in enumerate(responses)}
        if len(self._column) < max(len(responses), 3):
            raise ValueError(
                f"{name} needs 3 or more distinct responses, got {len(responses)}, of them {len(self._column)} distinct"
            )
        self._tables: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns [M, F] float64.

        Raises:
            ValueError: for a response that is not listed.
        """
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        table = torch.stack([self._table(prompt) for prompt in rows])
        return table[[rows[prompt] for prompt in prompts], [self._place(text) for text in responses]]

    def _place(self, text: str) -> int:
        if text not in self._column:
            raise ValueError(
                f"'{text}' is none of the task's {len(self._column)} responses{nearest(text, self._column)}"
            )
        return self._column[text]

    def _table(self, prompt: str) -> Tensor:
        if prompt not in self._tables:
            from scipy.special import ndtri  # scipy takes a quarter of a second

            key = Key(hash_seed(self.name, self.seed, prompt), 0, Stream.INIT)
            uniforms = key.uniform(k=np.arange(len(self._column))[:, None], l=np.arange(self.width))
            self._tables[prompt] = self.finish(torch.from_numpy(ndtri(uniforms + 2.0**-54)))
        return self._tables[prompt]


class WordFeatures:
    """The features of any text: its words' vectors, drawn once for each word, added and scaled to variance 1.

    Texts that share words have features alike, whatever the prompt, so that what was learned on some prompts
    holds on others.

    Args:
        name: of the family, and `seed`: they name the vectors.
        seed: likewise.
        width: W, numbers drawn for a word.
        finish: makes the features.
    """

    def __init__(self, name: str, seed: int, width: int, finish: FinishWords) -> None:
        self.name, self.seed, self.width, self.finish = name, seed, width, finish
        self._words: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns [M, F] float64; the prompts are not read."""
        del prompts
        texts = [text.lower().split() for text in responses]
        sums = [torch.stack([self._vector(word) for word in words or [""]]).sum(0) for words in texts]
        counts = torch.tensor([[len(words)] for words in texts], dtype=torch.float64)
        drawn = torch.stack(sums) if sums else torch.empty(0, self.width, dtype=torch.float64)
        return self.finish(drawn / counts.clamp_min(1).sqrt(), counts)

    def _vector(self, word: str) -> Tensor:
        if word not in self._words:
            from scipy.special import ndtri

            uniforms = Key(hash_seed(self.name, self.seed, "word", word), 0, Stream.INIT).uniform(
                l=np.arange(self.width)
            )
            self._words[word] = torch.from_numpy(ndtri(uniforms + 2.0**-54))
        return self._words[word]


def unit_gaps(values: Tensor) -> Tensor:
    """Scales each column so that its differences have root mean square 1 over the pairs i != j."""
    return values / (values.std(0, correction=1) * math.sqrt(2))


def feature_oracle(
    name: str,
    seed: int,
    width: int,
    listed: FinishListed,
    words: FinishWords,
    compare: Compare,
    responses: Sequence[str] | None,
) -> FeatureOracle:
    """Builds the oracle over a finite task's responses, or over any texts if `responses` is None."""
    if responses is None:
        return FeatureOracle(WordFeatures(name, seed, width, words), compare)
    return FeatureOracle(ListedFeatures(name, seed, width, listed, responses), compare)
