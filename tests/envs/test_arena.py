"""The arena: questions to the oracle, feedback, counters, randomness by the seed alone, and refused input."""

import itertools
import json

import numpy as np
import pytest
import torch

from envs import Completion, DuelArena, Proposal
from envs.token_duel.chance import prompt_index
from oracles import outcomes
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Arriving, Unanswered


def rows(prompts, *letters):
    """Responses by letter, distinct for every prompt and row."""
    return [[Completion(f"{letter}{row}") for letter in letters] for row in range(len(prompts))]


def questions(oracle):
    return [triple for call in oracle.calls for triple in call]


@pytest.fixture
def arena(words, oracle):
    return DuelArena(words(), oracle, 3, seed=5)


def test_a_duel_has_a_row_for_every_prompt_and_a_cell_for_every_pair(arena):
    prompts = arena.reset()
    left, right = rows(prompts, "a", "b"), rows(prompts, "c", "d", "e", "f")
    duel = arena.play(Proposal(left, right))
    assert duel.prob.shape == duel.asked.shape == (3, 2, 4)
    assert duel.left_weight.tolist() == [[1 / 2] * 2] * 3
    assert duel.right_weight.tolist() == [[1 / 4] * 4] * 3
    assert duel.prob.dtype == duel.left_weight.dtype == duel.right_weight.dtype == torch.float64
    assert duel.asked.all()
    assert duel.prompts == prompts
    assert (duel.left, duel.right) == (left, right)
    assert not duel.self_play
    assert (duel.feedback, duel.votes, duel.exact) == ("outcome", 1, False)
    assert set(duel.prob.unique().tolist()) == {0.0, 1.0}


def test_self_play_asks_each_unordered_pair_once(arena, oracle):
    for _ in range(2):  # plays 1 and 2 look at one pair again, in the other order
        prompts = arena.reset()
        arena.play(Proposal(rows(prompts, "a", "b")))
    oracle.calls.clear()
    prompts = arena.reset()
    left = rows(prompts, "a", "b", "c", "d")
    duel = arena.play(Proposal(left))
    [call] = oracle.calls
    assert len(call) == 3 * 6
    pairs = {(x, frozenset((a, b))) for x, a, b in call}
    assert len(pairs) == 3 * 6
    assert all(len(pair) == 2 for _, pair in pairs)
    assert duel.self_play
    assert (duel.prob + duel.prob.mT == 1).all()
    assert (duel.prob.diagonal(dim1=1, dim2=2) == 0.5).all()
    assert duel.asked.tolist() == (~torch.eye(4, dtype=torch.bool)).expand(3, 4, 4).tolist()


def test_equal_texts_of_different_draws_are_a_fair_coin(words, oracle):
    arena = DuelArena(words(), oracle, 2000, seed=1)
    arena.reset()
    duel = arena.play(Proposal([[Completion("a"), Completion("a")]] * 2000))
    wins = int(duel.prob[:, 0, 1].sum())
    assert set(duel.prob[:, 0, 1].tolist()) == {0.0, 1.0}
    assert abs(wins - 1000) < 4 * np.sqrt(500)
    assert len(oracle.calls[0]) == 2000


@pytest.mark.parametrize("votes", [1, 3])
def test_queries_count_asked_pairs_times_votes(words, oracle, votes):
    arena = DuelArena(words(), oracle, 3, votes=votes)
    assert arena.queries == 0
    arena.play(Proposal(rows(arena.reset(), "a", "b", "c")))
    assert arena.queries == 3 * 3 * votes
    prompts = arena.reset()
    arena.play(Proposal(rows(prompts, "a", "b"), rows(prompts, "c")))
    assert arena.queries == (9 + 6) * votes
    prompts = arena.reset()
    ask = torch.zeros(3, 2, 2, dtype=torch.bool)
    ask[0, 0, 1] = True
    arena.play(Proposal(rows(prompts, "a", "b"), ask=ask))
    assert arena.queries == (9 + 6 + 1) * votes


def test_only_the_pairs_of_the_mask_are_asked(words, oracle):
    arena = DuelArena(words(), oracle, 3, feedback="probability")
    ask = torch.zeros(3, 2, 2, dtype=torch.bool)
    ask[0, 0, 1] = ask[2, 1, 0] = ask[2, 1, 1] = True
    for _ in range(2):
        prompts = arena.reset()
        arena.play(Proposal(rows(prompts, "a", "b")))
    oracle.calls.clear()
    prompts = arena.reset()
    duel = arena.play(Proposal(rows(prompts, "a", "b"), rows(prompts, "c", "d"), ask=ask))
    assert questions(oracle) == [(prompts[0], "a0", "d0"), (prompts[2], "b2", "c2"), (prompts[2], "b2", "d2")]
    assert duel.asked.tolist() == ask.tolist()
    assert (duel.prob[~ask] == 0.5).all()
    assert duel.prob[ask].tolist() == [oracle.rule(*triple) for triple in questions(oracle)]


