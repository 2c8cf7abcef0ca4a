"""Regrets of a log of duels on games where they can be counted, and queries until a gap has closed."""

import pytest
import torch

from envs.games import borda_regret, copeland_regret, exploitability, queries_to, von_neumann_regret
from tests.envs.games.matrices import COMAL

TRAP = torch.tensor(  # the first beats all, barely; the second crushes the rest
    [[0.5, 0.51, 0.51, 0.51], [0.49, 0.5, 0.9, 0.9], [0.49, 0.1, 0.5, 0.5], [0.49, 0.1, 0.5, 0.5]], dtype=torch.float64
)


def duels(count, responses, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(responses, (count,), generator=generator) for _ in range(2)]


def test_von_neumann_regret_is_the_exploitability_of_the_average_play():
    first, second = duels(9000, 3)
    regret = von_neumann_regret(COMAL, first, second)
    for t in (1, 4096, 4097, 9000):
        played = torch.bincount(torch.cat([first[:t], second[:t]]), minlength=3) / (2 * t)
        assert regret[t - 1].item() / t == pytest.approx(exploitability(COMAL, played.double()).item(), abs=1e-6)


def test_von_neumann_regret_has_a_comparator_for_each_prompt():
    games = torch.stack([COMAL, TRAP[:3, :3]])
    first, second = duels(500, 3)
    prompts, _ = duels(500, 2, seed=1)
    alone = [von_neumann_regret(games[b], first[prompts == b], second[prompts == b])[-1] for b in (0, 1)]
    assert von_neumann_regret(games, first, second, prompts)[-1].item() == pytest.approx(sum(alone).item())


def test_copeland_and_borda_name_different_winners():
    always = torch.zeros(10, dtype=torch.long), torch.zeros(10, dtype=torch.long)
    assert copeland_regret(TRAP, *always)[-1].item() == 0
    borda = TRAP.sum(-1).sub(0.5) / 3
    assert borda_regret(TRAP, *always)[-1].item() == pytest.approx(10 * (borda[1] - borda[0]).item())
    crushing = torch.ones(10, dtype=torch.long), torch.ones(10, dtype=torch.long)
    assert borda_regret(TRAP, *crushing)[-1].item() == 0
    assert copeland_regret(TRAP, *crushing)[-1].item() == pytest.approx(10 / 3)


def test_a_mixed_pair_costs_the_mean_of_both():
    first, second = torch.tensor([0]), torch.tensor([3])
    assert copeland_regret(TRAP, first, second).tolist() == pytest.approx([(1 - (1 + 1 / 6) / 2)])


def test_no_duels_cost_nothing():
    none = torch.zeros(0, dtype=torch.long)
    assert [len(regret(COMAL, none, none)) for regret in (von_neumann_regret, copeland_regret, borda_regret)] == [0] * 3


def test_queries_to_a_tenth_of_the_first_gap():
    assert queries_to([0, 64, 128, 192], [0.5, 0.2, 0.05, 0.06]) == 128
    assert queries_to([0, 64], [0.5, 0.2]) is None
    assert queries_to([0, 64], [0.5, 0.2], share=0.5) == 64
    with pytest.raises(ValueError, match="one gap for each"):
        queries_to([0], [])
    with pytest.raises(ValueError, match="share must lie"):
        queries_to([0], [1.0], share=1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((COMAL, torch.tensor([3]), torch.tensor([0])), r"first must lie in 0..2, got 3..3"),
        ((COMAL, torch.tensor([0]), torch.tensor([0, 1])), "second must hold one integer for each duel"),
        ((COMAL, torch.tensor([0.5]), torch.tensor([0])), "first must hold one integer"),
        ((torch.stack([COMAL, COMAL]), torch.tensor([0]), torch.tensor([0])), "pass the prompt of each duel"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        von_neumann_regret(*arguments)
