"""The token rules: masks, endings, illegal tokens, limits."""

import dataclasses

import numpy as np
import pytest

from envs import TokenDuels, make_task
from envs.token_duel.opponents import Uniform
from envs.token_duel.rules import ENDED, MAY_END, MUST_CONTINUE, Rules
from preference_duel.keyed_random import Rows
from tests.envs.duels import EOS, PAD, A, B, C, P, Q

NOTHING = [0] * 7
LETTERS = [0, 0, 1, 1, 1, 0, 0]
LETTERS_OR_EOS = [0, 1, 1, 1, 1, 0, 0]
ONLY_EOS = [0, 1, 0, 0, 0, 0, 0]


def test_each_phase_has_its_legal_tokens(words):
    rules = Rules.of(words(limit=4, least=2))
    assert rules.masks.dtype == np.int8
    assert rules.masks.tolist() == [LETTERS, LETTERS_OR_EOS, ONLY_EOS]
    assert rules.by_step.tolist() == [MUST_CONTINUE, MUST_CONTINUE, MAY_END, MAY_END, ENDED]


def test_pad_is_never_legal_even_where_the_task_allows_it(words):
    rules = Rules.of(dataclasses.replace(words(), response_tokens=np.ones(7, bool)))
    assert rules.masks.tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], ONLY_EOS]


def test_eos_is_legal_only_after_min_new_tokens(words, oracle):
    duels = TokenDuels(words(limit=4, least=2), oracle)
    duels.reset()
    seen = []
    while duels.outcome[0] < 0:
        seen.append(duels.masks()[0, 0].tolist())
        duels.step(np.array([[A, B]]))
    assert seen == [LETTERS, LETTERS, LETTERS_OR_EOS, LETTERS_OR_EOS]
    assert duels.masks()[0].tolist() == [ONLY_EOS, ONLY_EOS]


def test_responses_of_one_length_never_hold_an_eos(oracle):
    duels = TokenDuels(make_task("symbols", alphabet=2, length=3), oracle)
    duels.reset()
    for _ in range(3):
        assert duels.masks()[0, :, EOS].tolist() == [0, 0]
        duels.step(np.full((1, 2), EOS))
    assert duels.completion(0, 0).text == "aaa"
    assert duels.verdict(0)["hit_limit"] == (True, True)


def test_an_illegal_token_is_eos_where_that_is_legal_and_else_the_smallest_legal_one(words):
    rules = Rules.of(words(limit=4, least=2))
    assert rules.written.tolist() == [
        [A, A, A, B, C, A, A],
        [EOS, EOS, A, B, C, EOS, EOS],
        [PAD] * 7,
    ]
    assert rules.after.tolist() == [NOTHING, [2, 2, 0, 0, 0, 2, 2], [ENDED] * 7]


@pytest.mark.parametrize("token", [PAD, EOS, P])
def test_illegal_raise_names_the_player_and_the_token(words, oracle, token):
    duels = TokenDuels(words(least=2), oracle, illegal="raise")
    duels.reset()
    with pytest.raises(ValueError, match=rf"player_1 played the illegal token {token} .*at step 0; play one that"):
        duels.step(np.array([[A, token]]))
    with pytest.raises(ValueError, match=rf"player_0 played the illegal token {token} .*at step 0; play one that"):
        duels.step_row(0, token, B)
    duels.step(np.array([[A, B]]))
    assert duels.steps[0] == 1


def test_illegal_raise_wants_eos_of_a_player_that_has_ended(words, oracle):
    duels = TokenDuels(words(), oracle, illegal="raise")
    duels.reset()
    duels.step(np.array([[EOS, B]]))
    with pytest.raises(ValueError, match=r"player_0 played the illegal token 2 \('a'\) at step 1"):
        duels.step(np.array([[A, B]]))
    duels.step(np.array([[EOS, B]]))
    assert duels.completion(0, 1).text == "bb"


def test_the_tokens_of_a_player_that_has_ended_are_ignored(words, oracle):
    duels = TokenDuels(words(), oracle)
    duels.reset()
    for tokens in ([A, B], [EOS, B], [C, B], [B, EOS]):
        duels.step(np.array([tokens]))
    assert duels.completion(0, 0).tokens == (A, EOS)
    assert duels.completion(0, 0).text == "a"
    assert duels.completion(0, 1).tokens == (B, B, B, EOS)
    assert duels.verdict(0)["lengths"] == (2, 4)
    assert duels.verdict(0)["hit_limit"] == (False, False)


