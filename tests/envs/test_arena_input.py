"""What the arena refuses: broken oracles, proposals that do not fit, plays without prompts."""

import pytest
import torch

from envs import Completion, DuelArena, Proposal


def rows(prompts, *letters):
    """Responses by letter, told apart by prompt and row so that every pair is another question."""
    return [[Completion(f"{letter}{row}") for letter in letters] for row in range(len(prompts))]


def questions(oracle):
    return [triple for call in oracle.calls for triple in call]


@pytest.fixture
def arena(words, oracle):
    return DuelArena(words(), oracle, 3, seed=5)


def test_an_unplayed_reset_is_dropped_on_loading(arena):
    arena.reset()
    arena.load_state_dict(arena.state_dict())
    with pytest.raises(RuntimeError, match="call reset"):
        arena.play(Proposal([]))


def test_every_play_needs_a_reset(arena):
    with pytest.raises(RuntimeError, match="call reset"):
        arena.play(Proposal([]))
    arena.play(Proposal(rows(arena.reset(), "a", "b")))
    with pytest.raises(RuntimeError, match="call reset"):
        arena.play(Proposal([]))


def test_only_an_offline_arena_plays_without_a_proposal(arena):
    arena.reset()
    with pytest.raises(ValueError, match="needs a proposal, got None"):
        arena.play(None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda count: torch.full((count,), torch.nan), "prob must lie in .0, 1., Remembering returned nan"),
        (lambda count: torch.full((count,), 1.3), "returned 1.3; is it returning logits"),
        (lambda count: torch.full((count,), -0.1), "returned -0.1; is it returning logits"),
        (lambda count: torch.full((count + 1,), 0.5), "Remembering must return shape"),
        (lambda count: torch.full((count,), 1), "Remembering must return a float32 or float64"),
        (lambda count: torch.full((count,), 0.9), "antisymmetric, but prob.* do not sum to 1"),
    ],
    ids=["nan", "above", "below", "shape", "integers", "asymmetric"],
)
def test_an_oracle_that_breaks_its_contract_is_named(arena, oracle, answer, message):
    oracle.prob = lambda prompts, first, second: answer(len(prompts))
    prompts = arena.reset()
    with pytest.raises(ValueError, match=message):
        arena.play(Proposal(rows(prompts, "a", "b"), rows(prompts, "c")))
    assert arena.queries == 0


def test_an_asymmetric_oracle_is_found_later_too(arena, oracle):
    """The other order is looked at in plays 1, 2, 4, 8, ...: one more question each."""
    asked = []
    for _ in range(8):
        prompts = arena.reset()
        oracle.calls.clear()
        arena.play(Proposal(rows(prompts, "a"), rows(prompts, "b")))
        asked.append(len(questions(oracle)) - 3)
    assert [extra > 0 for extra in asked] == [True, True, False, True, False, False, False, True]


def test_proposals_that_do_not_fit_are_named(arena):
    prompts = arena.reset()
    left, right = rows(prompts, "a", "b"), rows(prompts, "c")
    for proposal, message in (
        (Proposal(left[:2]), "left must hold .* for each of the 3 prompts; got 2 rows"),
        (Proposal([left[0], left[1], left[2][:1]]), r"left must hold the same number .* of \[1, 2\] responses"),
        (Proposal([[], [], []]), r"at least one, .* of \[0\] responses"),
        (Proposal(left, right[:1]), "right must hold .* got 1 rows"),
        (Proposal(left, right, torch.full((3, 2), 0.6)), "left_weight must be .* sum to 1"),
        (Proposal(left, right, None, torch.full((3, 2), 0.5)), r"right_weight must be \(3, 1\)"),
        (Proposal(left, right, torch.tensor([[1.5, -0.5]] * 3)), "left_weight must be .* non-negative"),
        (Proposal(left, right, ask=torch.ones(3, 1, 2, dtype=torch.bool)), r"ask must be \(3, 2, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            arena.play(proposal)
    assert arena.play(Proposal(left, right)).prob.shape == (3, 2, 1), "a refused proposal costs nothing"


def test_bad_arguments_are_named(words, oracle):
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1 or None"),
        ({"batch_size": 1, "feedback": "votes"}, "feedback must be one of"),
        ({"batch_size": 1, "votes": 0}, "votes must be at least 1"),
        ({"batch_size": 1, "votes": 2, "feedback": "probability"}, "1 for feedback='probability'"),
    ):
        with pytest.raises(ValueError, match=message):
            DuelArena(words(), oracle, **options)
