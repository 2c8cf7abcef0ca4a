"""Values of the beginnings of responses: by hand, by the Bellman recursion, and what follows from them."""

import math

import pytest
import torch

from envs.games import soft_values
from envs.games.tries import Trie

PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1)]
UNEQUAL = [(3,), (3, 5), (3, 5, 5), (4, 3), (4, 4, 4), (5, 3, 3, 3), (5, 3, 3, 4)]
"""Three of them begin others."""


def random_case(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ref = torch.rand(2, count, generator=generator, dtype=torch.float64)
    return ref / ref.sum(-1, keepdim=True), torch.randn(2, count, generator=generator, dtype=torch.float64)


def test_values_of_two_tokens_by_hand():
    reward = torch.tensor([0.0, 1.0, 0.5, 2.0])
    values = soft_values(PAIRS, torch.full((4,), 0.25), reward, 0.5)
    assert values.shape == (4, 3)
    assert values[0].tolist() == pytest.approx([1.399444, 0.716890, 0.0], abs=1e-6)
    assert values[3].tolist() == pytest.approx([1.399444, 1.677720, 2.0], abs=1e-6)
    first_is_one = 0.5 * math.exp((values[3, 1] - values[3, 0]) / 0.5)
    assert first_is_one == pytest.approx(0.872323, abs=1e-6)
    policy = torch.softmax(reward.double() / 0.5, 0)
    assert first_is_one == pytest.approx((policy[2] + policy[3]).item())
    assert values[3].diff().sum().item() == pytest.approx(0.600556, abs=1e-6)


def bellman(strings, ref, reward, tau, beginning=()):
    """V of a beginning of strings that are no beginnings of each other, token by token."""
    going_on = [i for i, string in enumerate(strings) if string[: len(beginning)] == beginning]
    if len(strings[going_on[0]]) == len(beginning):
        return reward[going_on[0]].item()
    total, tokens = ref[going_on].sum(), {strings[i][len(beginning)] for i in going_on}
    terms = []
    for token in tokens:
        share = sum(ref[i] for i in going_on if strings[i][len(beginning)] == token) / total
        terms.append(share * math.exp(bellman(strings, ref, reward, tau, (*beginning, token)) / tau))
    return tau * math.log(sum(terms))


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_they_solve_the_bellman_equation_for_strings_of_any_length(tau):
    ref, reward = random_case(len(UNEQUAL))
    values = soft_values(UNEQUAL, ref, reward, tau)
    closed = [(*string, -1) if string in {(3,), (3, 5)} else string for string in UNEQUAL]
    for b in range(2):
        for i, string in enumerate(closed):
            expected = [bellman(closed, ref[b], reward[b], tau, string[:t]) for t in range(len(string) + 1)]
            assert values[b, i, : len(expected)].tolist() == pytest.approx(expected, abs=1e-9)
            assert (values[b, i, len(string) :] == values[b, i, -1]).all()


def test_credits_of_any_policy_are_its_log_ratios_token_by_token():
    """The first token of (4, 3) under a policy, given by its whole distribution."""
    ref, _ = random_case(len(UNEQUAL))
    policy = random_case(len(UNEQUAL), seed=1)[0]
    credit = soft_values(UNEQUAL, ref, 0.3 * (policy / ref).log(), 0.3).diff()
    assert torch.allclose(credit.sum(-1), 0.3 * (policy / ref).log())
    first = 0.3 * (policy[:, 3:5].sum(1) / ref[:, 3:5].sum(1)).log()
    assert credit[:, 3, 0].tolist() == pytest.approx(first.tolist())


def test_a_trie_knows_the_next_tokens_and_sums_over_paths():
    log_probs = random_case(len(UNEQUAL))[0].log().requires_grad_()
    trie = Trie(UNEQUAL)
    logits = trie.next_logits(log_probs)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(logits.shape[:2], dtype=torch.float64))
    chosen = logits[:, torch.arange(len(trie.tokens)), trie.tokens]
    assert torch.allclose(trie.along(chosen), log_probs)
    trie.along(chosen)[0, 2].backward()
    assert log_probs.grad is not None
    assert torch.allclose(log_probs.grad[0], torch.eye(len(UNEQUAL), dtype=torch.float64)[2] - log_probs[0].exp())


@pytest.mark.parametrize(
    ("strings", "ref", "reward", "tau", "message"),
    [
        ([(0,), (0,)], [0.5, 0.5], [0.0, 1.0], 1.0, "two of the 2 strings are equal"),
        ([(0,), (1,)], [0.5, 0.5], [0.0, 1.0, 2.0], 1.0, "2 responses need as many"),
        ([(0,), (1,)], [1.0, 0.0], [0.0, 1.0], 1.0, "ref must be positive"),
        ([(0,), (1,)], [0.5, 0.5], [0.0, 1.0], 0.0, "tau must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(strings, ref, reward, tau, message):
    with pytest.raises(ValueError, match=message):
        soft_values(strings, torch.tensor(ref), torch.tensor(reward), tau)
