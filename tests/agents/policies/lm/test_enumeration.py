"""Listed distribution of a language model: exact sums, equal to teacher forcing, each beginning read once."""

import numpy as np
import pytest
import torch

import oracles
from agents import Frozen, Mixture, TabularPolicy, geometric, make_policy
from envs import make_task
from envs.games import exploitability
from envs.tasks.finite import finite_task
from oracles import payoff
from preference_duel.keyed_random import Key
from runners.run.evaluator import distribution


@pytest.fixture(scope="module")
def symbols():
    return make_task("symbols", length=6, prompts=2)


def forced(policy, prompts, responses):
    """The same distribution by teacher forcing, every response from its start."""
    with torch.no_grad():
        return policy.logprob(prompts, [list(responses)] * len(prompts)).double().exp()


@pytest.mark.slow
def test_4096_strings_sum_to_one_and_are_what_teacher_forcing_says(symbols):
    policy = make_policy("tiny", task=symbols)
    result = policy.distribution(symbols.prompts, symbols.responses)
    assert result.shape == (2, 4096)
    assert (result.sum(1) - 1).abs().max() < 1e-12
    assert torch.allclose(result[0], forced(policy, symbols.prompts[:1], symbols.responses)[0], rtol=1e-4)


def test_each_beginning_is_read_once(symbols):
    policy = make_policy("tiny", task=symbols)
    prompt = policy.tokenizer.prompt(symbols.prompts[0])
    read = []
    handle = policy.model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    policy.distribution(symbols.prompts[:1], symbols.responses)
    handle.remove()
    assert read == [len(prompt), 4, 16, 64, 256, 1024]  # with the empty one 1365 beginnings


@pytest.mark.parametrize("micro_tokens", [1, 3, 256])
def test_a_small_micro_tokens_changes_nothing(micro_tokens):
    words = ["a", "ab", "abc", "b", "ca", "cb", "cab0", "c" * 9]
    task = finite_task("game", ("x", "hello there"), words, words)
    policy = make_policy("tiny", task=task, micro_tokens=micro_tokens)
    result = policy.distribution(task.prompts, task.responses)
    assert (result.sum(1) - 1).abs().max() < 1e-12
    assert torch.allclose(result, forced(policy, task.prompts, task.responses), rtol=1e-4)
    few = policy.distribution(task.prompts, task.responses[::-2])
    assert torch.equal(few, result.flip(1)[:, ::2])


def test_policies_made_of_policies_have_distributions_too():
    task = make_task("symbols", length=2, prompts=2)
    model = make_policy("tiny", task=task)
    cold = make_policy("tiny", task=task, temperature=0.5)
    table = TabularPolicy(task)
    for policy in (Frozen(model), Mixture([model, cold], [0.3, 0.7]), Mixture([model, table]), table):
        assert torch.allclose(
            distribution(policy, task, task.prompts), forced(policy, task.prompts, task.responses), rtol=1e-4
        )
    between = geometric(model, cold, 0.4)
    result = between.distribution(task.prompts, task.responses)
    assert torch.allclose(result, forced(between, task.prompts, task.responses), rtol=1e-4)
    assert (result.sum(1) - 1).abs().max() < 1e-12


@pytest.mark.slow
def test_exact_exploitability_lies_in_the_interval_of_an_estimate(symbols):
    policy = make_policy("tiny", task=symbols)
    prompt = symbols.prompts[:1]
    judge = oracles.make("cyclic", prompts=symbols.prompts, responses=symbols.response_texts, lam=0.5)
    game = payoff(judge, prompt, [list(symbols.response_texts)])[0]
    whole = distribution(policy, symbols, prompt)[0]
    exact = exploitability(game, whole).item()
    best = symbols.response_texts[int((game @ whole).argmax())]
    drawn, _ = policy.draw(prompt, 2000, Key(7))
    gains = judge.prob(prompt * 2000, [best] * 2000, [y.text for y in drawn[0]]).numpy() - 0.5
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert abs(gains.mean() - exact) < 3 * error
    assert 3 * error < exact / 2


def test_free_text_has_no_whole_distribution():
    task = make_task("chat")
    with pytest.raises(TypeError, match="only a finite task has a distribution over all its responses"):
        make_policy("tiny", task=task).distribution(task.prompts[:1], [])
