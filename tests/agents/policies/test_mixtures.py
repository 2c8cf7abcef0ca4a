import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from agents import Frozen, HFPolicy, Mixture, TabularPolicy, geometric
from envs.tasks.finite import finite_task
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Completion
from tests.tiny_models import every_response, require_samples_follow, text_task, tiny_model, write_tokenizer

FIRST, SECOND, THIRD = (0.7, 0.2, 0.06, 0.04), (0.1, 0.2, 0.3, 0.4), (0.25, 0.05, 0.65, 0.05)
DRAWS = 20_000


def game(words=("a", "b", "c", "d")):
    return finite_task("game", ("x", "y"), words, words)


def table(probs, exact=False):
    return TabularPolicy(game(), torch.tensor(probs, dtype=torch.float64), exact)


def require_distribution(policy, probs, key=None):
    drawn, weights = policy.draw(["x"], DRAWS, Key(11) if key is None else key)
    counts = [sum(y.text == text for y in drawn[0]) for text in "abcd"]
    assert stats.chisquare(counts, np.array(probs) * DRAWS).pvalue > 1e-3
    assert weights.sum().item() == pytest.approx(1, abs=1e-3)
    values = policy.logprob(["x"], [[Completion(text) for text in "abcd"]])
    assert values.exp()[0].tolist() == pytest.approx(probs)


def write_letters(folder, seed, letters="abx"):
    """Writes a model over so few letters that all its responses can be listed."""
    write_tokenizer(folder, template=None, special=("<pad>", "<eos>"), letters=letters)
    tiny_model(width=2 + len(letters), seed=seed).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [write_letters(tmp_path_factory.mktemp("model"), seed) for seed in (1, 2)]


def letters_task(folder, limit=3):
    return text_task(folder, limit, least=1, prompts=("xa", "b"))


def language_models(folders, task=None, **fields):
    return [HFPolicy(folder, letters_task(folders[0]) if task is None else task, **fields) for folder in folders]


def test_a_frozen_policy_stays_and_learns_nothing():
    policy = table(FIRST)
    frozen = Frozen(policy)
    with torch.no_grad():
        policy.logits.zero_()
    require_distribution(frozen, FIRST)
    assert not frozen.logprob(["x"], [[Completion("a")]]).requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.raises(TypeError, match="never learns"):
        frozen.requires_grad_()
    with pytest.raises(TypeError, match="never changes"):
        frozen.blend(policy, 0.5)
    require_distribution(frozen.frozen(), FIRST)


def test_a_mixture_draws_from_the_weighted_sum_of_the_distribution():
    policy = Mixture([table(FIRST), table(SECOND)], [0.25, 0.75])
    require_distribution(policy, [0.25 * a + 0.75 * b for a, b in zip(FIRST, SECOND, strict=True)])


def test_mixtures_of_mixtures_choose_independently():
    inner = Mixture([table(FIRST), table(SECOND)])
    policy = Mixture([inner, table(THIRD)])
    require_distribution(policy, [a / 4 + b / 4 + c / 2 for a, b, c in zip(FIRST, SECOND, THIRD, strict=True)])


@pytest.mark.parametrize("stream", [Stream.TOKEN, Stream.OPPONENT])
def test_the_choice_of_a_component_is_independent_of_what_it_draws(stream):
    policy = Mixture([table(FIRST), table(SECOND)])
    require_distribution(policy, [(a + b) / 2 for a, b in zip(FIRST, SECOND, strict=True)], Key(3, 1, stream))


def test_a_mixture_draws_what_its_component_would_draw_at_the_same_place(folders):
    first, second = language_models(folders)
    prompts = ["xa", "b", "xa"]
    alone = [policy.draw(prompts, 20, Key(5, 1))[0] for policy in (first, second)]
    assert Mixture([first, second], [1, 0]).draw(prompts, 20, Key(5, 1))[0] == alone[0]
    both = Mixture([first, second]).draw(prompts, 20, Key(5, 1))[0]
    origin = [[[y == a, y == b] for y, a, b in zip(*rows, strict=True)] for rows in zip(both, *alone, strict=True)]
    assert np.array(origin).any(2).all()
    assert both != alone[0]
    assert both != alone[1]
    fewer = Mixture([first, second]).draw(prompts[:2], 5, Key(5, 1))[0]
    assert fewer == [row[:5] for row in both[:2]]


