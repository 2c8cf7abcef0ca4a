"""The oracle families: parameters, readings, and features of listed responses and of text."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from envs.games import bradley_terry_fit, intransitivity, payoff_matrix, von_neumann_winner
from oracles import check_oracle, payoff
from oracles.features import FeatureOracle

FAMILIES = ["gpm", "annotators", "length_bias", "borda_trap"]
READERS = FAMILIES[:3]
TEXTS = ["Warm it slowly.", "Warm it.", "Then stir the pot twice and wait for an hour.", "Stir.", "Wait, then warm it."]
KNOBS = {"annotators": {"kinds": 2}, "gpm": {"planes": 1}, "length_bias": {"delta": 0.1}, "borda_trap": {"crush": 8.0}}


def listed(name, count=17, prompts=("x", "y"), **fields):
    return oracles.make(name, prompts=prompts, responses=[f"y{i}" for i in range(count)], **fields)


def matrix(oracle, count=17, prompt="x"):
    return payoff_matrix(oracle, prompt, [f"y{i}" for i in range(count)])


def logit_rms(payoff):
    count = len(payoff)
    return math.sqrt(payoff.logit().square().sum().item() / (count * (count - 1)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_families_keep_the_contract_of_an_oracle(name, lam):
    texts = [f"y{i}" for i in range(6)]
    check_oracle(listed(name, 6, lam=lam), ["x", "y"], [texts, texts[::-1]])
    if name in READERS:
        check_oracle(oracles.make(name, lam=lam), ["x", "y"], [TEXTS, TEXTS[::-1]])


@pytest.mark.parametrize("name", ["gpm", "annotators", "borda_trap"])
def test_without_the_knob_all_are_bradley_terry(name):
    fields = {"kinds": 2} if name == "annotators" else {}
    game = intransitivity(matrix(listed(name, lam=0.0, **fields)))
    assert max(game.curl_ratio, game.bt_excess, game.pure, game.cyclic_triads) < 1e-12


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.integers(1, 4), st.integers(0, 10**6))
def test_both_parts_of_gpm_have_the_strength_that_is_asked_for(count, planes, seed):
    for lam in (0.0, 1.0):
        fields = {"lam": lam, "planes": planes, "scale": 1.5, "seed": seed}
        assert logit_rms(matrix(listed("gpm", count, **fields), count)) == pytest.approx(1.5, rel=1e-6)


def test_gpm_is_its_formula():
    oracle = listed("gpm", 5, planes=2, lam=0.3, scale=2.0)
    features = oracle.read(["x"] * 5, [f"y{i}" for i in range(5)])
    turn = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]], dtype=torch.float64)
    reward, embedding = features[:, 0], features[:, 1:]
    cycle = (embedding @ turn.T) @ embedding.T
    logits = 2 * (math.sqrt(0.7) * (reward[:, None] - reward) + math.sqrt(0.3) * cycle)
    assert torch.allclose(matrix(oracle, 5), torch.sigmoid(logits), atol=1e-12)


def test_every_annotator_is_bradley_terry_and_the_majority_runs_in_a_circle():
    payoff = matrix(listed("annotators", 9, lam=1.0, kinds=3), 9)
    assert intransitivity(payoff).cyclic_triads > 0.2
    assert von_neumann_winner(payoff).policy.max() < 0.9
    population = listed("annotators", 9, lam=1.0, kinds=3)
    tastes = population.read(["x"] * 9, [f"y{i}" for i in range(9)])
    votes = torch.stack([torch.sigmoid(6 * (taste[:, None] - taste)) for taste in tastes.mT])
    assert torch.allclose(votes.mean(0), payoff, atol=1e-12)
    ranks = tastes.argsort(0).argsort(0)
    assert ((ranks[:, 0] - ranks[:, 1]) % 9).unique().numel() == 1


def test_a_judge_of_length_prefers_the_better_neighbour_and_the_longer_stranger():
    oracle = listed("length_bias", lam=1.0)
    quality, length = oracle.read(["x"] * 17, [f"y{i}" for i in range(17)]).unbind(-1)
    payoff = matrix(oracle)
    gap = length[:, None] - length
    near, far = (gap.abs() < 0.6) & (gap != 0), gap.abs() > 1.6
    better = torch.sign(quality[:, None] - quality)
    assert (torch.sign(payoff - 0.5)[near] == better[near]).double().mean() > 0.9
    assert torch.equal(torch.sign(payoff - 0.5)[far], torch.sign(gap)[far])


def test_longer_text_wins_where_it_is_much_longer():
    judge = oracles.make("length_bias", lam=1.0)
    assert judge.prob(["x"], ["word " * 30], ["word"]).item() > 0.99
    assert oracles.make("length_bias", lam=0.0).prob(["x"], ["word " * 30], ["word"]).item() < 1


def test_in_the_trap_the_majoritys_winner_is_not_the_rewards():
    payoff = matrix(listed("borda_trap", lam=0.9))
    winner = von_neumann_winner(payoff).policy
    assert winner.max() > 1 - 1e-6
    assert intransitivity(payoff).cyclic_triads == 0
    assert winner.argmax() != bradley_terry_fit(payoff).argmax() == payoff.sum(-1).argmax()
    best = [von_neumann_winner(matrix(listed("borda_trap", prompts=(str(i),)), prompt=str(i))) for i in range(8)]
    assert len({int(solution.policy.argmax()) for solution in best}) > 2


@pytest.mark.parametrize("name", READERS)
def test_a_response_is_read_once(name):
    oracle = listed(name, 30)
    reads = []

    def counting(prompts, responses):
        reads.append(len(responses))
        return oracle.read(prompts, responses)

    payoff(FeatureOracle(counting, oracle.compare), ["x"], [[f"y{i}" for i in range(30)]])
    assert sum(reads) == 30


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "cyclic"])
def test_4096_responses_need_no_loop_over_pairs(name):
    payoff = matrix(listed(name, 4096), 4096)  # a loop over pairs would meet the timeout
    assert payoff.shape == (4096, 4096)
    assert payoff.std() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_seeds_and_fields_change_the_game_and_neighbours_do_not(name):
    first = matrix(listed(name))
    assert torch.equal(first, matrix(listed(name, prompts=("y", "z", "x"))))
    for other in (matrix(listed(name), prompt="y"), matrix(listed(name, seed=1)), matrix(listed(name, **KNOBS[name]))):
        assert not torch.allclose(first, other)


@pytest.mark.parametrize("name", READERS)
def test_on_text_shared_words_mean_shared_preferences(name):
    oracle = oracles.make(name, lam=0.5)
    near, far = [], []
    for i in range(200):
        words = [f"w{i}-{j}" for j in range(10)]
        twin = [*words[:9], f"v{i}"]
        stranger = [f"u{i}-{j}" for j in range(10)]
        rival = [f"t{i}-{j}" for j in range(10)]
        ask = [" ".join(text) for text in (words, twin, stranger)]
        one, two, three = oracle.prob(["x"] * 3, ask, [" ".join(rival)] * 3).tolist()
        near.append(abs(one - two))
        far.append(abs(one - three))
    assert np.mean(near) < 0.7 * np.mean(far)
    assert oracle.prob(["x"], [""], ["word"]).isfinite().all()
    assert torch.equal(oracle.prob(["x"], ["A word"], ["b"]), oracle.prob(["z"], ["a  WORD"], ["b"]))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gpm", {"lam": 1.5}, r"lam must lie in \[0, 1\], got 1.5"),
        ("gpm", {"planes": 0}, "planes must be positive"),
        ("annotators", {"kinds": 1}, "kinds must be at least 2, got 1"),
        ("annotators", {"scale": 0.0}, "scale must be positive and finite, got 0"),
        ("length_bias", {"width": -1.0}, "width must be positive"),
        ("length_bias", {"delta": -1.0}, "delta must be at least 0"),
        ("borda_trap", {"eps": 0.0}, "eps must be positive"),
        ("borda_trap", {"lam": -0.1}, r"lam must lie in \[0, 1\]"),
    ],
)
def test_fields_out_of_range_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        listed(name, **fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_two_responses_are_no_game_of_these(name):
    with pytest.raises(ValueError, match="needs 3 or more"):
        listed(name, 2)


def test_what_is_not_listed_is_refused():
    with pytest.raises(ValueError, match="'y99' is none of the task's 17 responses"):
        listed("gpm").prob(["x"], ["y99"], ["y1"])
    with pytest.raises(ValueError, match="borda_trap' needs a finite task"):
        oracles.make("borda_trap")
