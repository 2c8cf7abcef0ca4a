"""The counter-based random numbers: known answers, uniformity, and independence of batch and order."""

import itertools

import numpy as np
import pytest
import torch

from preference_duel.keyed_random import Key, Stream, choose, hash_seed, philox, uniform
from preference_duel.keyed_random_torch import choose as torch_choose

ONES = 0xFFFFFFFF
KNOWN = [  # counter, key, answer: Random123's kat_vectors for philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = philox(tuple(np.array([c], np.uint64) for c in counter), tuple(np.array([k], np.uint64) for k in key))
    assert tuple(int(word[0]) for word in words) == answer


def test_a_uniform_is_the_first_53_bits_of_its_block():
    expected = ((0x6627E8D5 << 21) | (0xE169C58D >> 11)) / 2**53
    assert uniform(0, 0, 0) == expected
    assert Key(0, 0, Stream.PROMPT).uniform() == expected


def test_seed_stream_and_positions_fill_the_key_and_the_counter():
    seed, episode, k, l, vote = 0x0123456789ABCDEF, 17, 3, 5, 7
    counter = (episode, Stream.VERDICT | (vote << 8), k, l)
    high, low, _, _ = philox(
        tuple(np.array([c], np.uint64) for c in counter),
        (np.array([0x89ABCDEF], np.uint64), np.array([0x01234567], np.uint64)),
    )
    expected = ((int(high[0]) << 21) | (int(low[0]) >> 11)) / 2**53
    assert Key(seed, episode, Stream.VERDICT).uniform(k, l, vote) == expected


def test_uniforms_are_uniform_over_every_position():
    key = Key(12345, np.arange(40)[:, None, None, None], Stream.VERDICT)
    draws = key.uniform(np.arange(10)[:, None, None], np.arange(10)[:, None], np.arange(25)).ravel()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount((draws * 100).astype(int), minlength=100)
    expected = draws.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi-square, 99 degrees of freedom: p = 1e-4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(draws.size)


def test_no_two_keys_share_a_number():
    seeds, streams = np.arange(4)[:, None, None], np.array([int(stream) for stream in Stream])[:, None]
    draws = [uniform(seeds, streams, np.arange(50), k, l, vote) for k in (0, 1) for l in (0, 1) for vote in (0, 1)]
    draws = np.concatenate([block.ravel() for block in draws])
    assert len(np.unique(draws)) == draws.size


def test_a_number_does_not_depend_on_the_batch_or_the_order():
    episodes = np.random.default_rng(0).permutation(1000)
    together = Key(7, episodes, Stream.TOKEN).uniform(k=2, vote=9)
    alone = [float(Key(7, int(e), Stream.TOKEN).uniform(k=2, vote=9)) for e in episodes[:50]]
    in_order = Key(7, np.arange(1000), Stream.TOKEN).uniform(k=2, vote=9)
    assert together[:50].tolist() == alone
    assert together.tolist() == in_order[episodes].tolist()


def test_another_episode_of_a_key_differs_in_the_episode_alone():
    key = Key(7, 3, Stream.SIDE)
    assert key.at(4) == Key(7, 4, Stream.SIDE)
    assert key.at(4).uniform() != key.uniform()


def test_hashed_seeds_are_stable_and_unlike_their_neighbours():
    assert hash_seed("run", 0) == 248641717498624603
    seeds = [hash_seed("run", i) for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = [(a ^ b).bit_count() for a, b in itertools.pairwise(seeds)]
    assert 28 < np.mean(bits) < 35


def test_a_choice_inverts_the_cumulative_distribution():
    uniforms = np.array([0.0, 0.25, 0.999])
    assert choose([1.0, 3.0, 0.0], uniforms).tolist() == [0, 1, 1]
    assert choose([[0.0, 2.0], [1.0, 1.0], [5.0, 0.0]], uniforms).tolist() == [1, 0, 0]


def test_a_choice_never_leaves_the_weights_even_at_the_last_uniform():
    last = np.array([1 - 2.0**-53])
    for total in (1.0, 0.3, 3e-320, 7.1):
        assert choose([total, 0.0], last).tolist() == [0]
        weights = torch.tensor([[total, 0.0]], dtype=torch.float64)
        assert torch_choose(weights, torch.from_numpy(last[None])).tolist() == [[0]]