def test_an_exact_mixture_adds_the_distribution():
    policy = Mixture([table(FIRST, exact=True), table(SECOND, exact=True)], [0.25, 0.75])
    responses, weights = policy.draw(["x", "y"], 1, Key(0))
    probs = torch.tensor([0.25 * a + 0.75 * b for a, b in zip(FIRST, SECOND, strict=True)], dtype=torch.float64)
    assert [y.text for y in responses[1]] == list("abcd")
    assert torch.allclose(weights, probs.expand(2, 4))


def test_an_exact_mixture_of_a_table_and_a_language_model_goes_by_text(folders):
    task = game(("a", "ab", "b", "x"))
    model = HFPolicy(
        folders[0], finite_task("game", ("x", "xa"), ("b", "x", "ab", "a"), ("b", "x", "ab", "a")), exact=True
    )
    policy = Mixture([TabularPolicy(task, exact=True), model])
    responses, weights = policy.draw(["x"], 1, Key(0))
    assert (weights.sum(1) - 1).abs().max() < 1e-6
    assert torch.allclose(policy.logprob(["x"], responses).exp(), weights, atol=1e-7)


def test_the_gradient_of_a_mixture_reaches_its_components():
    first, second = table(FIRST), table(SECOND)
    Mixture([first, Frozen(second)]).logprob(["x"], [[Completion("a")]]).sum().backward()
    assert first.logits.grad is not None
    expected = 0.7 / 0.8 * (torch.tensor([1.0, 0, 0, 0]) - torch.tensor(FIRST))
    assert torch.allclose(first.logits.grad[0], expected.double())
    assert second.logits.grad is None


def test_mixtures_that_do_not_fit_are_refused(folders, tmp_path):
    first = table(FIRST)
    for policies, weights in [([first], [0.5]), ([first, first], [1.5, -0.5]), ([first], [0.5, 0.5]), ([], None)]:
        with pytest.raises(ValueError, match="one weight >= 0 for each policy, with sum 1"):
            Mixture(policies, weights)
    with pytest.raises(ValueError, match="some of the policies are exact"):
        Mixture([first, table(SECOND, exact=True)])
    other = HFPolicy(write_letters(tmp_path, 0, "xab"), letters_task(tmp_path))
    with pytest.raises(ValueError, match="other vocabularies"):
        Mixture([language_models(folders)[0], Frozen(other)])
    with pytest.raises(TypeError, match="not blended"):
        Mixture([first]).blend(Mixture([first]), 0.5)


def test_a_geometric_mixture_of_tables_is_renormalised():
    probs = [a**0.7 * b**0.3 for a, b in zip(FIRST, SECOND, strict=True)]
    probs = [x / sum(probs) for x in probs]
    require_distribution(geometric(table(FIRST), table(SECOND), 0.3), probs)
    exact = geometric(table(FIRST, exact=True), Frozen(table(SECOND, exact=True)), 0.3)
    responses, weights = exact.draw(["y"], 1, Key(0))
    assert weights[0].tolist() == pytest.approx(probs)
    assert exact.logprob(["y"], responses).exp()[0].tolist() == pytest.approx(probs)
    half = geometric(geometric(table(FIRST), table(SECOND), 0.3), table(FIRST), 1.0)
    require_distribution(half, FIRST)


def test_a_geometric_mixture_of_language_models_is_renormalised_for_each_token(folders):
    first, second = language_models(folders, temperature=1.5)
    policy, responses = geometric(first, second, 0.25), every_response(first, "abx")
    values, _ = policy.token_logprob(["xa"], [responses])
    assert values.exp().prod(-1).sum().item() == pytest.approx(1, abs=1e-6)
    legal = [2, 3, 4]
    for y, row in zip(responses[:12], values[0], strict=False):
        ids = list(first.tokenizer.prompt("xa"))
        for t, token in enumerate(y.tokens):
            logits = [p.model(input_ids=torch.tensor([ids])).logits[0, -1] / 1.5 for p in (first, second)]
            options = legal if t == 0 else [1, *legal]
            logprobs = (0.75 * logits[0] + 0.25 * logits[1])[options].log_softmax(0)
            assert row[t].item() == pytest.approx(logprobs[options.index(token)].item(), abs=1e-5)
            ids.append(token)


def test_draws_of_a_geometric_mixture_follow_its_probabilities(folders):
    first, second = language_models(folders, micro_tokens=5000)
    require_samples_follow(geometric(first, second, 0.5), "b", every_response(first, "abx"), DRAWS, Key(4))


def test_the_internal_batch_changes_no_draw_of_a_geometric_mixture(folders):
    task = letters_task(folders[0], limit=12)
    one, many = (
        geometric(*language_models(folders, task, micro_tokens=size), 0.5).draw(["xa", "b"], 20, Key(2))[0]
        for size in (1, 1000)
    )
    assert one == many
    assert len({len(y.tokens) for row in one for y in row}) > 5