def test_a_mask_in_self_play_counts_for_both_halves_and_never_for_the_diagonal(words, oracle):
    arena = DuelArena(words(), oracle, 1, feedback="probability")
    prompts = arena.reset()
    ask = torch.eye(3, dtype=torch.bool)[None].clone()
    ask[0, 2, 0] = True
    duel = arena.play(Proposal(rows(prompts, "a", "b", "c"), ask=ask))
    assert duel.asked[0].nonzero().tolist() == [[0, 2], [2, 0]]
    assert duel.prob[0, 2, 0] == oracle.rule(prompts[0], "c0", "a0")
    assert duel.prob[0, 0, 2] == 1 - duel.prob[0, 2, 0]
    assert arena.queries == 1


def test_probability_feedback_reveals_p(words, oracle):
    arena = DuelArena(words(), oracle, 4, feedback="probability")
    prompts = arena.reset()
    left, right = rows(prompts, "a", "b"), rows(prompts, "c", "d", "e")
    duel = arena.play(Proposal(left, right))
    for b, k, l in itertools.product(range(4), range(2), range(3)):
        assert duel.prob[b, k, l] == oracle.rule(prompts[b], left[b][k].text, right[b][l].text)


def test_outcomes_are_drawn_from_the_key_of_episode_pair_and_vote(words, oracle):
    arena = DuelArena(words(), oracle, 3, votes=5, seed=8)
    arena.reset()
    prompts = arena.reset()
    left, right = rows(prompts, "a", "b"), rows(prompts, "c", "d", "e")
    duel = arena.play(Proposal(left, right))
    for b, k, l in itertools.product(range(3), range(2), range(3)):
        uniforms = Key(8, 3 + b, Stream.VERDICT).uniform(k, l, np.arange(5))
        expected = (uniforms < oracle.rule(prompts[b], left[b][k].text, right[b][l].text)).mean()
        assert duel.prob[b, k, l] == pytest.approx(expected, abs=1e-15)


def test_the_first_vote_of_the_first_pair_is_the_oracles_keyed_outcome(arena, oracle):
    prompts = arena.reset()
    left, right = rows(prompts, "a"), rows(prompts, "b")
    duel = arena.play(Proposal(left, right))
    first, second = ([row[0].text for row in seat] for seat in (left, right))
    won = outcomes(oracle, prompts, first, second, Key(5, np.arange(3), Stream.VERDICT))
    assert duel.prob[:, 0, 0].tolist() == won.double().tolist()


def test_the_mean_of_many_votes_is_p(words, oracle):
    arena = DuelArena(words(), oracle, 4, votes=10_000)
    prompts = arena.reset()
    left = rows(prompts, "a", "b", "c")
    duel = arena.play(Proposal(left))
    for b, k, l in itertools.product(range(4), range(3), range(3)):
        prob = oracle.rule(prompts[b], left[b][k].text, left[b][l].text)
        assert abs(duel.prob[b, k, l] - prob) <= 4 * np.sqrt(prob * (1 - prob) / 10_000)


