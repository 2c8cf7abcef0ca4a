import json
import logging
import os

import pytest
import torch

from oracles.base import payoff
from oracles.check import check_oracle
from oracles.pairrm.oracle import PairEncoder, PairRM, PairRMConfig, PairRMOracle
from oracles.registry import make
from tests.paths import GOLDEN

PAIRRM = GOLDEN / "pairrm"
DATA = json.loads((PAIRRM / "triples.json").read_text(encoding="utf-8"))
TRIPLES = DATA["triples"]
PROMPTS, A, B = ([triple[name] for triple in TRIPLES] for name in ("prompt", "a", "b"))
BACKBONE = str(PAIRRM / "backbone")


def expected(field: str) -> torch.Tensor:
    return torch.tensor([triple[field] for triple in TRIPLES])


def within(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    return found.shape == wanted.shape and (found - wanted).abs().max().item() <= tolerance


@pytest.fixture(scope="module")
def oracle() -> PairRMOracle:
    return make("pairrm", checkpoint=str(PAIRRM / "PairRM"), backbone=BACKBONE)


@pytest.fixture(scope="module")
def small(oracle) -> PairRMOracle:
    return PairRMOracle(oracle.network, PairEncoder(oracle.encoder.tokenizer_json, 20, 12))


def test_logits_and_probabilities_are_those_of_the_original(oracle):
    assert within(oracle.logits(PROMPTS, A, B), expected("logit_ab"), 2e-4)
    assert within(oracle.logits(PROMPTS, B, A), expected("logit_ba"), 2e-4)
    prob = oracle.prob(PROMPTS, A, B)
    assert prob.dtype == torch.float32
    assert within(prob, expected("p_symmetric_mean_logit"), 1e-4)


SHORT = [i for i, triple in enumerate(TRIPLES) if triple["n_ids"] < 200]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_half_precision_stays_within_two_hundredths(device):
    fields = {"checkpoint": str(PAIRRM / "PairRM"), "backbone": BACKBONE}
    half = make("pairrm", dtype="float16" if device == "cpu" else "auto", device=device, **fields)
    assert next(half.network.parameters()).dtype == torch.float16
    found = half.logits(*([texts[i] for i in SHORT] for texts in (PROMPTS, A, B)))
    assert within(found, expected("logit_ab")[SHORT], 2e-2)


def test_half_temperature_gives_the_probability_of_the_summed_logits():
    oracle = make("pairrm", checkpoint=str(PAIRRM / "PairRM"), backbone=BACKBONE, temperature=0.5)
    prob = oracle.prob(*([texts[i] for i in SHORT] for texts in (PROMPTS, A, B)))
    assert within(prob, expected("p_symmetric_sum_logit")[SHORT], 1e-4)


def test_one_order_reads_half_and_stays_antisymmetric():
    short = [i for i in SHORT if A[i] != B[i]]
    oracle = make("pairrm", checkpoint=str(PAIRRM / "PairRM"), backbone=BACKBONE, order="one")
    prompts, a, b = ([texts[i] for i in short] for texts in (PROMPTS, A, B))
    prob = oracle.prob(prompts, a, b)
    assert within(prob, 1 - oracle.prob(prompts, b, a), 1e-6)
    straight = (prob - expected("p_ab_one_order")[short]).abs() < 1e-4
    turned = (prob - expected("p_ab_other_order")[short]).abs() < 1e-4
    assert (straight | turned).all()
    assert straight.any()
    assert turned.any()
    assert oracle.cut.pairs <= len(short)


@pytest.mark.parametrize("ranks", DATA["ranks"], ids=lambda ranks: ranks["id"])
def test_candidate_lists_are_judged_as_by_the_original(oracle, ranks):
    texts, matrix = ranks["candidates"], torch.tensor(ranks["matrix"])
    for i, first in enumerate(texts):
        others = [j for j in range(len(texts)) if j != i]
        logits = oracle.logits([ranks["prompt"]] * len(others), [first] * len(others), [texts[j] for j in others])
        assert within(logits, matrix[i, others], 2e-4)
    prob = payoff(oracle, [ranks["prompt"]], [texts])[0]
    assert within(prob, torch.tensor(ranks["pairwise_prob_mean_logit"]), 1e-4)


@pytest.mark.parametrize("talk", DATA["conversations"], ids=lambda talk: talk["id"])
def test_conversations_are_judged_as_by_the_original(oracle, talk):
    found = oracle.logits([talk["prompt_text"]] * 2, [talk["a_text"], talk["b_text"]], [talk["b_text"], talk["a_text"]])
    assert within(found, torch.tensor([talk["logit_ab"], talk["logit_ba"]]), 2e-4)


def test_batches_do_not_change_a_logit(oracle):
    alone = PairRMOracle(oracle.network, oracle.encoder, PairRMConfig(token_budget=1))
    mixed = PairRMOracle(oracle.network, oracle.encoder, PairRMConfig(token_budget=2**20, square_budget=2**23))
    some = PROMPTS[::3], A[::3], B[::3]
    assert within(mixed.logits(*some), alone.logits(*some), 1e-5)


def test_each_different_question_is_read_once(oracle, monkeypatch):
    fresh = PairRMOracle(oracle.network, oracle.encoder)
    read = []
    forward = fresh._read
    monkeypatch.setattr(fresh, "_read", lambda pairs: read.append(len(pairs)) or forward(pairs))
    assert fresh.prob(["q"] * 2, ["same", "x"], ["same", "x"]).tolist() == [0.5, 0.5]
    assert read == []
    first = fresh.prob(["q"] * 3, ["a", "b", "a"], ["b", "a", "b"])
    assert sum(read) == 2
    assert torch.equal(fresh.prob(["q"], ["a"], ["b"]), first[:1])
    assert sum(read) == 2
    assert fresh.prob([], [], []).shape == (0,)


def test_memory_may_be_off(oracle):
    off = PairRMOracle(oracle.network, oracle.encoder, PairRMConfig(cache_size=0))
    assert torch.equal(off.prob(["q"], ["a"], ["b"]), off.prob(["q"], ["a"], ["b"]))
    assert off.cut.pairs == 4


@pytest.mark.parametrize("case", DATA["original_errors"], ids=lambda case: case["id"])
def test_texts_that_crash_the_original_are_judged(oracle, case):
    check_oracle(oracle, [case["prompt"]], [[case["a"], case["b"]]])


def test_it_keeps_the_promises_of_an_oracle(oracle, small):
    responses = [["Yes.", "No, that is wrong.", "", "Yes."], ["Blue.", "a [SEP] b", "<|source|>", "Blue and red."]]
    check_oracle(oracle, ["Can a penguin fly?", ""], responses)
    check_oracle(small, ["Can a penguin fly?", ""], responses)


def test_lost_ids_are_counted_and_reported_once(small, caplog):
    oracle = PairRMOracle(small.network, small.encoder)
    long = "Rivers carry minerals into the sea. " * 4
    with caplog.at_level(logging.WARNING):
        oracle.logits(["short", long, "q"], ["a", "b", long], ["c", "d", long])
        oracle.logits([long], ["e"], ["f"])
    lost = len(small.encoder.text_ids(long))
    assert (oracle.cut.pairs, oracle.cut.prompts, oracle.cut.responses) == (4, 2, 2)
    room = 12 + (20 - 3 - len(small.encoder.text_ids("q"))) // 2 - 3
    assert oracle.cut.ids == 2 * (lost - 17) + 2 * (lost - room)
    assert len(caplog.records) == 1
    assert "1 prompts and 2 responses" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("order", "two")])
def test_settings_out_of_range_are_refused(oracle, field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        PairRMOracle(oracle.network, oracle.encoder, PairRMConfig(**{field: value}))


def test_weights_that_overflow_are_reported(small):
    network = PairRM(small.network.config)
    torch.nn.init.constant_(network.head_layer[4].weight, float("inf"))
    with pytest.raises(ValueError, match="nan"):
        PairRMOracle(network, small.encoder).prob(["q"], ["a"], ["b"])


@pytest.mark.skipif("PAIRRM_WEIGHTS" not in os.environ, reason="set PAIRRM_WEIGHTS to a folder with the real PairRM")
def test_the_real_weights_give_the_published_logits():
    oracle = make("pairrm", checkpoint=os.environ["PAIRRM_WEIGHTS"], dtype="float32")
    logits = oracle.logits(["hello!", "I love you!"], ["hi!", "I hate you!"], ["f**k off!", "I love you, too!"])
    assert within(logits, torch.tensor([1.9003, -1.2547]), 2e-3)
