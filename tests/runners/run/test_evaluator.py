import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from agents import Policy, TabularPolicy
from envs import Completion, games
from envs.tasks.task import make_task
from preference_duel.types import Unanswered
from runners.duel import main
from runners.evaluation.adversaries import Samples, pooled
from runners.evaluation.cross_play import sampled_cross_play
from runners.run.build import tau_of
from runners.run.cli import parse
from runners.run.evaluator import Evaluation, choose, distribution, over_prompts, win_rate


class Longer:
    """P(a beats b) grows by 1/10 for each letter that a is longer."""

    antisymmetric = True

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]):
        return torch.tensor([0.5 + (len(a) - len(b)) / 10 for a, b in zip(first, second, strict=True)])


def rows(*texts):
    return [[Completion(text) for text in row] for row in texts]


def test_win_rate_is_the_mean_of_pairs_with_students_interval_over_prompts():
    found = win_rate(Longer(), ["x", "y", "z"], rows(["aa", "a"], ["aaa", "aa"], ["a", "a"]), rows(*[["a", "a"]] * 3))
    # by hand: prompts (.6 + .5) / 2, (.7 + .6) / 2, .5; sd sqrt(7) / 40, t(2, .975) = 4.302653
    assert found.mean == pytest.approx((0.55 + 0.65 + 0.5) / 3, abs=1e-6)
    half = 4.302653 * 0.0763763 / 3**0.5
    assert found.low == pytest.approx(found.mean - half, abs=1e-5)
    assert found.high == pytest.approx(found.mean + half, abs=1e-5)


class Shy(Longer):
    """Longer, but leaves pairs with a "b" unread."""

    leaves_unread = True

    def prob(self, prompts, first, second):
        unread = torch.tensor(["b" in a + b for a, b in zip(first, second, strict=True)])
        return torch.where(unread, torch.nan, super().prob(prompts, first, second))


def test_a_win_rate_rests_on_what_was_read():
    ours, theirs = rows(["aa", "ba"], ["aaa", "aa"], ["b", "b"]), rows(*[["a", "a"]] * 3)
    found = win_rate(Shy(), ["x", "y", "z"], ours, theirs)
    read = win_rate(Longer(), ["x", "y"], rows(["aa", "aa"], ["aaa", "aa"]), rows(*[["a", "a"]] * 2))
    assert (found.mean, found.low, found.high) == (read.mean, read.low, read.high)
    assert found.unread == pytest.approx(3 / 6)
    assert found.scalars()["eval/unread"] == found.unread
    assert read.unread is None
    with pytest.raises(Unanswered, match="none of the 2 answers about held-out pairs could be read"):
        win_rate(Shy(), ["z"], rows(["b", "b"]), rows(["a", "a"]))


class Drawing:
    """Draws texts that it was given, in order."""

    def __init__(self, *texts):
        self.texts = texts

    def draw(self, prompts, n, key):
        return [[Completion(text) for text in self.texts[:n]] for _ in prompts], None


def test_cross_play_says_how_many_pairs_were_unread():
    policies = [Drawing("aa", "ab"), Drawing("a", "a"), Drawing("aaa", "aa")]
    table = sampled_cross_play(Shy(), policies, ["x", "y"], 2, seed=0)
    assert table.table[0, 1].item() == pytest.approx(0.6, abs=1e-6), "aa against a alone"
    assert table.table[0, 2].item() == pytest.approx(0.4, abs=1e-6)
    assert table.unread == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert sampled_cross_play(Longer(), policies, ["x", "y"], 2, seed=0).unread is None


def test_adversaries_gain_nothing_by_unread_pairs():
    samples = object.__new__(Samples)
    samples.oracle, samples.prompts, samples.texts = Shy(), ["x", "y"], [["a", "ab", "a", "a"]] * 2
    finding = pooled(samples, [["aa", "bbbbb"]] * 2)
    assert finding.unread == pytest.approx((1 + 4) / 8)
    assert finding.bound.value == pytest.approx(0.1, abs=1e-6), "aa against each a"
    assert {example.better for example in finding.examples} == {"aa"}


def test_interval_stays_within_zero_and_one_and_needs_two_prompts():
    wide = over_prompts(torch.tensor([0.0, 1.0]))
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    alone = over_prompts(torch.tensor([0.7]))
    assert (alone.low, alone.high) == (None, None)
    assert alone.scalars() == {"eval/win_rate_vs_ref": pytest.approx(0.7)}


