"""Vocabularies give back the text they were given, and know what may not stand in a response."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from envs.tasks.tokenizers import FileTokenizer, ListTokenizer, response_tokens
from envs.tasks.tokenizers import Tokenizer as Protocol


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A small byte-level tokenizer.json with a special token of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    backend.train_from_iterator(["hello world, hello there"], trainer)
    backend.add_special_tokens([AddedToken("<user>", special=True)])
    backend.enable_padding(length=50)
    backend.enable_truncation(3)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(file))
    return file


@pytest.fixture(scope="module")
def tokenizer(path):
    return FileTokenizer(path, "<eos>", "<pad>")


def test_list_tokens_are_found_longest_first():
    tokenizer = ListTokenizer(["a", "b", "ab", "#1", "#10"])
    assert tokenizer.encode("abba") == [4, 3, 2]
    assert tokenizer.encode("#10") == [6]
    assert tokenizer.encode("") == []
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 7)


@given(st.lists(st.sampled_from(["a", "bc", "d e", "f\n", "🦊"]), max_size=20))
def test_list_tokens_survive_a_round_trip(words):
    tokenizer = ListTokenizer(["a", "bc", "d e", "f\n", "🦊"])
    tokens = tokenizer.encode("".join(words))
    assert tokenizer.decode(tokens) == "".join(words)
    assert tokenizer.decode([*tokens, tokenizer.eos_id, 0, 0]) == "".join(words)


def test_text_outside_a_list_vocabulary_is_refused():
    with pytest.raises(ValueError, match="no token for 'c' \\(in 'abc'\\)"):
        ListTokenizer(["a", "b"]).encode("abc")


@pytest.mark.parametrize("strings", [["a", "a"], ["a", ""]])
def test_a_list_vocabulary_is_distinct_and_non_empty(strings):
    with pytest.raises(ValueError, match="distinct, non-empty"):
        ListTokenizer(strings)


@given(text=st.text(max_size=60))
def test_any_text_survives_a_byte_level_file(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧 family", "مرحبا بالعالم", "line\r\nline\n", "nul\0inside", "\u202ertl", "w" * 10_000]
)
def test_odd_text_survives_a_byte_level_file(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_files_own_padding_and_truncation_are_off(tokenizer):
    assert 3 < len(tokenizer.encode("zebras quilt")) < 50


def test_special_tokens_typed_by_a_person_are_mere_text(tokenizer):
    for twin in (tokenizer, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        tokens = twin.encode("<eos><user>hi<pad>")
        assert not {twin.eos_id, twin.pad_id, *twin.special_ids} & set(tokens)
        assert twin.decode(tokens) == "<eos><user>hi<pad>"


def test_special_tokens_are_no_text_and_illegal_in_responses(tokenizer):
    user = tokenizer.vocab_size - 1
    assert tokenizer.decode([*tokenizer.encode("hi"), user, tokenizer.eos_id]) == "hi"
    legal = response_tokens(tokenizer)
    assert set((~legal).nonzero()[0]) == {tokenizer.eos_id, tokenizer.pad_id, user}


def test_every_token_of_a_list_but_pad_and_eos_is_legal():
    assert response_tokens(ListTokenizer(["a", "b"])).tolist() == [False, False, True, True]


def test_a_vocabulary_without_pad_is_fine(path):
    assert FileTokenizer(path, "<eos>", None).pad_id is None
    tokenizer = ListTokenizer(["a"])
    tokenizer.pad_id = None
    assert response_tokens(tokenizer).tolist() == [True, False, True]


def test_both_are_what_the_environment_asks_for(tokenizer):
    assert isinstance(tokenizer, Protocol)
    assert isinstance(ListTokenizer(["a"]), Protocol)


def test_a_broken_file_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such tokenizer.json"):
        FileTokenizer(tmp_path / "none.json", "<eos>", None)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: not a tokenizer.json: "):
        FileTokenizer(tmp_path / "broken.json", "<eos>", None)
    with pytest.raises(ValueError, match="the tokenizer has no token '</s>'"):
        FileTokenizer(path, "</s>", None)


def test_rows_decode_as_their_tokens_do():
    tokenizer = ListTokenizer(["a", "bc", "d "])
    rows = np.array([[2, 3, 1, 0], [4, 4, 2, 5], [1, 5, 5, 5]])
    assert tokenizer.decode_rows(rows) == [tokenizer.decode([t for t in row if t < 5]) for row in rows.tolist()]
