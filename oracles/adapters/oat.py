"""Preference oracles for oat, Online Alignment's trainer."""

from __future__ import annotations

from collections.abc import Sequence

from oracles.base import ask_pairs
from preference_duel.protocols import Oracle


class DuelOracle:
    """Answers as `oat.oracles.base.PreferenceOracleBase` does.

    Args:
        oracle: answers; a question without an answer raises.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def compare(
        self,
        inputs: Sequence[str],
        candidates_A: Sequence[str],
        candidates_B: Sequence[str],
        batch_size: int = 4,
        return_probs: bool = False,
        disable_tqdm: bool = False,
    ) -> tuple[list[float] | list[bool], dict[str, float]]:
        """Returns P(A beats B), or whether A is at least as good as B, and no metrics.

        Args:
            inputs: N prompts.
            candidates_A: N responses.
            candidates_B: N responses.
            batch_size: not read: the oracle batches by itself.
            return_probs: whether probabilities come back.
            disable_tqdm: not read: there is no progress bar.
        """
        del batch_size, disable_tqdm
        prob = ask_pairs(self.oracle, inputs, candidates_A, candidates_B)
        return (prob.tolist() if return_probs else (prob >= 0.5).tolist()), {}