def test_the_limit_ends_a_response_without_eos(words, oracle):
    duels = TokenDuels(words(limit=2), oracle)
    duels.reset()
    assert duels.step(np.array([[A, B]])).tolist() == []
    assert duels.step(np.array([[C, EOS]])).tolist() == [0]
    assert duels.completion(0, 0).tokens == (A, C)
    assert duels.verdict(0)["hit_limit"] == (True, False)
    assert duels.verdict(0)["lengths"] == (2, 2)


def test_prompts_stand_left_padded_before_the_response(words, oracle):
    duels = TokenDuels(words(), oracle, size=64)
    duels.reset()
    duels.step(np.full((64, 2), [A, B]))
    rows = {0: [PAD, PAD, P], 1: [PAD, P, Q], 2: [Q, Q, P]}
    for row in range(64):
        expected = rows[duels.prompts[row]]
        assert duels.board[row, 0].tolist() == [*expected, A, PAD, PAD, PAD, PAD]
        assert duels.board[row, 1].tolist() == [*expected, B, PAD, PAD, PAD, PAD]
    duels.seed(np.arange(64))
    duels.reset()
    assert set(duels.prompts.tolist()) == {0, 1, 2}


def test_a_vocabulary_without_pad_fills_with_an_id_of_its_own(words, oracle):
    duels = TokenDuels(words(pad=False), oracle)
    duels.reset()
    duels.step(np.array([[B, EOS]]))
    assert duels.board[0, 1, 3:].tolist() == [EOS, 7, 7, 7, 7]
    assert duels.completion(0, 1).tokens == (EOS,)
    assert duels.completion(0, 0).text == "b"


def test_a_response_ends_at_each_of_several_ends(words, oracle):
    task = words(limit=4, least=1)
    task.tokenizer.end_ids = {EOS, C}
    duels = TokenDuels(task, oracle)
    assert duels.rules.masks.tolist() == [[0, 0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0], ONLY_EOS]
    duels.reset()
    for tokens in ([A, B], [C, EOS]):
        duels.step(np.array([tokens]))
    assert [duels.completion(0, seat).tokens for seat in (0, 1)] == [(A, C), (B, EOS)]
    assert duels.verdict(0)["hit_limit"] == (False, False)
    key = Rows(seeds=np.arange(200), episode=np.zeros(200, int))
    played = Uniform(duels.rules).respond(["p"] * 200, key)
    ends = [row[duels.rules.is_end[row]] for row in played]
    assert {row[0] for row in ends if len(row)} == {EOS, C}
    assert all((row[1:] == EOS).all() for row in ends)


def test_a_vocabulary_whose_pad_is_eos_can_still_end(words, oracle):
    task = words()
    task.tokenizer.pad_id = task.tokenizer.eos_id
    duels = TokenDuels(task, oracle)
    duels.reset()
    assert duels.masks()[0, 0].tolist() == LETTERS_OR_EOS
    duels.step(np.array([[EOS, EOS]]))
    assert duels.outcome[0] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ({"min_new_tokens": 5}, "min_new_tokens <= max_new_tokens"),
        ({"response_tokens": np.ones(5, bool)}, r"response_tokens must be \(7,\)"),
        ({"response_tokens": np.eye(7, dtype=bool)[EOS]}, "allows no token but EOS and PAD"),
    ],
)
def test_limits_that_leave_no_game_are_named(words, oracle, changes, message):
    with pytest.raises(ValueError, match=message):
        TokenDuels(dataclasses.replace(words(), **changes), oracle)


@pytest.mark.parametrize(("prompt", "tokens"), [("pqpq", 4), ("", 0)])
def test_a_prompt_that_does_not_fit_is_counted(words, oracle, prompt, tokens):
    duels = TokenDuels(dataclasses.replace(words(), prompts=(prompt,)), oracle)
    with pytest.raises(ValueError, match=f"has {tokens} tokens, expected 1 to 3"):
        duels.reset()