@pytest.mark.parametrize("b", [0.0, 1.0])
def test_the_ends_of_a_geometric_mixture_are_its_parts(folders, b):
    pair = language_models(folders)
    policy, end = geometric(*pair, b), pair[int(b)]
    drawn, _ = policy.draw(["xa", "b"], 10, Key(1))
    assert drawn == end.draw(["xa", "b"], 10, Key(1))[0]
    assert torch.allclose(policy.logprob(["xa", "b"], drawn), end.logprob(["xa", "b"], drawn), atol=1e-6)


def test_a_geometric_mixture_on_a_finite_task_sums_to_one(folders):
    task = game(("a", "ab", "b", "xx"))
    policy = geometric(*(HFPolicy(folder, task, exact=True) for folder in folders), 0.4)
    responses, weights = policy.draw(["x"], 1, Key(0))
    assert [y.text for y in responses[0]] == ["a", "ab", "b", "xx"]
    assert (weights.sum(1) - 1).abs().max() < 1e-6
    twice = geometric(policy, Frozen(policy), 0.5).draw(["x"], 1, Key(0))[1]
    assert torch.allclose(twice, weights, atol=1e-6)


def test_a_frozen_geometric_mixture_is_a_copy(folders):
    first, second = language_models(folders)
    policy = geometric(first, second, 0.5)
    frozen, drawn = policy.frozen(), policy.draw(["b"], 4, Key(0))[0]
    before = frozen.logprob(["b"], drawn)
    assert torch.equal(before, policy.logprob(["b"], drawn))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(2.0)
    assert torch.equal(before, frozen.logprob(["b"], drawn))
    assert not torch.equal(before, policy.logprob(["b"], drawn))
    policy.logprob(["b"], drawn).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_a_geometric_mixture_warns_that_vllm_does_not_sample_it(folders):
    first, second = language_models(folders)
    first.engine = object()
    with pytest.warns(UserWarning, match="sampled by its two models, not by vLLM"):
        policy = geometric(first, second, 0.5)
    assert policy.draw(["x"], 2, Key(0))[0]


def test_geometric_mixtures_that_do_not_fit_are_refused(folders):
    first, second = language_models(folders)
    with pytest.raises(ValueError, match=r"b must lie in \[0, 1\]"):
        geometric(first, second, 1.5)
    with pytest.raises(ValueError, match="top_p=1 and top_k=0"):
        geometric(first, language_models(folders, top_p=0.9)[1], 0.5)
    with pytest.raises(ValueError, match="other limits or legal tokens"):
        geometric(first, language_models(folders, letters_task(folders[0], limit=2))[1], 0.5)
    with pytest.raises(ValueError, match="list other responses"):
        geometric(table(FIRST), TabularPolicy(game(("a", "b"))), 0.5)
    with pytest.raises(TypeError, match="got TabularPolicy and HFPolicy"):
        geometric(TabularPolicy(game()), HFPolicy(folders[0], game(("a", "b"))), 0.5)
    with pytest.raises(TypeError, match="got Mixture and TabularPolicy"):
        geometric(Mixture([table(FIRST)]), table(FIRST), 0.5)
    with pytest.raises(TypeError, match="not blended"):
        geometric(first, second, 0.5).blend(first, 0.5)
    with pytest.raises(TypeError, match="has no tokens"):
        geometric(table(FIRST), table(SECOND), 0.5).token_logprob(["x"], [[Completion("a")]])


def test_combined_policies_save_their_parts(folders, tmp_path):
    first, second = language_models(folders)
    policy = Mixture([geometric(first, Frozen(second), 0.25), first], [0.4, 0.6])
    policy.save(tmp_path)
    assert json.loads((tmp_path / "mixture.json").read_text()) == {"weights": [0.4, 0.6]}
    assert json.loads((tmp_path / "component-0" / "geometric.json").read_text()) == {"b": 0.25}
    for part, saved in [(second, "component-0/ref"), (first, "component-1")]:
        again = HFPolicy(tmp_path / saved, letters_task(folders[0]))
        assert torch.equal(part.logprob(["b"], [[Completion("ab")]]), again.logprob(["b"], [[Completion("ab")]]))


def test_tokens_that_one_model_cannot_write_have_no_probability(folders):
    policy = geometric(*language_models(folders), 0.5)
    assert policy.logprob(["b"], [[Completion("", (0, 1))]]).item() == -math.inf
    assert policy.logprob(["b"], [[Completion("", (1,))]]).item() == -math.inf