def test_held_out_prompts_are_the_same_in_every_run():
    prompts = [str(i) for i in range(300)]
    chosen = choose(prompts, 128)
    assert len(chosen) == 128
    assert chosen == sorted(chosen, key=int) == choose(prompts, 128)
    assert chosen[:3] != prompts[:3]
    assert choose(prompts[:5], 128) == prompts[:5]


def probs64(*probs):
    return torch.tensor(probs, dtype=torch.float64)


def evaluation(reference_probs=None, exact=False, seed=3):
    task = make_task("symbols", alphabet=3, length=1, prompts=2)
    config = parse(["--task", "symbols", "--oracle.scale", "3"]).settings.configs["oracle"]
    oracle = config.build(prompts=task.all_prompts, responses=task.response_texts)
    return task, oracle, Evaluation(task, oracle, TabularPolicy(task, reference_probs, exact), 128, 4, seed, 0.1)


def test_finite_task_is_evaluated_exactly():
    start, now, mean = (probs64(*row) for row in ([0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]))
    task, oracle, measure = evaluation(start)
    scalars = measure.scalars(TabularPolicy(task, now), TabularPolicy(task, mean))
    matrices = games.payoff_matrix(oracle, list(task.held_out), task.response_texts)
    assert scalars["eval/win_rate_vs_ref"] == pytest.approx((now @ matrices @ start).mean().item())
    assert scalars["eval/win_rate_average"] == pytest.approx((mean @ matrices @ start).mean().item())
    for tag, probs in (("", now), ("_average", mean)):
        expected = games.exploitability(matrices, probs.expand(2, 3)).mean().item()
        assert scalars[f"game/exploitability{tag}"] == pytest.approx(expected)
    assert "game/exploitability_average" not in measure.scalars(TabularPolicy(task, now))


def test_the_regularised_game_is_measured_around_the_start():
    start, now = probs64(0.2, 0.3, 0.5), probs64(0.7, 0.2, 0.1)
    task, oracle, measure = evaluation(start)
    matrices = games.payoff_matrix(oracle, list(task.held_out), task.response_texts)
    nash = games.regularised_nash(matrices, start, 0.1).policy
    scalars = measure.scalars(TabularPolicy(task, now))
    gap = games.regularised_exploitability(matrices, now.expand(2, 3), start.expand(2, 3), 0.1)
    assert scalars["game/regularised_exploitability"] == pytest.approx(gap.mean().item())
    assert scalars["game/nash_kl"] == pytest.approx(games.kl_divergence(now.expand(2, 3), nash).mean().item())
    solved = measure.scalars(TabularPolicy(task, nash))
    assert solved["game/regularised_exploitability"] < 1e-12
    assert solved["game/nash_kl"] < 1e-12


def test_an_agents_own_tau_is_the_one_measured():
    settings = parse(["--task", "symbols"]).settings
    assert tau_of(settings) == 0.1
    regularised = dataclasses.make_dataclass("C", [("tau", float, 0.02)], frozen=True)()
    settings = dataclasses.replace(settings, configs=settings.configs | {"agent": regularised})
    assert tau_of(settings) == 0.02
    assert tau_of(dataclasses.replace(settings, run=dataclasses.replace(settings.run, eval_tau=0.3))) == 0.3
    with pytest.raises(ValueError, match="eval_tau must be positive, got 0"):
        dataclasses.replace(settings.run, eval_tau=0.0)


def test_policy_draws_even_with_itself():
    task, _, measure = evaluation()
    assert measure.scalars(TabularPolicy(task))["eval/win_rate_vs_ref"] == pytest.approx(0.5)


class Dice(Policy):
    """Says "a" one to six times."""

    def __init__(self):
        super().__init__()
        self.drawn = 0

    def draw(self, prompts, n, key):
        self.drawn += 1
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(prompts))[:, None])
        return [[Completion("a" * (1 + int(6 * u))) for u in row] for row in uniforms], torch.full(
            uniforms.shape, 1 / n
        )

    def logprob(self, prompts, responses):
        raise NotImplementedError

    blend = save = logprob


def test_free_text_is_evaluated_from_draws_that_stay_the_same():
    task = dataclasses.replace(make_task("symbols", prompts=100), responses=None)
    reference, policy = Dice(), Dice()
    measure = Evaluation(task, Longer(), reference, 64, 4, 3, 0.1)
    first, second = measure.scalars(policy), measure.scalars(policy)
    assert first == second
    assert reference.drawn == 1
    assert set(first) == {"eval/win_rate_vs_ref", "eval/win_rate_low", "eval/win_rate_high"}
    assert 0 < abs(first["eval/win_rate_vs_ref"] - 0.5) < 0.05  # equal laws, independent draws
    assert first["eval/win_rate_low"] < 0.5 < first["eval/win_rate_high"]
    both = measure.scalars(policy, Dice())
    assert both["eval/win_rate_average"] == both["eval/win_rate_vs_ref"] == first["eval/win_rate_vs_ref"]
    assert Evaluation(task, Longer(), reference, 64, 4, 4, 0.1).scalars(policy) != first


