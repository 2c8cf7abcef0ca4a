"""The rules on tensors: chance and outcomes are those of the arrays, bit by bit."""

import numpy as np
import pytest
import torch

from envs import TokenDuels, make_task
from envs.token_duel.duels_torch import TorchDuels
from oracles import make
from preference_duel.keyed_random import Stream, uniform
from preference_duel.keyed_random_torch import as_seeds
from preference_duel.keyed_random_torch import uniform as torch_uniform


def devices():
    return ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", devices())
def test_keyed_numbers_have_the_same_bits(device):
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**64, 5_000, dtype=np.uint64)
    seeds[:3] = 0, 2**63, 2**64 - 1
    episodes = rng.integers(0, 2**32, 5_000)
    for stream in Stream:
        mine = torch_uniform(as_seeds(seeds).to(device), stream, torch.from_numpy(episodes).to(device))
        assert mine.cpu().tolist() == uniform(seeds, int(stream), episodes).tolist()


def games(words, oracle):
    task = make_task("symbols", alphabet=3, length=3, prompts=4)
    finite = make("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    return {"free": (words(limit=4), oracle), "unpadded": (words(pad=False), oracle), "finite": (task, finite)}


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("feedback", ["outcome", "probability"])
@pytest.mark.parametrize("game", ["free", "unpadded", "finite"])
def test_every_step_is_that_of_the_arrays(words, oracle, device, feedback, game):
    task, judge = games(words, oracle)[game]
    arrays, tensors = TokenDuels(task, judge, 50, feedback), TorchDuels(task, judge, 50, feedback, device=device)
    assert (tensors._table is not None) == (game == "finite")
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**64, 50, dtype=np.uint64)
    for duels in (arrays, tensors):
        duels.seed(seeds)
        duels.reset()
    for _ in range(40):
        tokens = rng.integers(0, arrays.rules.vocab_size, (50, 2))
        over, judged = arrays.step(tokens), tensors.step(torch.from_numpy(tokens).to(device))
        assert over.tolist() == judged.tolist()
        assert arrays.rewards(over).tolist() == tensors.rewards(judged).tolist()
        assert arrays.masks().tolist() == tensors.masks().tolist()
        for name, values in arrays.get_state().items():
            mine = tensors.get_state()[name].cpu().numpy()
            inside = np.s_[..., :-1] if name == "board" else np.s_[...]  # the last column is scratch space
            mine = mine.view(np.uint64) if name == "seeds" else mine
            np.testing.assert_array_equal(mine[inside], values[inside], err_msg=name)
        rows = np.flatnonzero((arrays.outcome >= 0) & (rng.random(50) < 0.5))
        if rows.size:
            arrays.reset(rows)
            tensors.reset(torch.from_numpy(rows).to(device))


def test_random_tokens_are_legal_and_the_same():
    task = make_task("symbols", alphabet=3, length=2)
    oracle = make("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    arrays, tensors = TokenDuels(task, oracle, 30), TorchDuels(task, oracle, 30)
    chance = np.random.default_rng(0).random((30, 2))
    for duels in (arrays, tensors):
        duels.reset()
    assert arrays.random_tokens(chance).tolist() == tensors.random_tokens(torch.from_numpy(chance)).tolist()


def test_states_and_copies_go_on_alike(words, oracle):
    duels = TorchDuels(words(), oracle, 6)
    duels.seed(np.arange(6))
    duels.reset()
    plan = torch.randint(0, 7, (5, 6, 2), generator=torch.Generator().manual_seed(0))
    duels.step(plan[0])
    twin, state = duels.clone(), duels.get_state()

    def rest(one):
        for tokens in plan[1:]:
            one.step(tokens)
        return one.outcome.tolist(), one.board[..., :-1].tolist()

    ends = [rest(duels), rest(twin)]
    duels.set_state(state)
    ends.append(rest(duels))
    assert ends[0] == ends[1] == ends[2]


def test_bad_input_is_named(words, oracle):
    duels = TorchDuels(words(), oracle, 2, illegal="raise")
    with pytest.raises(RuntimeError, match="call reset"):
        duels.step(torch.ones(2, 2, dtype=torch.long))
    duels.reset()
    with pytest.raises(ValueError, match=r"tokens must be \[2, 2\] ids"):
        duels.step(torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="player_1 played the illegal token 5 at step 0"):
        duels.step(torch.tensor([[2, 2], [2, 5]]))
    with pytest.raises(ValueError, match="a seed must lie in"):
        duels.seed([-1, 3])
    with pytest.raises(ValueError, match="at least 1 duel"):
        TorchDuels(words(), oracle, 0)
    with pytest.raises(ValueError, match=r"state\['board'\] must be"):
        duels.set_state({**duels.get_state(), "board": torch.zeros(1)})
