"""Small games with known numbers, and random ones."""

import math

import torch

from tests.matrix_games import COMAL

__all__ = ["COMAL", "NASH", "REF", "ROCK", "double", "random_game"]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


ROCK = double([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
REF = double([0.5, 0.3, 0.2])
NASH = {
    0.05: (0.351185, 0.303336, 0.345478),
    0.1: (0.375327, 0.277433, 0.347240),
    0.5: (0.496854, 0.240876, 0.262271),
    1.0: (0.510868, 0.261556, 0.227576),
}
"""The regularised equilibria of ROCK with reference REF, by tau."""


def random_game(n, seed, scale=2.0):
    """A game and a reference policy."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, n, dtype=torch.float64, generator=generator) * scale
    ref = torch.randn(n, dtype=torch.float64, generator=generator).softmax(0)
    return torch.sigmoid((logits - logits.mT) / math.sqrt(2)), ref
