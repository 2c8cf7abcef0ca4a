"""Stable-Baselines3's algorithms as agents: what they see, whom they play, what they find."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO

import envs
from agents.check import check_agent
from agents.policies.tabular import TabularPolicy
from agents.registry import make, make_policy
from agents.sb3.pool import SnapshotPool
from agents.sb3.rollout import gains
from agents.sb3.sb3_config import PoolConfig
from envs import Completion, DuelArena, make_task
from envs.games import exploitability, payoff_matrix
from envs.tasks.finite import finite_task
from oracles import make as make_oracle
from oracles.table import TableOracle
from preference_duel.keyed_random import Key, Stream
from runners.run.cli import parse

KINDS = {"ppo": PPO, "maskable_ppo": MaskablePPO, "trpo": TRPO, "a2c": A2C, "dqn": DQN}


def sharpened(policy, seed=0):
    """Makes a fresh network's law uneven."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    policy.exploration.clamp_(max=0.3)
    return policy


def built(name, task, seed=0, **fields):
    return make(name, policy=make_policy("sb3", task=task, seed=seed, algorithm=name), seed=seed, **fields)


@pytest.fixture(params=["finite", "free"])
def game(request, words, oracle):
    """A task and its oracle; responses of the free one may end early."""
    if request.param == "free":
        return words(), oracle
    task = make_task("symbols", alphabet=3, length=3, prompts=2)
    return task, make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)


@pytest.mark.parametrize("name", KINDS)
def test_the_contract_holds(name, game):
    task, judge = game
    check_agent(built(name, task, pool=PoolConfig(renew_every=1, size=2)), DuelArena(task, judge, 6))


@pytest.mark.parametrize("name", KINDS)
def test_responses_come_as_often_as_the_law_says(name, words):
    task = words(limit=2)
    policy = sharpened(make_policy("sb3", task=task, algorithm=name))
    every = ["", "a", "b", "c", *(x + y for x in "abc" for y in "abc")]
    with torch.no_grad():
        law = policy.logprob(["pq"], [[Completion(text) for text in every]])[0].double().exp()
    assert law.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = [response.text for response in policy.draw(["pq"], 20_000, Key(3))[0][0]]
    shares = torch.tensor([drawn.count(text) / 20_000 for text in every])
    assert (shares - law).abs().max() < 0.015


def test_draws_do_not_depend_on_the_batch(game):
    task, _ = game
    policy = sharpened(make_policy("sb3", task=task))
    prompts = list(task.prompts[:2])
    both, _ = policy.draw(prompts, 3, Key(0))
    assert policy.draw(prompts[:1], 3, Key(0))[0][0] == both[0]
    assert policy.draw(prompts, 1, Key(0))[0] == [[row[0]] for row in both]


def test_logprob_is_differentiable_and_copies_and_means_are_what_they_say(game):
    task, _ = game
    policy = sharpened(make_policy("sb3", task=task))
    said, _ = policy.draw(task.prompts, 2, Key(0))
    policy.logprob(task.prompts, said).sum().backward()
    assert all(p.grad is not None for name, p in policy.named_parameters() if "value" not in name)
    frozen = policy.frozen()
    assert torch.equal(frozen.logprob(task.prompts, said), policy.logprob(task.prompts, said))
    assert not any(p.requires_grad for p in frozen.parameters())
    other = sharpened(make_policy("sb3", task=task), seed=9)
    mean = copy.deepcopy(policy)
    mean.blend(other, 0.25)
    for one, a, b in zip(mean.parameters(), policy.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, 0.75 * a + 0.25 * b, atol=1e-6)
    with pytest.raises(TypeError, match="same shape"):
        policy.blend(make_policy("sb3", task=task, width=3), 0.5)
    with pytest.raises(ValueError, match="may not stand at place 1"):
        policy.logprob(task.prompts[:1], [[Completion("?", (task.tokenizer.encode(task.prompts[0])[0],))]])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_learned_from_is_what_the_gymnasium_view_shows(name, game):
    task, judge = game
    agent = built(name, task, seed=4)
    sharpened(agent.policy)
    arena, view = (
        DuelArena(task, judge, 1, seed=11),
        gymnasium.make(envs.registration.DUEL, task=task, oracle=judge, obs="flat", mask="info"),
    )
    for episode in range(20):
        agent._play.updates = episode
        proposal = agent.propose(arena.reset())
        duel = arena.play(proposal)
        found = agent._play.transitions()
        view.unwrapped.set_opponent([proposal.right[0][0].text])
        board, info = view.reset(seed=11 if episode == 0 else None)
        assert found.starts.tolist() == [True] + [False] * (len(found.rows) - 1)
        assert found.ends.tolist() == [False] * (len(found.rows) - 1) + [True]
        for step, action in enumerate(found.actions):
            assert board.tolist() == found.boards[step].tolist()
            assert info["action_mask"].tolist() == found.masks[step].tolist()
            board, reward, over, _, info = view.step(action)
            assert board.tolist() == found.after[step].tolist()
        while not over:  # the other player still speaks
            _, reward, over, _, info = view.step(task.tokenizer.eos_id)
        assert reward == gains(duel)[0]


