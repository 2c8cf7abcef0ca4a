"""Beam search: by all beginnings the largest implicit reward, by few what it misses, and what it refuses."""

import dataclasses

import pytest
import torch

from agents import BeamSearch, TabularPolicy
from envs import Key, make_task
from envs.tasks.finite import finite_task
from preference_duel.types import Completion
from tests.tiny_models import PROMPTS, every_response, policy_of, text_task, write_model

SYMBOLS = make_task("symbols", alphabet=3, length=4, prompts=3)


def tables(task=SYMBOLS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = len(task.all_prompts), len(task.response_texts)
    return [
        TabularPolicy(task, torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1)) for _ in range(2)
    ]


def score(policy, reference, prompts, responses):
    rows = [responses] * len(prompts)
    with torch.no_grad():
        return policy.logprob(prompts, rows) - reference.logprob(prompts, rows)


@pytest.mark.parametrize("width", [81, 10**6])
def test_with_all_beginnings_a_table_gives_the_largest_implicit_reward(width):
    policy, reference = tables()
    best = score(policy, reference, SYMBOLS.prompts, list(SYMBOLS.responses)).argmax(1).tolist()
    beam = BeamSearch(policy, reference, width)
    assert beam.distribution(SYMBOLS.prompts, SYMBOLS.responses).argmax(1).tolist() == best
    drawn, weight = beam.draw(SYMBOLS.prompts, 2, Key(0))
    assert [[y.text for y in row] for row in drawn] == [[SYMBOLS.response_texts[i]] * 2 for i in best]
    assert weight.tolist() == [[0.5, 0.5]] * 3


def test_of_responses_that_begin_one_another_each_can_win():
    tokens = {"a": (0,), "ab": (0, 1), "abb": (0, 1, 1), "b": (1,)}
    task = finite_task("prefixes", ("x",), list("abcd"), list("abcd"))
    task = dataclasses.replace(task, responses=tuple(Completion(text, ids) for text, ids in tokens.items()))
    reference = TabularPolicy(task)
    for i, text in enumerate(tokens):
        policy = TabularPolicy(task, torch.full((4,), 0.2, dtype=torch.float64).index_fill(0, torch.tensor(i), 0.4))
        assert BeamSearch(policy, reference, 10).best(["x"])[0].text == text


def test_a_beam_of_one_takes_the_likeliest_token_and_misses_what_hides_behind_another():
    """Of a- .6 and b- .4 it goes to a, where nothing was learned; the largest log-ratio, log 1.6, is that of bb."""
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    assert task.response_texts == ("aa", "ab", "ba", "bb")
    reference = TabularPolicy(task, torch.tensor([0.3, 0.3, 0.15, 0.25], dtype=torch.float64))
    policy = TabularPolicy(task, torch.tensor([0.3, 0.3, 1e-9, 0.4 - 1e-9], dtype=torch.float64))
    found = {width: BeamSearch(policy, reference, width).best(task.prompts)[0].text for width in (1, 2, 5)}
    assert found == {1: "aa", 2: "bb", 5: "bb"}


@pytest.fixture
def models(tmp_path):
    """A language model and another of the same vocabulary, on free text of at most 3 tokens."""
    folders = [write_model(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    task = text_task(folders[0], 3, 1)
    return [policy_of(folder, task) for folder in folders]


def test_with_all_beginnings_a_language_model_gives_the_largest_implicit_reward(models):
    policy, reference = models
    responses, prompts = every_response(policy), list(PROMPTS[:2])
    values = score(policy, reference, prompts, responses)
    found = BeamSearch(policy, reference, len(responses)).best(prompts)
    assert [y.tokens for y in found] == [responses[i].tokens for i in values.argmax(1).tolist()]
    reached = score(policy, reference, prompts, found).diagonal()
    torch.testing.assert_close(reached, values.amax(1), atol=1e-5, rtol=0)
    narrow = score(policy, reference, prompts, BeamSearch(policy, reference).best(prompts)).diagonal()
    assert (narrow <= reached + 1e-5).all()
    assert (narrow > values.median(1).values).all()


def test_what_can_not_be_decoded_is_refused(models, tmp_path):
    policy, reference = tables()
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        BeamSearch(policy, reference, 0)
    with pytest.raises(TypeError, match="two tables or two language models, got TabularPolicy and HFPolicy"):
        BeamSearch(policy, models[1])
    other = tables(make_task("symbols", alphabet=2, length=4, prompts=3))[0]
    with pytest.raises(ValueError, match="may write different ones"):
        BeamSearch(policy, other)
    beam = BeamSearch(policy, reference)
    for refused in (lambda: beam.blend(policy, 0.5), lambda: beam.save(tmp_path)):
        with pytest.raises(TypeError, match="BeamSearch"):
            refused()
    models[0].truncates = True
    with pytest.raises(ValueError, match="top_p=1, top_k=0"):
        BeamSearch(*models)
    models[0].truncates = False
    models[0].constraints = text_constraints = dataclasses.replace(models[0].constraints, limit=2)
    assert not text_constraints.same_as(models[1].constraints)
    with pytest.raises(ValueError, match="may write different ones"):
        BeamSearch(*models)
