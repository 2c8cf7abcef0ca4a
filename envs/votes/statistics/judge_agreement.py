"""Agreement of a judge's probabilities with verdicts, their calibration, and the judge's order effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import krippendorff
import numpy as np
from scipy.stats import norm

from envs.votes.table import Indices, Matrix

BINS = 5
"""Equal parts of [1/2, 1], the judge's confidence in the response that it prefers."""
_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Bin:
    """Decided verdicts on which the judge is about equally sure.

    Attributes:
        low: lower end of the confidence, the larger one of P and 1 - P.
        high: upper end.
        verdicts: how many there are.
        confidence: mean confidence; NaN without verdicts.
        agrees: share of the verdicts that name the response which the judge prefers; NaN without verdicts.
    """

    low: float
    high: float
    verdicts: int
    confidence: float
    agrees: float


@dataclass(frozen=True)
class JudgeAgreement:
    """A judge beside verdicts on the same questions.

    Attributes:
        verdicts: how many verdicts there are.
        questions: on how many different pairs.
        decided: verdicts that are no tie.
        judge_ties: share of the questions on which the judge's P is a tie.
        accuracy: share of the decided verdicts that the judge predicts, a tie of the judge counting half.
        low: lower end of the 95 % interval: Wilson's, for as many independent verdicts as have the variance of the
            clustered ones (several verdicts on a question share the judge's answer).
        high: upper end.
        alpha: Krippendorff's alpha (ordinal: loss, tie, win) of judge and verdict, blind to the order of a pair; 0 is
            chance.
        among: share in which two decided verdicts on one question agree; NaN if no question has two.
        among_alpha: Krippendorff's alpha of the verdicts on the same question.
        brier: mean of (P - outcome)^2 over the decided verdicts; always 1/2 would be 1/4.
        bins: the reliability of the judge's confidence.
        first_wins: mean P of the response that is shown first, over both orders of each question; 1/2: no order effect.
        first_low: lower end of its 95 % interval over questions.
        first_high: upper end.
        flips: share of the questions on which the order decides which response the judge prefers.
    """

    verdicts: int
    questions: int
    decided: int
    judge_ties: float
    accuracy: float
    low: float
    high: float
    alpha: float
    among: float
    among_alpha: float
    brier: float
    bins: Sequence[Bin]
    first_wins: float
    first_low: float
    first_high: float
    flips: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers as JSON values; those that are not defined are None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(inner) for name, inner in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(inner) for inner in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return plain(asdict(self))


def judge_agreement(
    prob: Matrix, swapped: Matrix, question: Indices, outcome: Matrix, margin: float = 0.0
) -> JudgeAgreement:
    """Measures how far a judge agrees with verdicts.

    Args:
        prob: [Q] the judge's P(first beats second) of each question, the first shown first.
        swapped: [Q] its P(second beats first), the second shown first.
        question: [M] index of each verdict's question.
        outcome: [M] 1 if the question's first won, 0 if the second did, 1/2 for a tie, or a share.
        margin: the judge's P within it of 1/2 is a tie.

    Raises:
        ValueError: if no verdict is decided.
    """
    decided = outcome != 0.5
    if not decided.any():
        raise ValueError("no verdict is decided: all are ties, so that nothing says which response is better")
    average = (prob + 1 - swapped) / 2
    sign = np.where(np.abs(average - 0.5) <= margin, 0, np.sign(average - 0.5)).astype(np.int64)
    verdict = np.sign(outcome - 0.5).astype(np.int64)
    asked, answers = question[decided], average[question[decided]]
    correct = (1 + sign[asked] * verdict[decided]) / 2
    _, cluster = np.unique(asked, return_inverse=True)
    pairs = np.zeros((len(outcome), 3), dtype=np.int64)
    np.add.at(pairs, (np.arange(len(outcome)), verdict + 1), 1)
    np.add.at(pairs, (np.arange(len(outcome)), sign[question] + 1), 1)
    counts = np.zeros((len(prob), 3), dtype=np.int64)
    np.add.at(counts, (question, verdict + 1), 1)
    shown_first = (prob + swapped) / 2
    spread = _Z * float(shown_first.std(ddof=1)) / math.sqrt(len(prob)) if len(prob) > 1 else math.nan
    first_wins = float(shown_first.mean())
    return JudgeAgreement(
        len(outcome),
        len(prob),
        int(decided.sum()),
        float((sign == 0).mean()),
        float(correct.mean()),
        *clustered_interval(np.bincount(cluster, correct), np.bincount(cluster)),
        _alpha(pairs),
        _among(counts),
        _alpha(counts[counts.sum(1) > 1]),
        float(np.square(answers - outcome[decided]).mean()),
        _bins(answers, outcome[decided] > 0.5),
        first_wins,
        first_wins - spread,
        first_wins + spread,
        float(((prob - 0.5) * (swapped - 0.5) > 0).mean()),
    )


def clustered_interval(correct: Matrix | Indices, count: Matrix | Indices) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share, for as many independent cases as have the variance of clustered ones.

    Args:
        correct: [C] number of right cases in each cluster, halves allowed.
        count: [C] number of cases in it, at least 1.
    """
    clusters, cases = len(count), float(count.sum())
    share = float(correct.sum()) / cases
    errors = correct - share * count
    variance = float(np.square(errors).sum()) / cases**2 * clusters / max(clusters - 1, 1)
    independent = min(share * (1 - share) / variance, cases) if variance else float(clusters)
    return _wilson(share, independent)


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share."""
    weight = _Z**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / count + weight / count / 4) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _alpha(counts: Indices) -> float:
    """Returns Krippendorff's alpha of [units, 3] losses, ties and wins, each unit in both orders of its pair."""
    both = np.concatenate([counts, counts[:, ::-1]])
    if (both.sum(0) > 0).sum() < 2:
        return math.nan
    return float(krippendorff.alpha(value_counts=both, value_domain=[0, 1, 2], level_of_measurement="ordinal"))


def _among(counts: Indices) -> float:
    lost, won = counts[:, 0], counts[:, 2]
    pairs = ((lost + won) * (lost + won - 1)).sum()
    return float((lost * (lost - 1) + won * (won - 1)).sum() / pairs) if pairs else math.nan


def _bins(prob: Matrix, first_won: np.ndarray) -> list[Bin]:
    confidence = np.maximum(prob, 1 - prob)
    agrees = np.where(prob == 0.5, 0.5, (prob > 0.5) == first_won)
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    bins = []
    for i in range(BINS):
        inside = place == i
        means = [float(values[inside].mean()) if inside.any() else math.nan for values in (confidence, agrees)]
        bins.append(Bin(0.5 + i / (2 * BINS), 0.5 + (i + 1) / (2 * BINS), int(inside.sum()), *means))
    return bins
