"""Duels in arrays: one and many, verdicts, chance, state."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from envs import TokenDuels
from oracles import outcomes
from preference_duel.keyed_random import Key, Stream
from tests.envs.duels import EOS, A, B, C


def play(duels, rng):
    """Plays random legal tokens in every duel to the end."""
    while (duels.outcome < 0).any():
        duels.step(duels.random_tokens(rng.random((duels.size, 2))))


@pytest.mark.parametrize("feedback", ["outcome", "probability"])
@pytest.mark.parametrize("least", [0, 2, 5])
def test_one_duel_steps_as_a_batch_does(words, oracle, feedback, least):
    rng = np.random.default_rng(least)
    batch = TokenDuels(words(limit=5, least=least), oracle, size=40, feedback=feedback)
    rows = batch.clone()
    for _ in range(3):
        batch.reset()
        for row in range(40):
            rows.reset_row(row)
        while (batch.outcome < 0).any():
            tokens = rng.integers(0, 7, (40, 2))
            live = np.flatnonzero(batch.outcome < 0)
            over = batch.step(tokens)
            assert [row for row in live.tolist() if rows.step_row(row, *tokens[row].tolist())] == over.tolist()
        for name, values in batch.get_state().items():
            if name == "steps":  # a judged duel of a batch goes on counting up to the limit
                continue
            inside = np.s_[..., :-1] if name == "board" else np.s_[...]  # the last column is scratch space
            np.testing.assert_array_equal(rows.get_state()[name][inside], values[inside], err_msg=name)


def test_a_judged_duel_stays_as_it_is_until_it_is_reset(words, oracle):
    duels = TokenDuels(words(), oracle, size=2)
    duels.reset()
    duels.step(np.array([[EOS, EOS], [A, B]]))
    before, verdict = duels.board[0, :, :-1].copy(), duels.verdict(0)
    for _ in range(6):
        duels.step(np.full((2, 2), C))
    assert duels.board[0, :, :-1].tolist() == before.tolist()
    assert duels.verdict(0) == verdict
    assert len(oracle.calls) == 2
    duels.reset(np.array([0]))
    assert duels.outcome[0] == -1
    assert np.isnan(duels.revealed[0])
    assert duels.episodes.tolist() == [1, 0]
    assert duels.completion(1, 0).tokens == (A, C, C, C)


def test_duels_that_end_together_are_asked_in_one_call(words, oracle):
    duels = TokenDuels(words(limit=3), oracle, size=5)
    duels.reset()
    ends = ([EOS, EOS], [EOS, A], [A, EOS], [EOS, EOS], [B, C])
    assert duels.step(np.array(ends)).tolist() == [0, 3]
    assert duels.step(np.array([[A, EOS], [A, EOS], [A, A], [A, A], [C, C]])).tolist() == [1]
    assert duels.step(np.full((5, 2), B)).tolist() == [2, 4]
    assert [len(call) for call in oracle.calls] == [2, 1, 2]
    prompts = [duels.task.prompts[i] for i in duels.prompts]
    questions = [triple for call in oracle.calls for triple in call]
    texts = [("", ""), ("", ""), ("", "a"), ("aab", ""), ("bcb", "ccb")]
    assert questions == [(prompts[row], *texts[i]) for i, row in enumerate([0, 3, 1, 2, 4])]


@pytest.mark.parametrize("feedback", ["outcome", "probability"])
def test_verdicts_are_the_oracles_keyed_outcomes(words, oracle, feedback):
    duels = TokenDuels(words(), oracle, size=200, feedback=feedback)
    duels.seed(11)
    duels.episodes[:] = np.arange(200) - 1
    duels.reset()
    play(duels, np.random.default_rng(0))
    prompts = [duels.task.prompts[i] for i in duels.prompts]
    first, second = ([duels.completion(row, seat).text for row in range(200)] for seat in (0, 1))
    won = outcomes(oracle, prompts, first, second, Key(11, np.arange(200), Stream.VERDICT))
    prob = oracle.prob(prompts, first, second)
    assert duels.outcome.tolist() == won.int().tolist()
    assert duels.revealed.tolist() == (won.double() if feedback == "outcome" else prob).tolist()
    gain = 2 * duels.revealed - 1
    assert duels.rewards(np.arange(200)).tolist() == np.stack([gain, -gain], 1).tolist()


def settled(tokens, episodes, *, duels):
    """Plays given tokens of these episodes of seed 3 as one batch; returns y by episode."""
    duels.seed(3)
    duels.episodes[:] = episodes - 1
    duels.reset()
    for step in range(tokens.shape[2]):
        duels.step(tokens[:, :, step])
    return dict(zip(episodes.tolist(), duels.outcome.tolist(), strict=True))


def test_outcomes_follow_p_in_any_batch_and_order(words, oracle):
    """Ten thousand duels: within four standard deviations of P, overall and for every P; no batch or order matters."""
    task, count = words(limit=3), 10_000
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 5, (count, 2, 3))
    episodes = np.arange(count)
    duels = TokenDuels(task, oracle, size=count, feedback="probability")
    together = settled(tokens, episodes, duels=duels)
    order = rng.permutation(count)
    assert settled(tokens[order], order, duels=TokenDuels(task, oracle, size=count)) == together
    split = {}
    for part in np.array_split(episodes, 173):
        split |= settled(tokens[part], part, duels=TokenDuels(task, oracle, size=len(part)))
    assert split == together
    probs = duels.revealed
    y = np.array([together[e] for e in episodes.tolist()])
    for low, high in itertools.pairwise([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.01]):
        here = (probs >= low) & (probs < high)
        spread = np.sqrt((probs[here] * (1 - probs[here])).sum())
        assert here.sum() > 300
        assert abs((y[here] - probs[here]).sum()) < 4 * spread
    assert abs((y - probs).sum()) < 4 * np.sqrt((probs * (1 - probs)).sum())


def test_both_orders_are_averaged_where_position_matters(words, biased_oracle):
    duels = TokenDuels(words(limit=1), biased_oracle, feedback="probability")
    duels.reset()
    duels.step(np.array([[A, B]]))
    prompt = duels.task.prompts[duels.prompts[0]]
    forward, backward = biased_oracle.rule(prompt, "a", "b"), biased_oracle.rule(prompt, "b", "a")
    assert duels.revealed[0] == pytest.approx((forward + 1 - backward) / 2, abs=1e-12)
    assert abs(duels.revealed[0] - forward) > 0.2
    assert biased_oracle.calls == [[(prompt, "a", "b")], [(prompt, "b", "a")]]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.tensor([np.nan]), "prob must lie in"),
        (torch.tensor([1.3]), "prob must lie in"),
        (torch.tensor([0.5, 0.5]), "shape"),
    ],
)
def test_an_oracle_that_breaks_its_contract_is_named(words, oracle, answer, message):
    oracle.prob = lambda *_: answer
    duels = TokenDuels(words(limit=1), oracle)
    duels.reset()
    with pytest.raises(ValueError, match=message) as error:
        duels.step(np.array([[A, B]]))
    assert "Remembering" in str(error.value)


def test_float32_answers_give_the_same_verdict_as_their_double(words, oracle):
    duels = TokenDuels(words(limit=1), oracle, size=50, feedback="probability")
    exact = oracle.prob
    oracle.prob = lambda *texts: exact(*texts).float()
    duels.seed(np.arange(50))
    duels.reset()
    duels.step(np.full((50, 2), [A, B]))
    uniforms = np.array([float(Key(seed, 0, Stream.VERDICT).uniform()) for seed in range(50)])
    assert duels.outcome.tolist() == (uniforms < duels.revealed).astype(int).tolist()


def test_random_tokens_are_legal_and_equally_likely(words, oracle):
    duels = TokenDuels(words(limit=4, least=1), oracle, size=3000)
    duels.reset()
    rng = np.random.default_rng(0)
    first = duels.random_tokens(rng.random((3000, 2)))
    duels.step(first)
    second = duels.random_tokens(rng.random((3000, 2)))
    for tokens, legal in ((first, {A, B, C}), (second, {EOS, A, B, C})):
        counts = Counter(tokens.ravel().tolist())
        assert set(counts) == legal
        assert all(abs(count - 6000 / len(legal)) < 4 * np.sqrt(6000 / len(legal)) for count in counts.values())


def test_the_nth_reset_after_a_seed_is_episode_n(words, oracle):
    duels = TokenDuels(words(), oracle, size=3)
    duels.seed([5, 6, 7])
    index = []
    for _ in range(600):
        duels.reset()
        index.append(duels.prompts.copy())
    for row, seed in enumerate([5, 6, 7]):
        uniforms = Key(seed, np.arange(600), Stream.PROMPT).uniform()
        assert np.array(index)[:, row].tolist() == np.floor(3 * uniforms).astype(int).tolist()
    duels.seed(6, np.array([0]))
    duels.reset()
    assert duels.prompts[0] == index[0][1]
    assert duels.episodes.tolist() == [0, 600, 600]


def test_a_state_taken_mid_duel_gives_the_same_verdicts(words, oracle):
    rng = np.random.default_rng(3)
    duels = TokenDuels(words(), oracle, size=30)
    duels.seed(2)
    duels.reset()
    duels.step(duels.random_tokens(rng.random((30, 2))))
    state = duels.get_state()
    twin = duels.clone()
    play(duels, np.random.default_rng(9))
    fresh = TokenDuels(words(), oracle, size=30)
    fresh.set_state(state)
    for other in (twin, fresh):
        play(other, np.random.default_rng(9))
        assert other.outcome.tolist() == duels.outcome.tolist()
        assert other.board.tolist() == duels.board.tolist()
    with pytest.raises(ValueError, match=r"state\['board'\] must be \(30, 2, 10\), got \(30, 2, 8\)"):
        TokenDuels(words(limit=6), oracle, size=30).set_state(state)


def test_bad_arguments_are_named(words, oracle):
    with pytest.raises(ValueError, match="size must be at least 1"):
        TokenDuels(words(), oracle, size=0)
    with pytest.raises(ValueError, match="feedback must be one of"):
        TokenDuels(words(), oracle, feedback="votes")
    with pytest.raises(ValueError, match="illegal must be one of"):
        TokenDuels(words(), oracle, illegal="ignore")
    duels = TokenDuels(words(), oracle)
    with pytest.raises(RuntimeError, match="call reset"):
        duels.step(np.array([[A, B]]))
    with pytest.raises(ValueError, match="a seed must lie in"):
        duels.seed(-1)
    with pytest.raises(TypeError):
        duels.seed(1.5)
    duels.reset()
    for tokens in ([[A, 7]], [[-1, A]], [[A, B], [A, B]]):
        with pytest.raises(ValueError, match=r"tokens must be \[1, 2\] ids in \[0, 7\)"):
            duels.step(np.array(tokens))
    with pytest.raises(ValueError, match=r"ids in \[0, 7\), got -1 and 3"):
        duels.step_row(0, -1, 3)
