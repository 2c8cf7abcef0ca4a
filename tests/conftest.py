"""A small task of free length and an oracle that remembers what it was asked, for the tests of the environment."""

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; the workers share the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a wrong name is told at once, not after the hub was called five times

import numpy as np
import pytest
import torch

from envs import Task
from envs.tasks.tokenizers import ListTokenizer
from preference_duel.keyed_random import hash_seed

gc.disable()  # while the tests are collected; what that leaves lives to the end and need never be searched again


def pytest_collection_modifyitems(items):
    """Puts the longest tests, which have a timeout of their own, first: begun last, they leave others idle."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def with_a_fast_few(values, every):
    """Returns a test's parameters, of which every so many-th is among the fast tests and the others are slow."""
    return [pytest.param(x, marks=() if i % every == 0 else pytest.mark.slow) for i, x in enumerate(values)]


WORDS = ("a", "b", "c")
PROMPTS = ("p", "pq", "qqp")


def words_task(limit=4, least=0, pad=True):
    """Responses over a, b, c that may end early; prompts of one to three tokens."""
    tokenizer = ListTokenizer([*WORDS, "p", "q"])
    if not pad:
        tokenizer.pad_id = None
    legal = np.isin(tokenizer.strings, WORDS)
    return Task("words", PROMPTS, PROMPTS[:1], tokenizer, 3, limit, least, legal)


class Remembering:
    """P is any number, the same for the same three texts; `calls` holds every question."""

    antisymmetric = True

    def __init__(self):
        self.calls = []

    def rule(self, prompt, first, second):
        if first == second:
            return 0.5
        low, high = sorted((first, second))
        prob = hash_seed(prompt, low, high) / 2**63
        return prob if first == low else 1 - prob

    def prob(self, prompts, first, second):
        triples = list(zip(prompts, first, second, strict=True))
        self.calls.append(triples)
        return torch.tensor([self.rule(*triple) for triple in triples], dtype=torch.float64)


class FirstFavoured(Remembering):
    """Has a position bias: half a point for whoever stands first."""

    antisymmetric = False

    def rule(self, prompt, first, second):
        return (1 + super().rule(prompt, first, second)) / 2


@pytest.fixture
def words():
    return words_task


@pytest.fixture
def oracle():
    return Remembering()


@pytest.fixture
def biased_oracle():
    return FirstFavoured()