@pytest.mark.parametrize("self_play", [True, False])
def test_the_batch_size_changes_no_prompt_and_no_verdict(words, oracle, self_play):
    results = []
    for size in (1, 4, 20):
        arena = DuelArena(words(), oracle, size, votes=2, seed=13)
        prompts, probs = [], []
        for _ in range(20 // size):
            batch = arena.reset()
            left = [[Completion("a"), Completion("b"), Completion("c")]] * size
            right = None if self_play else [[Completion("b"), Completion("cc")]] * size
            probs.append(arena.play(Proposal(left, right)).prob)
            prompts += batch
        results.append((prompts, torch.cat(probs).tolist()))
    assert results[0] == results[1] == results[2]
    assert len(set(map(str, results[0][1]))) > 10


def test_prompts_are_drawn_uniformly_and_named_by_the_seed(words, oracle):
    arena = DuelArena(words(), oracle, 3000, seed=2)
    prompts = arena.reset()
    index = prompt_index(Key(2, np.arange(3000), Stream.PROMPT).uniform(), 3)
    assert prompts == [arena.task.prompts[i] for i in index]
    assert all(abs(prompts.count(prompt) - 1000) < 4 * np.sqrt(3000 * 2 / 9) for prompt in arena.task.prompts)
    assert DuelArena(words(), oracle, 3000, seed=3).reset() != prompts
    assert arena.reset() != prompts


def test_without_a_batch_size_every_prompt_comes_once_in_order(words, oracle):
    arena = DuelArena(words(), oracle, None)
    assert arena.reset() == list(arena.task.prompts)
    assert arena.reset() == list(arena.task.prompts)


def test_an_exact_policy_has_no_query_count(words, oracle):
    arena = DuelArena(words(), oracle, 2, feedback="probability")
    prompts = arena.reset()
    weight = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    duel = arena.play(Proposal(rows(prompts, "a", "b"), left_weight=weight))
    assert duel.exact
    assert duel.left_weight.tolist() == duel.right_weight.tolist() == weight.tolist()
    assert arena.queries is None
    prompts = arena.reset()
    sampled = arena.play(Proposal(rows(prompts, "a", "b")))
    assert not sampled.exact
    assert arena.queries is None


def test_each_seat_keeps_its_own_weights(words, oracle):
    arena = DuelArena(words(), oracle, 1)
    prompts = arena.reset()
    ours, theirs = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.2, 0.3]])
    proposal = Proposal(rows(prompts, "a", "b"), rows(prompts, "c", "d", "e"), ours, theirs)
    duel = arena.play(proposal)
    assert torch.allclose(duel.left_weight, ours.double())
    assert torch.allclose(duel.right_weight, theirs.double())


def test_a_position_bias_is_averaged_away(words, biased_oracle):
    arena = DuelArena(words(), biased_oracle, 2, feedback="probability")
    prompts = arena.reset()
    left, right = rows(prompts, "a"), rows(prompts, "b")
    duel = arena.play(Proposal(left, right))
    for b, prompt in enumerate(prompts):
        forward, backward = biased_oracle.rule(prompt, f"a{b}", f"b{b}"), biased_oracle.rule(prompt, f"b{b}", f"a{b}")
        assert duel.prob[b, 0, 0] == pytest.approx((forward + 1 - backward) / 2, abs=1e-12)


def test_a_resumed_arena_goes_on_as_the_uninterrupted_one(words, oracle):
    def plays(arena, count):
        results = []
        for _ in range(count):
            prompts = arena.reset()
            results.append((prompts, arena.play(Proposal(rows(prompts, "a", "b", "c"))).prob.tolist(), arena.queries))
        return results

    whole = plays(DuelArena(words(), oracle, 3, seed=4), 9)
    first = DuelArena(words(), oracle, 3, seed=4)
    start = plays(first, 5)
    state = json.loads(json.dumps(first.state_dict()))
    second = DuelArena(words(), oracle, 3, seed=4)
    second.load_state_dict(state)
    assert start + plays(second, 4) == whole
    assert second.state_dict() == first.state_dict() | {"episode": 27, "queries": 81, "plays": 9}


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


def test_the_look_at_both_orders_takes_a_pair_that_was_asked(arena, oracle):
    prompts = arena.reset()
    ask = torch.eye(2, dtype=torch.bool).expand(3, 2, 2)
    arena.play(Proposal(rows(prompts, "a", "b"), rows(prompts, "c", "d"), ask=ask))
    assert len(questions(oracle)) > 6
    assert {(x, frozenset((a[0], b[0]))) for x, a, b in questions(oracle)} == {
        (x, frozenset(pair)) for x in prompts for pair in ("ac", "bd")
    }


class Distant:
    """An oracle that keeps what it is asked ahead, and what it is asked for."""

    def __init__(self, inner):
        self.inner, self.antisymmetric, self.ahead, self.forgotten = inner, True, [], 0

    def ask_ahead(self, prompts, first, second):
        self.ahead.append(list(zip(prompts, first, second, strict=True)))

    def forget(self):
        self.forgotten += 1

    def prob(self, prompts, first, second):
        return self.inner.prob(prompts, first, second)


@pytest.mark.parametrize("ask", [None, torch.tensor([[False, True, False], [False] * 3, [False] * 3]).expand(3, 3, 3)])
def test_a_distant_oracle_is_asked_about_responses_while_others_are_sampled(words, oracle, ask):
    plain, arena = DuelArena(words(), oracle, 3, seed=5), DuelArena(words(), Distant(oracle), 3, seed=5)
    left = rows(plain.reset(), "a", "b", "c")
    expected = plain.play(Proposal(left, ask=ask))
    asked, before = oracle.calls[0], []
    oracle.calls.clear()

    def sampled():
        for b in (2, 0, 1):
            before.append(len(arena.oracle.ahead))
            yield b, left[b]

    arena.reset()
    duel = arena.play(Proposal(Arriving(sampled(), (3, 3)), ask=ask))
    assert before == [0, 1, 2]
    assert sorted(itertools.chain(*arena.oracle.ahead)) == sorted(asked)
    assert oracle.calls[0] == asked
    assert duel.left == left
    assert duel.self_play
    assert torch.equal(duel.prob, expected.prob)
    assert arena.state_dict() == plain.state_dict()
    assert arena.oracle.forgotten == 0


