"""The cyclic family: the curl ratio of the logits is lam, for every shape and size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from oracles import check_oracle
from oracles.cyclic import CyclicConfig, cyclic_logits

SHAPES = ["disc", "circulant", "random"]
sizes = st.integers(3, 40)


def oracle_of(count, prompts=("x",), **fields):
    return oracles.make("cyclic", prompts=prompts, responses=[f"y{i}" for i in range(count)], **fields)


def curl_ratio(logits):
    """The energy that no ranking explains: the residual of the least-squares fit of r_i - r_j."""
    count = len(logits)
    one_hot = torch.eye(count, dtype=torch.float64)
    design = (one_hot[:, None, 1:] - one_hot[None, :, 1:]).reshape(count**2, count - 1)
    fit = design @ torch.linalg.lstsq(design, logits.reshape(-1, 1)).solution[:, 0]
    return ((logits.reshape(-1) - fit) ** 2).sum().item() / (logits**2).sum().item()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SHAPES), sizes, st.floats(0, 1), st.floats(0.1, 4), st.integers(0, 2**40))
def test_the_curl_ratio_is_lam_and_the_strength_is_scale(shape, count, lam, scale, seed):
    count += shape == "circulant" and count % 2 == 0
    logits = cyclic_logits(shape, lam, scale, count, seed)
    assert curl_ratio(logits) == pytest.approx(lam, abs=1e-10)
    assert torch.equal(logits, -logits.T)
    assert (logits**2).sum().item() / (count * (count - 1)) == pytest.approx(scale**2, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_oracles_own_answers_have_curl_ratio_lam(shape, lam):
    oracle = oracle_of(17, shape=shape, lam=lam, seed=3)
    texts = list(oracle.responses)
    prob = oracles.payoff(oracle, ["x"], [texts])[0]
    assert curl_ratio(prob.logit()) == pytest.approx(lam, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_curl_ratio_holds_for_a_thousand_responses(shape):
    logits = cyclic_logits(shape, 0.75, 2.0, 1023, 5)
    means = logits.mean(dim=1)
    residual = logits - (means[:, None] - means[None, :])
    assert (residual**2).sum().item() / (logits**2).sum().item() == pytest.approx(0.75, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(0, 1), st.integers(0, 10**6))
def test_the_knob_mixes_one_ranking_with_one_cycle(shape, lam, seed):
    ranking, cycle, mixed = (cyclic_logits(shape, at, 2.0, 9, seed) for at in (0.0, 1.0, lam))
    assert torch.allclose(mixed, (1 - lam) ** 0.5 * ranking + lam**0.5 * cycle, atol=1e-13)
    assert torch.allclose(cycle.sum(dim=1), torch.zeros(9).double(), atol=1e-12)
    assert torch.allclose(ranking, ranking[:, :1] - ranking[:, :1].T, atol=1e-12)


def test_the_circulant_is_rock_paper_scissors_in_the_lists_order():
    logits = cyclic_logits("circulant", 1.0, 2.0, 5, 0)
    ahead = torch.tensor([0.0, 2.0, 2.0, -2.0, -2.0]).double()
    for i in range(5):
        assert torch.allclose(logits[i].roll(-i), ahead, atol=1e-14)


def test_the_disc_is_its_sines_without_their_row_means():
    logits = cyclic_logits("disc", 1.0, 1.0, 30, 11)
    assert torch.linalg.matrix_rank(logits, rtol=1e-9) <= 4
    assert torch.linalg.matrix_rank(cyclic_logits("random", 1.0, 1.0, 30, 11), rtol=1e-9) > 20


def test_random_cycles_look_gaussian():
    upper = cyclic_logits("random", 1.0, 1.0, 301, 2)[torch.triu_indices(301, 301, 1).unbind()]
    share = ((upper.abs() < 1).double().mean() - 0.6827).abs()
    assert share < 0.01
    assert (upper**4).mean().item() == pytest.approx(3, abs=0.2)


def test_a_prompt_has_its_own_game_whatever_its_neighbours():
    texts = [f"y{i}" for i in range(9)]
    both, alone = oracle_of(9, ["x", "z"]), oracle_of(9, ["z"])
    assert torch.equal(both.payoff(["z"], [texts], [texts]), alone.payoff(["z"], [texts], [texts]))
    assert not torch.equal(both.matrix("x"), both.matrix("z"))
    assert not torch.equal(alone.matrix("z"), oracle_of(9, ["z"], seed=1).matrix("z"))


@pytest.mark.parametrize(
    ("shape", "value"),
    [("disc", -0.1748179830107348), ("circulant", 0.4547386631011293), ("random", -2.136259166818064)],
)
def test_the_same_seed_gives_the_same_game_for_ever(shape, value):
    assert cyclic_logits(shape, 0.5, 2.0, 5, 0)[0, 1].item() == pytest.approx(value, abs=1e-12)


def test_matrices_are_made_when_first_asked_about_and_once(monkeypatch):
    made = []
    original = cyclic_logits

    def spy(*args):
        made.append(args)
        return original(*args)

    monkeypatch.setattr("oracles.cyclic.cyclic_logits", spy)
    oracle = oracle_of(5, [f"x{i}" for i in range(1000)])
    assert made == []
    for _ in range(3):
        oracle.prob(["x7", "x7"], ["y0", "y1"], ["y1", "y2"])
    assert len(made) == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [2.0, 1000.0])
def test_cyclic_oracles_keep_the_contract(shape, scale):
    oracle = oracle_of(7, ["x", "z"], shape=shape, scale=scale)
    check_oracle(oracle, ["x", "z"], [["y0", "y3", "y6"], ["y1", "y2", "y1"]])


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({"lam": 1.5}, 5, r"lam must lie in \[0, 1\], got 1.5: it is the cyclic share"),
        ({"lam": float("nan")}, 5, r"lam must lie in \[0, 1\]"),
        ({"scale": 0.0}, 5, "scale must be positive and finite, got 0"),
        ({"scale": float("inf")}, 5, "scale must be positive"),
        ({"shape": "square"}, 5, r"shape must be one of \('disc', 'circulant', 'random'\), got 'square'"),
        ({"shape": "circulant"}, 6, "'circulant' needs an odd number of responses, got 6"),
        ({}, 2, "cyclic needs 3 to 16384 responses, got 2: two responses cannot form a cycle"),
        ({}, 20_000, "got 20000: the matrix would not fit"),
    ],
)
def test_a_game_that_does_not_exist_is_refused(fields, count, message):
    with pytest.raises(ValueError, match=message):
        oracle_of(count, **fields)


def test_without_a_finite_task_it_says_which_would_do():
    with pytest.raises(ValueError, match=r"cyclic' needs a finite task.*--task symbols or FILE\.json"):
        CyclicConfig().build()


def test_even_sizes_are_fine_for_the_other_shapes():
    for shape in ("disc", "random"):
        assert curl_ratio(cyclic_logits(shape, 0.5, 2.0, 6, 0)) == pytest.approx(0.5, abs=1e-10)
    assert np.isfinite(cyclic_logits("disc", 0.5, 2.0, 3, 0).numpy()).all()
