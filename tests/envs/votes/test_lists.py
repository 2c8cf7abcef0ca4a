"""Lists of responses from files: what a row says of its pairs, and which lists are refused."""

import math

import pytest
import torch

from envs.offline import FileArena
from envs.tasks.finite import finite_task
from envs.votes.lists import ResponseList, load_lists
from envs.votes.options import ReadOptions
from envs.votes.preferences import load_preferences

SCORED = {"prompt": "x", "responses": ["a", "b", "c"], "scores": [2.0, 1.0, -0.5]}
RANKED = {"prompt": "x", "responses": ["a", "b", "c"], "ranking": [2, 3, 1]}
BARE = {(0, 1): 1.0, (0, 2): 0.0, (1, 2): 0.0}


def sigma(gap):
    return 1 / (1 + math.exp(-gap))


def test_scores_become_sigma_of_their_differences_and_ranks_certainties(write):
    lists, reading = load_lists(write(SCORED, RANKED))
    assert reading.formats == ["ranking", "ranked"]
    assert str(reading) == "FILE: 2 rows (ranking, ranked), 2 lists, 1 of them of a pair that came before"
    scored, ranked = lists
    assert scored.responses == ranked.responses == ("a", "b", "c")
    assert scored.prob == pytest.approx({(0, 1): sigma(1), (0, 2): sigma(2.5), (1, 2): sigma(1.5)})
    assert ranked == ResponseList("x", ("a", "b", "c"), BARE)
    assert [one.place for one in lists] == ["FILE:1", "FILE:2"]


def test_public_layouts_of_lists(write):
    responses = [{"response": text, "model": text, "overall_score": n} for text, n in (("a", 3), ("b", 1), ("c", 7))]
    answers = [{"answer": text, "model": text, "rank": n} for text, n in (("a", 2.0), ("b", 3.0), ("c", 1.0))]
    rows = (
        {"instruction": "x", "completions": responses},
        {"instruction": "x", "generations": ["a", "b", "c"], "ratings": [3, 1, 7], "model_names": ["m", "n", "o"]},
        {"prompt": "\n\nHuman: x\n\nAssistant: ", "answers": answers},
    )
    scored = {(0, 1): sigma(2), (0, 2): sigma(-4), (1, 2): sigma(-6)}
    for row, expected in zip(rows, (scored, scored, BARE), strict=True):
        (found,), _ = load_lists(write(row))
        assert (found.prompt.removeprefix("USER: "), found.responses) == ("x", ("a", "b", "c"))
        assert found.prob == pytest.approx(expected)


def test_a_comparison_is_a_list_of_two_and_a_list_many_comparisons(write):
    lists, _ = load_lists(write({"prompt": "x", "first": "a", "second": "b", "outcome": 0.25}))
    assert lists == [ResponseList("x", ("a", "b"), {(0, 1): 0.25})]
    pairs, _ = load_preferences(write(SCORED, RANKED))
    assert [one.outcome for one in pairs] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**RANKED, "ranking": [1, 2, 2]}, r"ranking must hold each of 1 \(the best\) to 3 once, .* got \[1, 2, 2\]"),
        ({**RANKED, "ranking": [1, 2, 4]}, "without ties and gaps"),
        ({**RANKED, "ranking": [0, 1, 2]}, "without ties and gaps"),
        ({**RANKED, "ranking": [1, 2]}, "responses, ranking and models must be of one length, got 3, 2, 3"),
        ({**SCORED, "scores": [1, 2]}, "responses, scores and models must be of one length, got 3, 2, 3"),
        ({**SCORED, "scores": [1, 2, "good"]}, r"responses\[2\] must have a number that ranks it, got 'good'"),
        ({**SCORED, "responses": ["a"]}, "responses must be a list of at least 2"),
        ({**SCORED, "responses": ["a", "a", "a"]}, "has no lists: both responses are the same"),
        ({**SCORED, "scores": [1, 1, 1]}, "every outcome is 1/2"),
    ],
)
def test_lists_that_say_nothing_are_refused(row, message, write):
    with pytest.raises(ValueError, match=rf"^FILE(:1)?: {message}" if "has no" in message else message):
        load_lists(write(row), ReadOptions(strict=True))


def arena_of(*lists, batch_size=None):
    task = finite_task("game", ("x",), ["a", "b", "c"], ["a", "b", "c"])
    return FileArena(task, lists, batch_size)


def test_a_list_is_played_against_itself():
    arena = arena_of(ResponseList("x", ("c", "a"), {(0, 1): 0.75}), ResponseList("x", ("a", "b", "c"), BARE))
    duel = arena.play()
    assert duel.self_play
    assert duel.given
    assert duel.feedback == "probability"
    short = [len({response.text for response in row}) for row in duel.left].index(2)
    assert [response.text for response in duel.left[short]] == ["c", "a", "c"]
    assert duel.left_weight[short].tolist() == [0.5, 0.5, 0]
    assert duel.asked[short].tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert duel.prob[short, 0, 1] == 0.75
    torch.testing.assert_close(duel.prob + duel.prob.mT, torch.ones_like(duel.prob))
    assert duel.prob[1 - short].tolist() == [[0.5, 1, 0], [0, 0.5, 0], [1, 1, 0.5]]
    assert arena.queries == 4  # comparisons, not lists
    again = arena_of(*arena.given)
    again.load_state_dict(arena.state_dict())
    assert again.queries == 4


def test_equal_responses_of_a_list_are_not_compared():
    duel = arena_of(ResponseList("x", ("a", "a", "b"), {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0})).play()
    assert duel.comparisons[0].nonzero().tolist() == [[0, 2], [1, 2]]
    with pytest.raises(ValueError, match="has the response 'd', which the task does not list"):
        arena_of(ResponseList("x", ("a", "d"), {(0, 1): 1.0}))