@pytest.mark.parametrize("name", ["ppo", "maskable_ppo", "trpo", "a2c"])
def test_each_token_is_charged_its_divergence_from_the_start(name, game):
    task, judge = game
    plain, charged = built(name, task), built(name, task, tau=0.5)
    arena = DuelArena(task, judge, 5)
    for agent in (plain, charged):
        sharpened(agent.policy, seed=2)
    duel = arena.play(plain.propose(arena.reset()))
    found, gain = plain._play.transitions(), gains(duel)
    buffers = [agent._filled(found, gain) for agent in (plain, charged)]
    assert buffers[0].rewards[:, 0].tolist() == np.where(found.ends, gain[found.rows], 0).astype(np.float32).tolist()
    log_policy, log_start = (charged._read(policy, found)[1] for policy in (charged.policy, charged._play.start))
    expected = buffers[0].rewards[:, 0] - 0.5 * (log_policy - log_start).numpy()
    assert buffers[1].rewards[:, 0] == pytest.approx(expected, abs=1e-6)
    if name == "maskable_ppo":  # its tokens are its responses
        by_response = np.bincount(found.rows, weights=log_policy.numpy())
        said = plain.policy.logprob(duel.prompts, duel.left).detach().numpy()[:, 0]
        assert by_response == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize("target_kl", [0.01, 0.001])
def test_a_step_of_trpo_stays_within_its_trust_region(target_kl, game):
    task, judge = game
    agent, arena = built("trpo", task, target_kl=target_kl), DuelArena(task, judge, 16)
    found = [agent.update(arena.play(agent.propose(arena.reset()))) for _ in range(3)]
    assert all(0 <= one["loss/approx_kl"] < target_kl for one in found)
    assert max(one["loss/approx_kl"] for one in found) > target_kl / 4
    assert max(one["loss/line_search"] for one in found) == 1


