"""The tokenizer's interface; tokenizers of listed strings and of tokenizer.json files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back.

    One with more special tokens than EOS and PAD lists their ids as `special_ids`, so that no response holds them. One
    whose responses end at several tokens lists them as `end_ids`, `eos_id` among them. One that is quicker at many
    texts has `decode_rows(ids [M, T])`, in which the id V gives no text.
    """

    vocab_size: int
    eos_id: int
    pad_id: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids; EOS and PAD give no text."""
        ...


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns every id that ends a response, in order."""
    return tuple(sorted({tokenizer.eos_id, *getattr(tokenizer, "end_ids", ())}))


def response_tokens(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Returns [V] bool: every id but PAD, those that end a response and the other special tokens."""
    legal = np.ones(tokenizer.vocab_size, dtype=np.bool_)
    special = {*end_ids(tokenizer), *getattr(tokenizer, "special_ids", ())}
    legal[list(special if tokenizer.pad_id is None else special | {tokenizer.pad_id})] = False
    return legal


class ListTokenizer:
    """Each id is one string of a list; ids 0 and 1 are PAD and EOS.

    Args:
        strings: the vocabulary from id 2 on; distinct and non-empty.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if len(set(strings)) != len(strings) or "" in strings:
            raise ValueError(f"a vocabulary must hold distinct, non-empty strings, got {list(strings)!r}")
        self.pad_id: int | None = 0
        self.eos_id = 1
        self.strings = ("", "", *strings)
        self.vocab_size = len(self.strings)
        self._ids = {string: i for i, string in enumerate(self.strings) if i > 1}
        self._cells = np.array([*self.strings, ""], dtype=object)
        self._lengths = sorted({len(string) for string in strings}, reverse=True)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of the longest matching strings from left to right.

        Raises:
            ValueError: if some part of the text is no string of the vocabulary.
        """
        tokens, position = [], 0
        while position < len(text):
            for length in self._lengths:
                token = self._ids.get(text[position : position + length])
                if token is not None and position + length <= len(text):
                    tokens.append(token)
                    position += length
                    break
            else:
                raise ValueError(f"no token for {text[position:]!r} (in {text!r})")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the strings of the ids, joined; PAD and EOS give no text."""
        return "".join([self.strings[token] for token in tokens])

    def decode_rows(self, ids: NDArray[np.int64]) -> list[str]:
        """Returns [M] the text of each row [M, T]; an array finds strings six times as fast as a loop does."""
        return ["".join(row) for row in self._cells[ids].tolist()]


class FileTokenizer:
    """A `tokenizer.json` read by the tokenizers library.

    Args:
        path: the file.
        eos: the token that ends a response.
        pad: the padding token; None if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no tokenizer or lacks one of the tokens.
    """

    def __init__(self, path: str | Path, eos: str, pad: str | None) -> None:
        from tokenizers import Tokenizer as Backend

        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such tokenizer.json")
        try:
            self.backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path}: not a tokenizer.json: {error}") from error
        self.backend.no_padding()
        self.backend.no_truncation()
        vocabulary = self.backend.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self.eos_id = _token_id(path, vocabulary, eos)
        self.pad_id = None if pad is None else _token_id(path, vocabulary, pad)
        marks = {i for i, token in self.backend.get_added_tokens_decoder().items() if token.special}
        self.special_ids = frozenset(marks | (set(range(self.vocab_size)) - set(vocabulary.values())))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added; `<eos>` typed by a person is mere text."""
        self.backend.encode_special_tokens = True  # here, because copies of a backend forget it
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids, without special tokens."""
        return self.backend.decode(list(tokens), skip_special_tokens=True)


def _token_id(path: str | Path, vocabulary: dict[str, int], token: str) -> int:
    if token not in vocabulary:
        raise ValueError(f"{path}: the tokenizer has no token {token!r}; pass the one that it uses")
    return vocabulary[token]
