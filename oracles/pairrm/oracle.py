"""PairRM as an oracle: a cross-encoder of a prompt and two responses."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from oracles.pairrm.checkpoint import load, locate, save
from oracles.pairrm.config import Order, PairRMConfig
from oracles.pairrm.encoding import Pair, PairEncoder
from oracles.pairrm.network import PairRM
from oracles.readers.batching import Budget, Memory
from preference_duel.checks import one_of, positive, require
from preference_duel.transfer import all_to_device

__all__ = ["Cut", "Pair", "PairEncoder", "PairRM", "PairRMConfig", "PairRMOracle", "load", "locate", "save"]

_log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Question = tuple[str, str, str]


@dataclass
class Cut:
    """Counts of truncated texts and ids so far, over the different pairs that were read."""

    pairs: int = 0
    """Pairs read."""
    prompts: int = 0
    """Pairs whose prompt lost its end."""
    responses: int = 0
    """Responses of those pairs that lost their end."""
    ids: int = 0
    """Ids lost."""


class PairRMOracle:
    """Reads pairs in batches of like length and remembers its answers.

    P(a beats b | x) = sigmoid((M(x, a, b) - M(x, b, a)) / (2 T)). The mean of the two orders takes out the position
    bias and keeps the scale on which M was trained, by -log sigmoid(M) on one order.

    Args:
        network: judges; any device and dtype. It is put into eval mode, and answers are remembered: its weights must
            not change any more.
        encoder: makes its ids.
        config: order, temperature and budgets.
    """

    antisymmetric = True

    def __init__(self, network: PairRM, encoder: PairEncoder, config: PairRMConfig | None = None) -> None:
        self.network, self.encoder = network.eval(), encoder
        self.config = config or PairRMConfig()
        require(self.config, temperature=positive, order=one_of(Order))
        self.checkpoint = self.config.checkpoint
        self.cut = Cut()
        self._memory: Memory[Question, float] = Memory(self.config.cache_size)
        squares = self.config.square_budget or (2**23 if network.device.type == "cuda" else 2**20)
        self._budget = Budget(self.config.token_budget, squares)

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float32 on the CPU; equal texts are 1/2 without a pass."""
        questions = list(zip(prompts, first, second, strict=True))
        different = [i for i, (_, a, b) in enumerate(questions) if a != b]
        swapped = [(x, b, a) for x, a, b in (questions[i] for i in different)]
        straight = [questions[i] for i in different]
        if self.config.order == "both":
            logits = self._logits(straight + swapped).double()
            margins = (logits[: len(straight)] - logits[len(straight) :]) / 2
        else:
            turned = torch.tensor([_is_turned(*question) for question in straight], dtype=torch.bool)
            asked = [swapped[i] if turn else straight[i] for i, turn in enumerate(turned.tolist())]
            logits = self._logits(asked).double()
            margins = torch.where(turned, -logits, logits)
        prob = torch.full((len(questions),), 0.5, dtype=torch.float64)
        prob[different] = torch.sigmoid(margins / self.config.temperature)
        return prob.float()

    def logits(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns M(first, second) of this one order, [N] float32 on the CPU; positive where first is better."""
        return self._logits(list(zip(prompts, first, second, strict=True)))

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def _logits(self, questions: Sequence[Question]) -> Tensor:
        return torch.tensor(self._memory.answers(questions, self._ask))

    def _ask(self, questions: Sequence[Question]) -> list[float]:
        """Reads different questions, in batches of like length; the device is waited for once, after the last."""
        pairs = [self.encoder.encode(*question) for question in questions]
        self._count_cuts(pairs)
        batches = list(self._budget.batches([len(pair.ids) for pair in pairs]))
        logits = torch.cat([self._read([pairs[i] for i in rows]) for rows in batches]).cpu()
        if not logits.isfinite().all():
            dtype = next(self.network.parameters()).dtype
            raise ValueError(
                f"{self.checkpoint} gives {logits.tolist()} in {dtype}; are the weights finite, is dtype wide?"
            )
        answers = dict(zip(chain(*batches), logits.tolist(), strict=True))
        return [answers[i] for i in range(len(pairs))]

    @torch.inference_mode()
    def _read(self, pairs: Sequence[Pair]) -> Tensor:
        """Returns [N] float32 M of one batch, on the network's device."""
        return self.network(*all_to_device(self.encoder.batch(pairs), self.network.device)).float()

    def _count_cuts(self, pairs: Sequence[Pair]) -> None:
        before = self.cut.ids
        self.cut.pairs += len(pairs)
        self.cut.prompts += sum(pair.lost[0] > 0 for pair in pairs)
        self.cut.responses += sum((pair.lost[1] > 0) + (pair.lost[2] > 0) for pair in pairs)
        self.cut.ids += sum(sum(pair.lost) for pair in pairs)
        if before == 0 and self.cut.ids:
            _log.warning(
                "PairRM read only the beginning of %d prompts and %d responses among %d pairs (%d ids lost, "
                "limits %d and %d); `cut` keeps counting",
                *(self.cut.prompts, self.cut.responses, self.cut.pairs, self.cut.ids),
                *(self.encoder.source_limit, self.encoder.candidate_limit),
            )


def _is_turned(prompt: str, first: str, second: str) -> bool:
    """Returns whether a pair is read with its responses exchanged: a fair coin of the texts, not of their order."""
    low, high = sorted((first, second))
    digest = hashlib.blake2b("\x1f".join((prompt, low, high)).encode(), digest_size=1).digest()
    return (first == low) == bool(digest[0] & 1)