class Fixed(Dice):
    """Always gives the responses of a list in turn."""

    def __init__(self, *texts):
        super().__init__()
        self.texts = texts

    def draw(self, prompts, n, key):
        row = [Completion(self.texts[i % len(self.texts)]) for i in range(n)]
        return [row for _ in prompts], torch.full((len(prompts), n), 1 / n)


class Circle(Longer):
    """a beats b, b beats c and c beats a, each with 0.8."""

    def prob(self, prompts, first, second):
        steps = [(ord(b) - ord(a)) % 3 for a, b in zip(first, second, strict=True)]
        return torch.tensor([0.5, 0.8, 0.2], dtype=torch.float64)[steps]


def test_a_collapsed_policy_of_free_text_is_exploitable_although_it_beats_its_start():
    task = dataclasses.replace(make_task("symbols", prompts=100), responses=None)
    measure = Evaluation(task, Circle(), Fixed("b", "b", "b", "c"), 64, 4, 3, 0.1)
    measure.pool = 4
    policy = Fixed("a")
    scalars = measure.scalars(policy)
    assert scalars["eval/win_rate_vs_ref"] == pytest.approx((3 * 0.8 + 0.2) / 4)
    assert scalars["eval/exploitability_lower"] == pytest.approx(0.3)
    found = measure.pool_bound(measure.draw(policy))
    ends = scalars["eval/exploitability_lower_low"], scalars["eval/exploitability_lower_high"]
    assert ends == (found.bound.low, found.bound.high)
    example = found.example
    assert (example.better, example.response, example.win_rate) == ("c", "a", pytest.approx(0.8))
    assert (found.bound.low, found.bound.high) == (pytest.approx(0.3), pytest.approx(0.3))
    assert measure.measured == found
    assert measure.questions(1) == 64 * 4 + 24 * (4 + 3)
    assert measure.questions(5, policies=2) == 5 * (2 * 64 * 4 + 24 * (4 + 3))


def test_a_single_sample_or_no_pool_gives_no_bound():
    task = dataclasses.replace(make_task("symbols", prompts=100), responses=None)
    for pairs, pool in ((1, 4), (4, 0)):
        measure = Evaluation(task, Circle(), Fixed("b", "c"), 64, pairs, 3, 0.1)
        measure.pool = pool
        assert measure.pool_bound(measure.draw(Fixed("a"))) is None


def test_law_of_a_finite_policy_sums_to_one():
    task, _, measure = evaluation()
    probs = probs64(0.7, 0.2, 0.1)
    assert torch.allclose(distribution(TabularPolicy(task, probs), task, measure.prompts), probs.expand(2, 3))


def test_whole_laws_are_written_for_few_responses_alone():
    task, _, measure = evaluation()
    start, mean = TabularPolicy(task, probs64(0.7, 0.2, 0.1)), TabularPolicy(task)
    first, second = measure.distributions(start, mean)
    assert (first["prompt"], second["prompt"]) == ("#0", "#1")
    assert first["policy"] == pytest.approx([0.7, 0.2, 0.1])
    assert first["average"] == pytest.approx([1 / 3] * 3)
    assert "average" not in measure.distributions(start)[0]
    large = make_task("symbols", alphabet=5, length=2)
    assert Evaluation(large, Longer(), TabularPolicy(large), 1, 1, 0, 0.1).distributions(TabularPolicy(large)) == []


def test_too_many_payoffs_are_refused_with_the_way_out():
    task = make_task("symbols", alphabet=6, length=4, prompts=50)
    measure = Evaluation(task, Longer(), TabularPolicy(task), 128, 4, 0, 0.1)
    with pytest.raises(ValueError, match=r"--run.eval_prompts 39 "):
        measure.scalars(TabularPolicy(task))


@pytest.mark.parametrize("agent", ["spo", "egpo"])
def test_a_game_without_a_kl_term_is_measured_by_the_default_one(agent, tmp_path):
    fields = ["--agent.tau", "0"] if agent == "egpo" else []
    arguments = ["--task", "rps", "--agent", agent, *fields, "--run.steps", "1", "--run.dir", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert '"game/nash_kl"' in (tmp_path / "run" / "metrics.jsonl").read_text()
