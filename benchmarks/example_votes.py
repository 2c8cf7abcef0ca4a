"""`python -m benchmarks.example_votes`: prints the simulated votes that `python -m runners.audit example` reads."""

from __future__ import annotations

import csv
import sys

import numpy as np

ITEMS = ("alder", "birch", "cedar", "dogwood", "elm", "fir")
SCORES = (0.9, 0.9, 0.9, 0.2, -0.4, -1.2)
CYCLE = 1.2  # nats by which alder beats birch, birch cedar, and cedar alder
FIRST = 0.25  # nats for the item that is shown first
TIES = 0.3  # Davidson's nu
ASPECTS = ("helpful", "honest", "harmless")  # of the questions in turn; they change no vote
PEOPLE, PROMPTS, VERDICTS = 12, 20, 1200


def main() -> None:
    """Prints CSV: six items of which three beat each other in a cycle, a slight order effect, a tenth of ties."""
    generator = np.random.default_rng(0)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("question_id", "model_a", "model_b", "winner", "judge", "aspect"))
    for _ in range(VERDICTS):
        first, second = (int(k) for k in generator.choice(len(ITEMS), 2, replace=False))
        gap = SCORES[first] - SCORES[second] + FIRST
        if max(first, second) < 3:
            gap += CYCLE if second == (first + 1) % 3 else -CYCLE
        odds = np.array([np.exp(gap / 2), np.exp(-gap / 2), TIES])
        winner = ("model_a", "model_b", "tie")[generator.choice(3, p=odds / odds.sum())]
        question, person = generator.integers(PROMPTS), generator.integers(PEOPLE)
        pair = ITEMS[first], ITEMS[second]
        writer.writerow((f"question {question}", *pair, winner, f"person {person}", ASPECTS[question % 3]))


if __name__ == "__main__":
    main()