def test_returns_of_a_buffer_end_with_their_response(game):
    task, judge = game
    agent = built("a2c", task)  # gae_lambda 1, gamma 1: the return of every token is its response's verdict
    arena = DuelArena(task, judge, 7)
    duel = arena.play(agent.propose(arena.reset()))
    found, gain = agent._play.transitions(), gains(duel)
    assert agent._filled(found, gain).returns[:, 0] == pytest.approx(gain[found.rows], abs=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_model_plays_the_gymnasium_view(name, tmp_path):
    task = make_task("symbols", alphabet=3, length=2, prompts=2)
    policy = sharpened(make_policy("sb3", task=task, algorithm=name))
    policy.exploration.zero_()
    policy.save(tmp_path)
    model = KINDS[name].load(tmp_path / "model.zip")
    view = gymnasium.make(envs.registration.DUEL, task=task, oracle="cyclic", obs="flat", opponent=model)
    key = Key(0, 0, Stream.OPPONENT)
    for seed in range(12):
        view.reset(seed=seed)
        prompt = view.unwrapped.solo.duels.task.prompts[view.unwrapped.solo.duels.prompts[0]]
        ((said,),), _ = policy.draw([prompt], 1, Key(seed, 0, key.stream))
        assert tuple(view.unwrapped.solo.responses[0].tolist()) == said.tokens


@pytest.mark.slow
def test_the_pool_keeps_a_uniform_sample_of_all_snapshots():
    task = make_task("symbols", alphabet=2, length=1, prompts=1)
    policy = TabularPolicy(task)
    counts = np.zeros(31)
    for seed in range(300):
        pool = SnapshotPool(PoolConfig(renew_every=2, size=5), policy, seed)
        for update in range(1, 61):
            with torch.no_grad():
                policy.logits.fill_(update)
            pool.renew(policy, update)
        assert (pool.taken, len(pool.members)) == (31, 5)
        assert pool.latest.logits[0, 0] == 60
        kept = [0 if member.logits[0, 0] < 0 else int(member.logits[0, 0]) // 2 for member in pool.members]
        assert len(set(kept)) == 5
        counts[kept] += 1
        with torch.no_grad():
            policy.logits.fill_(-1.0)
    assert abs(counts / 300 - 5 / 31).max() < 0.09
    assert abs(counts[:10].sum() / 1500 - 10 / 31) < 0.05


def test_the_opponent_is_the_latest_or_the_pool():
    task = make_task("symbols", alphabet=2, length=1, prompts=1)
    for against in ("pool", "latest"):
        agent = built("ppo", task, pool=PoolConfig(against=against, renew_every=1))
        assert agent._play.pool.opponent is (agent.average if against == "pool" else agent._play.pool.latest)


def test_agents_bring_their_own_policy():
    for name in KINDS:
        settings = parse(["--agent", name, "--task", "symbols"]).settings
        assert settings.names["policy"] == "sb3"
        assert settings.configs["policy"].algorithm == name
    assert parse(["--agent", "ipo", "--task", "symbols"]).settings.names["policy"] == "tabular"


def test_bad_input_is_named(words, oracle):
    task = words()
    finite = make_task("symbols", alphabet=2, length=1)
    with pytest.raises(ValueError, match="agent 'ppo' trains its own network, got TabularPolicy; leave --policy out"):
        make("ppo", policy=TabularPolicy(finite))
    with pytest.raises(ValueError, match="got a2c; leave --policy out"):
        make("ppo", policy=make_policy("sb3", task=task, algorithm="a2c"))
    for fields, message in (
        ({"tau": -1.0}, "tau must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"gamma": 1.5}, "gamma must lie"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            built("ppo", task, **fields)
    for fields, message in (
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
        ({"exploration": 0.0}, r"must lie in \(0, 1\]"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            built("dqn", task, **fields)
    for fields, message in (
        ({"against": "me"}, "against must be one of"),
        ({"size": 0}, "pool.size must be at least 1"),
        ({"renew_every": 0}, "pool.renew_every must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            PoolConfig(**fields)
    for fields, message in (({"algorithm": "sac"}, "algorithm must be one of"), ({"width": 0}, "at least 1, got 0")):
        with pytest.raises(ValueError, match=message):
            make_policy("sb3", task=task, **fields)
    agent = built("dqn", task)
    arena = DuelArena(task, oracle, 2)
    duel = arena.play(built("ppo", task).propose(arena.reset()))
    with pytest.raises(RuntimeError, match="needs the duel of a propose"):
        agent.update(duel)


@pytest.mark.slow
def test_maskable_ppo_reaches_nine_tenths_of_the_best_response():
    """256 strings, a Bradley-Terry reward without structure; payoff is the win rate against the start."""
    task = make_task("symbols", alphabet=4, length=4)
    oracle = make_oracle("bt", prompts=task.all_prompts, responses=task.response_texts)
    agent = built("maskable_ppo", task)
    payoffs = payoff_matrix(oracle, task.prompts, task.response_texts)
    against = torch.einsum("bnm,bm->bn", payoffs, agent.policy.distribution(task.prompts, task.responses))
    arena = DuelArena(task, oracle, 64)
    for _ in range(180):
        agent.update(arena.play(agent.propose(arena.reset())))
    payoff = (agent.policy.distribution(task.prompts, task.responses) * against).sum(1).mean()
    assert payoff > 0.9 * against.max(1).values.mean()


@pytest.mark.slow
def test_self_play_cycles_while_the_mean_of_its_pool_is_near_the_equilibrium():
    payoff = torch.tensor([[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]], dtype=torch.float64)
    texts = ["r", "p", "s"]
    task = finite_task("rps", ["x"], texts, texts)
    agent = built("maskable_ppo", task, pool=PoolConfig(against="latest", renew_every=1, size=200))
    arena = DuelArena(task, TableOracle(payoff, ["x"], texts), 64, seed=1)
    last, average = [], []
    for step in range(200):
        agent.update(arena.play(agent.propose(arena.reset())))
        if step >= 100:
            last.append(exploitability(payoff, agent.policy.distribution(["x"], task.responses)[0]).item())
            average.append(exploitability(payoff, agent.average.distribution(["x"], task.responses)[0]).item())
    assert np.mean(last) > 0.25
    assert np.mean(average) < 0.1
