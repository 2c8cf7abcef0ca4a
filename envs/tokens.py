"""What the environment asks of a tokenizer, and the one for tasks whose vocabulary is a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back."""

    vocab_size: int
    eos_id: int
    pad_id: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids; EOS and PAD give none."""
        ...


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
        """Returns the strings of the ids, joined."""
        return "".join(self.strings[token] for token in tokens)


class FileTokenizer:
    """A `tokenizer.json` read by the tokenizers library.

    Args:
        path: the file.
        eos: the token that ends a response.
        pad: the token that fills up; None where there is none.
    """

    def __init__(self, path: str, eos: str, pad: str | None) -> None:
        from tokenizers import Tokenizer as Backend

        self.backend = Backend.from_file(path)
        self.backend.no_padding()
        self.backend.no_truncation()
        self.vocab_size = self.backend.get_vocab_size()
        self.eos_id = self._id(eos)
        self.pad_id = None if pad is None else self._id(pad)

    def _id(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return found

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids, without special tokens."""
        return self.backend.decode(list(tokens), skip_special_tokens=True)
