"""Token ids of a prompt and two responses, as PairRM reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

SOURCE, FIRST, SECOND, UNUSED = "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"
PREFIXES = (SOURCE, FIRST, SECOND, UNUSED)
SOURCE_LIMIT, CANDIDATE_LIMIT = 1224, 412
# Ends in a bracket: a text that begins with U+0338 turns the ">" of the published prefixes into another sign.
_MASKED = "[{index}-5f0c2d1be8a94376]"


@dataclass(frozen=True)
class Pair:
    """A prompt and two responses as one sequence of ids."""

    ids: list[int]
    positions: tuple[int, int, int]
    """Positions of the prefixes of prompt, first and second response."""

    lost: tuple[int, int, int] = (0, 0, 0)
    """Truncated ids of prompt, first and second response."""


def _mask_prefixes(document: dict[str, Any]) -> str:
    """Returns the tokenizer with its prefixes renamed in place, so that no user text can spell one.

    The ids stay; `<|source|>` in a prompt becomes ordinary pieces, and so do full-width spellings of it, which
    the normaliser would turn into the literal after any textual replacement.
    """
    tokens = [
        token | {"content": _MASKED.format(index=PREFIXES.index(token["content"]))}
        if token["content"] in PREFIXES
        else token
        for token in document["added_tokens"]
    ]
    return json.dumps(document | {"added_tokens": tokens})


class PairEncoder:
    """Encodes `[CLS]<|source|>prompt[SEP] [CLS]<|candidate1|>a[SEP] [CLS]<|candidate2|>b[SEP]`.

    The recipe of llm-blender (Jiang et al. 2023, arXiv:2306.02561) for one pair at a time: each part is encoded alone
    and cut on the right with its [SEP] kept; a response may use half of what the prompt leaves free. It departs from
    that code where a text spells a prefix literally: here such text is ordinary text.

    Args:
        tokenizer_json: the text of a tokenizer.json that knows [PAD], [CLS], [SEP] and the prefixes.
        source_limit: most ids of the prompt's part, >= 3.
        candidate_limit: most ids of a response's part beside a full prompt, >= 3.
        sep_to_space: whether [SEP] in a text becomes a space (llm-blender) or stays a special id (PairRM-hf).

    Raises:
        ValueError: if the tokenizer lacks one of the tokens, or a limit leaves no room.
    """

    def __init__(
        self,
        tokenizer_json: str,
        source_limit: int = SOURCE_LIMIT,
        candidate_limit: int = CANDIDATE_LIMIT,
        sep_to_space: bool = True,
    ) -> None:
        if min(source_limit, candidate_limit) < 3:
            raise ValueError(f"limits must be at least 3 ids, got {source_limit} (prompt) and {candidate_limit}")
        document = json.loads(tokenizer_json)
        known = {token["content"]: int(token["id"]) for token in document["added_tokens"]}
        missing = [name for name in ("[PAD]", "[CLS]", "[SEP]", *PREFIXES[:3]) if name not in known]
        if missing:
            raise ValueError(f"tokenizer.json lacks the tokens {missing}; is it the tokenizer of a PairRM?")
        self.tokenizer_json = tokenizer_json
        self.source_limit, self.candidate_limit, self.sep_to_space = source_limit, candidate_limit, sep_to_space
        self.prefix_ids = {name: known[name] for name in PREFIXES if name in known}
        self._cls, self._sep, self._pad = known["[CLS]"], known["[SEP]"], known["[PAD]"]
        self._tokenizer = Tokenizer.from_str(_mask_prefixes(document))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """Rows that the embedding must have at least."""
        self.text_ids = lru_cache(maxsize=65536)(self._text_ids)

    def _text_ids(self, text: str) -> tuple[int, ...]:
        """Returns the ids of one text, uncut, without prefix and [CLS], [SEP]."""
        if self.sep_to_space:
            text = text.replace("[SEP]", " ")
        prefix, *ids = self._tokenizer.encode(_MASKED.format(index=0) + text, add_special_tokens=False).ids
        assert prefix == self.prefix_ids[SOURCE]
        return tuple(ids)

    def _part(self, prefix: str, text: str, limit: int) -> tuple[list[int], int]:
        """Returns one part's ids and how many of the text's ids were cut."""
        ids = self.text_ids(text)
        return [self._cls, self.prefix_ids[prefix], *ids[: limit - 3], self._sep], max(0, len(ids) - limit + 3)

    def encode(self, prompt: str, first: str, second: str) -> Pair:
        """Returns the ids of one pair; its length is at most source_limit + 2 candidate_limit."""
        source, lost = self._part(SOURCE, prompt, self.source_limit)
        limit = self.candidate_limit + (self.source_limit - len(source)) // 2
        a, lost_a = self._part(FIRST, first, limit)
        b, lost_b = self._part(SECOND, second, limit)
        positions = (1, len(source) + 1, len(source) + len(a) + 1)
        return Pair(source + a + b, positions, (lost, lost_a, lost_b))

    def batch(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
        """Pads pairs on the right.

        Returns:
            ids [N, L], mask [N, L] (True where an id counts), positions [N, 3], all on the CPU.
        """
        length = max(len(pair.ids) for pair in pairs)
        ids = torch.tensor([pair.ids + [self._pad] * (length - len(pair.ids)) for pair in pairs])
        lengths = torch.tensor([len(pair.ids) for pair in pairs])
        mask = torch.arange(length) < lengths[:, None]  # [N, L]
        return ids, mask, torch.tensor([pair.positions for pair in pairs])
