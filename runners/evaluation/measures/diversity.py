"""Diversity of the responses that a policy gives to one prompt."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Returns distinct-n: the number of different n-grams of words over that of all, averaged over prompts.

    Li et al. 2016 (arXiv:1510.03055), who count over all responses of a model together; here over the responses to one
    prompt, so that prompts of different topics don't look like diversity. Words are what stands between white space,
    which are the same for models of any tokenizer. It falls as more or longer responses are drawn: compare at equal
    numbers of them.

    Args:
        texts: [B][K] responses.
        n: words in a row.

    Returns:
        In (0, 1], 1 if no n-gram comes twice; None if all responses are shorter. Prompts all of whose responses are
        shorter are left out.

    Raises:
        ValueError: if n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    shares = []
    for row in texts:
        words = [text.split() for text in row]
        grams = [tuple(one[i : i + n]) for one in words for i in range(len(one) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


def different(texts: Sequence[Sequence[str]]) -> float:
    """Returns the share of different texts among the responses to a prompt, averaged over prompts; 1 for one response.

    Raises:
        ValueError: if a prompt has no response.
    """
    if not texts or not all(texts):
        raise ValueError("expected one response or more to each prompt, got none")
    return sum(len(set(row)) / len(row) for row in texts) / len(texts)
