"""The summary of a run's task at its end."""

from collections.abc import Sequence

import torch

from envs import Completion, make_task
from preference_duel.protocols import Policy
from runners.run.evaluator import Evaluation
from runners.run.summary import styles_of


class Says(Policy):
    """Gives every prompt the same responses."""

    def __init__(self, *texts):
        super().__init__()
        self.texts = texts

    def draw(self, prompts, n, key):
        row = [Completion(self.texts[k % len(self.texts)]) for k in range(n)]
        return [row] * len(prompts), torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts, responses):
        raise NotImplementedError

    def blend(self, other, weight):
        raise NotImplementedError

    def save(self, directory):
        raise NotImplementedError


class Shortest:
    """Prefers the shorter response with .8."""

    antisymmetric = True

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]):
        lead = [(len(a) < len(b)) - (len(a) > len(b)) for a, b in zip(first, second, strict=True)]
        return torch.tensor([0.5 + 0.3 * one for one in lead])


def test_the_shares_of_styles_and_the_game_among_them():
    start = Says("Rinse the rice.", "I am glad you asked! Rinse the rice. You will do great!", "Rice!", "Rice!")
    evaluation = Evaluation(make_task("chat"), Shortest(), start, prompts=6, pairs=4, seed=0, tau=0.1)
    lines = styles_of(evaluation, Says("Rinse the rice."))
    assert "to 6 prompts" in lines[0]
    rows = {line.split("  ")[1]: line.split()[1:] for line in lines[2:6]}
    assert rows["concise"] == ["0.25", "1.00", "0.80", "0.50", "0.80"]
    assert rows["warm"][:2] == ["0.25", "0.00"]
    assert rows["not parsed"] == ["parsed", "0.50", "0.00"]
    assert lines[6:] == [""]


def test_a_task_without_styles_says_nothing_of_them():
    task = make_task("symbols", length=2)
    evaluation = Evaluation(task, Shortest(), Says(*task.response_texts), prompts=2, pairs=2, seed=0, tau=0.1)
    assert styles_of(evaluation, Says("aa")) == []
