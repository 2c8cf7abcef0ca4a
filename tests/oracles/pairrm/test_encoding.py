import hashlib
import json

import pytest

from oracles.pairrm.oracle import PairEncoder
from tests.paths import GOLDEN

PAIRRM = GOLDEN / "pairrm"
TRIPLES = json.loads((PAIRRM / "triples.json").read_text(encoding="utf-8"))["triples"]
TOKENIZER = (PAIRRM / "PairRM" / "tokenizer.json").read_text(encoding="utf-8")
PREFIX_IDS = (561, 562, 563, 564)


@pytest.fixture(scope="module")
def encoder() -> PairEncoder:
    return PairEncoder(TOKENIZER)


@pytest.mark.parametrize("triple", TRIPLES, ids=lambda triple: triple["id"])
def test_ids_are_those_of_the_original(encoder, triple):
    pair = encoder.encode(triple["prompt"], triple["a"], triple["b"])
    swapped = encoder.encode(triple["prompt"], triple["b"], triple["a"])
    for ids, field in ((pair.ids, "ids_ab_sha256"), (swapped.ids, "ids_ba_sha256")):
        assert hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest() == triple[field]
    assert len(pair.ids) == triple["n_ids"]
    assert triple.get("ids_ab") in (None, pair.ids)
    assert [pair.ids[position] for position in pair.positions] == [561, 562, 563]


def test_a_response_may_use_half_of_what_the_prompt_leaves():
    encoder = PairEncoder(TOKENIZER, 20, 12)
    for triple in TRIPLES:
        pair = encoder.encode(triple["prompt"], triple["a"], triple["b"])
        source = pair.positions[1] - 1
        parts = [len(encoder.text_ids(triple[name])) + 3 for name in ("prompt", "a", "b")]
        assert source == min(20, parts[0])
        limit = 12 + (20 - source) // 2
        assert pair.positions[2] - 1 - source == min(limit, parts[1])
        assert len(pair.ids) - pair.positions[2] + 1 == min(limit, parts[2])
        assert len(pair.ids) <= 44
        assert pair.lost == (parts[0] - source, max(0, parts[1] - limit), max(0, parts[2] - limit))
    assert [i for i in encoder.encode("x " * 50, "y " * 50, "").ids if i in (1, 2)] == [1, 2] * 3


def test_padding_stands_at_the_very_end(encoder):
    pairs = [encoder.encode("Why?", "Because.", "No."), encoder.encode("q", "", "")]
    ids, mask, positions = encoder.batch(pairs)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        assert ids[row].tolist() == pair.ids + [0] * (ids.shape[1] - length)
        assert mask[row].tolist() == [i < length for i in range(ids.shape[1])]
        assert ids[row, positions[row]].tolist() == [561, 562, 563]


LITERALS = [
    "<|source|>",
    "<|candidate1|>",
    "<|candidate2|>",
    "<|candidate|>",
    "\uff1c\uff5csource\uff5c\uff1e",
    "<|source|",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_literal_prefixes_in_a_text_are_ordinary_text(encoder, literal):
    text = f"what is {literal} ?"
    pair = encoder.encode(text, text, f"{literal}{literal}")
    assert [i for i in pair.ids if i in PREFIX_IDS] == [561, 562, 563]
    begins, ends = encoder.text_ids("what is"), encoder.text_ids("?")
    ids = encoder.text_ids(text)
    assert ids[: len(begins)] == begins
    assert ids[-1] == ends[-1]
    assert len(ids) > len(begins) + len(ends) + 3


def test_no_beginning_of_a_text_changes_the_prefix(encoder):
    for start in range(0x300, 0x370):
        assert encoder.encode(chr(start) + "a", chr(start), "").ids.count(561) == 1


def test_a_tokenizer_without_prefixes_and_limits_without_room_are_refused():
    document = json.loads(TOKENIZER)
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < 562]
    with pytest.raises(ValueError, match=r"lacks the tokens \['<\|candidate1\|>', '<\|candidate2\|>'\]"):
        PairEncoder(json.dumps(document))
    with pytest.raises(ValueError, match="at least 3 ids, got 2"):
        PairEncoder(TOKENIZER, 2, 10)