def test_questions_under_way_are_dropped_if_sampling_fails(words, oracle):
    arena = DuelArena(words(), Distant(oracle), 3, seed=5)
    left = rows(arena.reset(), "a", "b")

    def sampled():
        yield 1, left[1]
        raise ValueError("an illegal token")

    with pytest.raises(ValueError, match="an illegal token"):
        arena.play(Proposal(Arriving(sampled(), (3, 2))))
    assert len(arena.oracle.ahead) == arena.oracle.forgotten == 1


def test_pairs_of_two_seats_are_not_asked_ahead(words, oracle):
    arena = DuelArena(words(), Distant(oracle), 3, seed=5)
    left = rows(arena.reset(), "a", "b")
    duel = arena.play(Proposal(Arriving(iter(enumerate(left)), (3, 2)), left))
    assert duel.left == left
    assert arena.oracle.ahead == []


def test_an_asymmetric_oracle_is_found_later_too(arena, oracle):
    """The other order is looked at in plays 1, 2, 4, 8, ...: one more question each."""
    extras = []
    for _ in range(8):
        prompts = arena.reset()
        oracle.calls.clear()
        arena.play(Proposal(rows(prompts, "a"), rows(prompts, "b")))
        extras.append(len(questions(oracle)) - 3)
    assert [extra > 0 for extra in extras] == [True, True, False, True, False, False, False, True]


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
        (Proposal(right), "a single response a prompt has no other to meet"),
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
    with pytest.raises(ValueError, match=r"a method prob.*and function has none; oracles.make\('judge', of=FUNCTION\)"):
        DuelArena(words(), lambda prompt, first, second: 0.5, 1)


class Shy:
    """Leaves pairs unread whose letters are those of `silent`."""

    antisymmetric = leaves_unread = True

    def __init__(self, *silent):
        self.silent = silent

    def prob(self, prompts, first, second):
        unread = [{a[0], b[0]} in self.silent for a, b in zip(first, second, strict=True)]
        return torch.where(torch.tensor(unread), torch.nan, 0.5)


def test_unread_pairs_are_not_asked_ones_and_counted(words):
    arena = DuelArena(words(), Shy({"a", "b"}), 3, feedback="outcome", votes=2, seed=1)
    assert arena.unread_share == 0
    duel = arena.play(Proposal(rows(arena.reset(), "a", "b", "c")))
    assert duel.asked[:, 0, 1].tolist() == [False] * 3
    assert (duel.prob[:, 0, 1] == 0.5).all()
    assert duel.unread == 3
    assert arena.queries == 18, "their answers were paid for"
    assert arena.unread_share == pytest.approx(3 / 9)
    again = DuelArena(words(), Shy({"a", "b"}), 3, votes=2)
    again.load_state_dict(json.loads(json.dumps(arena.state_dict())))
    assert again.unread_share == arena.unread_share
    assert DuelArena(words(), Loud(), 3).unread_share is None


def test_a_duel_in_which_nothing_was_read_has_no_prompts(words):
    arena = DuelArena(words(), Shy({"a", "b"}), 3)
    duel = arena.play(Proposal(rows(arena.reset(), "a", "b")))
    assert (duel.prompts, duel.left, duel.rows) == ([], [], [])
    assert arena.unread_share == 1


def test_a_whole_distribution_needs_each_pair(words):
    arena = DuelArena(words(), Shy({"a", "b"}), 3)
    prompts = arena.reset()
    weight = torch.full((3, 2), 0.5, dtype=torch.float64)
    with pytest.raises(Unanswered, match="left 3 of 3 pairs unread, and each is needed here"):
        arena.play(Proposal(rows(prompts, "a", "b"), left_weight=weight))


class Loud(Shy):
    """Says that it always answers."""

    leaves_unread = False


def test_what_is_no_number_is_an_error_unless_the_oracle_may_leave_pairs_unread(words):
    arena = DuelArena(words(), Loud({"a", "b"}), 3)
    with pytest.raises(ValueError, match="Loud returned nan"):
        arena.play(Proposal(rows(arena.reset(), "a", "b")))
    with pytest.raises(Unanswered, match="left 1 of 1 pairs unread"):
        outcomes(Shy({"a", "b"}), ["x"], ["a"], ["b"], Key(0))
