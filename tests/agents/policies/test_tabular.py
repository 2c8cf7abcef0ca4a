import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from agents import TabularPolicy, make_policy
from envs import make_task
from envs.tasks.finite import finite_task
from preference_duel.keyed_random import Key
from preference_duel.types import Completion

LAW = (0.5, 0.3, 0.15, 0.05)


def game(responses=("a", "b", "c", "d"), prompts=("x", "y")):
    return finite_task("game", prompts, responses, responses)


def table(*rows, exact=False):
    return TabularPolicy(game(), torch.tensor(rows if len(rows) > 1 else rows[0], dtype=torch.float64), exact)


def test_draws_follow_the_table():
    drawn, weights = table(LAW).draw(["x"], 20_000, Key(1))
    counts = [sum(y.text == text for y in drawn[0]) for text in "abcd"]
    assert stats.chisquare(counts, np.array(LAW) * 20_000).pvalue > 1e-3
    assert weights.dtype == torch.float64
    assert (weights == 1 / 20_000).all()


def test_a_draw_depends_on_its_place_and_step_alone():
    policy = table(LAW)
    few, many = policy.draw(["x"], 3, Key(5, 2))[0], policy.draw(["x", "y"], 30, Key(5, 2))[0]
    assert few[0] == many[0][:3]
    assert many[0] != many[1]
    assert policy.draw(["x", "y"], 30, Key(5, 3))[0] != many


def test_a_response_without_probability_is_never_drawn():
    policy = table(LAW)
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([-math.inf, 0.0, -math.inf, -math.inf]))
    assert {y.text for y in policy.draw(["x"], 1000, Key(0))[0][0]} == {"b"}


def test_exact_lists_the_whole_distribution():
    policy = table(LAW, (0.1, 0.2, 0.3, 0.4), exact=True)
    responses, weights = policy.draw(["y", "x"], 1, Key(0))
    assert [[y.text for y in row] for row in responses] == [list("abcd")] * 2
    assert torch.allclose(weights, torch.tensor([(0.1, 0.2, 0.3, 0.4), LAW], dtype=torch.float64), atol=1e-15)
    assert not weights.requires_grad


def test_logprob_is_the_log_of_the_table_and_differentiable():
    policy = table(LAW, (0.1, 0.2, 0.3, 0.4))
    values = policy.logprob(["y", "x"], [[Completion("d"), Completion("a")], [Completion("b"), Completion("b")]])
    assert values.exp().tolist() == [pytest.approx([0.4, 0.1]), pytest.approx([0.3, 0.3])]
    values[0, 0].backward()
    assert policy.logits.grad is not None
    assert torch.allclose(policy.logits.grad[1], torch.tensor([-0.1, -0.2, -0.3, 0.6], dtype=torch.float64))
    assert (policy.logits.grad[0] == 0).all()


def test_a_frozen_copy_reads_the_listed_distribution_as_fast_as_the_policy():
    policy = table(LAW, exact=True)
    responses, _ = policy.draw(["x"], 1, Key(0))
    frozen = policy.frozen()
    assert frozen.cells is policy.cells
    assert torch.equal(frozen.logprob(["x"], responses), policy.logprob(["x"], responses))
    with torch.no_grad():
        policy.logits.add_(torch.tensor([1.0, 0, 0, 0]))
    assert frozen.logprob(["x"], responses).exp()[0].tolist() == pytest.approx(LAW)


def test_blend_averages_probabilities():
    policy, other = table(LAW), table((0.1, 0.2, 0.3, 0.4))
    policy.blend(other, 0.25)
    assert policy.logits.exp()[0].tolist() == pytest.approx([0.4, 0.275, 0.1875, 0.1375])
    policy.blend(other, 1.0)
    assert policy.logits.exp()[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    policy.blend(table(LAW), 0.0)
    assert policy.logits.exp()[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_blend_keeps_probabilities_too_small_for_a_float():
    policy, other = table(LAW), table(LAW)
    with torch.no_grad():
        for each in (policy, other):
            each.logits.copy_(torch.tensor([0.0, -2000.0, -1.0, -1.0]))
    policy.blend(other, 0.5)
    assert torch.allclose(policy.logits, other.logits.log_softmax(-1))


def test_tables_of_other_responses_are_not_blended():
    with pytest.raises(TypeError, match="same responses"):
        table(LAW).blend(TabularPolicy(game(("a", "b"))), 0.5)


def test_save_writes_readable_probabilities(tmp_path):
    policy = TabularPolicy(game(("ä", "b"), ("x",)), torch.tensor([0.75, 0.25], dtype=torch.float64))
    policy.save(tmp_path)
    text = (tmp_path / "probs.json").read_text(encoding="utf-8")
    assert "ä" in text
    assert json.loads(text)["x"] == {"ä": pytest.approx(0.75), "b": pytest.approx(0.25)}


def test_it_starts_uniform_on_every_prompt():
    policy = make_policy("tabular", task=make_task("symbols", alphabet=2, length=3, prompts=2), exact=True)
    _, weights = policy.draw(["#0", "#1"], 1, Key(0))
    assert torch.allclose(weights, torch.full((2, 8), 1 / 8, dtype=torch.float64))


def test_a_spread_start_is_named_by_itself_and_by_no_runs_seed():
    task = make_task("symbols", length=4)
    first, same = (make_policy("tabular", task=task, seed=seed, spread=1.5, start=3).logits for seed in (0, 1))
    assert torch.equal(first, same)
    assert first.log_softmax(-1).std(-1).tolist() == pytest.approx([1.5] * 4, abs=0.2)
    other = make_policy("tabular", task=task, spread=1.5, start=4).logits
    assert (first - other).abs().max() > 1
    assert (first[0] - first[1]).abs().max() > 1
    for fields, message in (({"spread": -1.0}, r"spread must lie in \[0, inf\)"), ({"start": 2}, "and spread is 0")):
        with pytest.raises(ValueError, match=message):
            make_policy("tabular", task=task, **fields)


def test_what_does_not_fit_is_refused():
    for probs, message in [
        (torch.tensor([0.5, 0.5]), r"probs must be \(4,\) or \(2, 4\), got \(2,\)"),
        (torch.full((3, 4), 0.25), r"got \(3, 4\)"),
        (torch.tensor([1.0, 0, 0, 0]), "positive"),
        (torch.full((4,), 0.3), "sum to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            TabularPolicy(game(), probs)
    with pytest.raises(ValueError, match="no row for the prompt 'z'"):
        table(LAW).draw(["z"], 1, Key(0))
    with pytest.raises(ValueError, match="no response 'e'"):
        table(LAW).logprob(["x"], [[Completion("e")]])
    with pytest.raises(ValueError, match="lists no responses"):
        TabularPolicy(make_task("chat"))
