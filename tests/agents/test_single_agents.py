"""Agents of single responses: the distribution that each converges to, and what it reads of thumbs, duels and files."""

import pytest
import torch

from agents.check import check_agent
from agents.ipo import IPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.singles.dro import DROConfig
from agents.singles.kto import KTOConfig
from agents.singles.single_agent import labels
from envs import DuelArena, Proposal, make_task
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from envs.votes.thumbs import Thumb
from oracles.table import TableOracle
from preference_duel.types import Completion, Duel
from tests.matrix_games import COMAL, G3_REWARD, G3_START, RESPONSES, START, law, play

SOLVED = OptimiserConfig("lbfgs")
FIXED = {"average": False, "refresh_every": 10**9}
"""One sampling distribution for good."""
EXACT = {"optimiser": SOLVED, **FIXED}


def steps(rate):
    return OptimiserConfig("sgd", learning_rate=rate, warmup=0, max_grad_norm=None)


LIKED = (1.0, 1.0, 0.0)
TASK = finite_task("game", ("x",), RESPONSES, RESPONSES)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def thumbs(label, sampling=G3_START):
    """The duel of a whole sampling distribution whose responses have these labels."""
    label, hidden = double(*label)[None, :, None], [[Completion("")]]
    responses, one = [[Completion(text) for text in RESPONSES]], torch.ones(1, 1, dtype=torch.float64)
    return Duel(["x"], responses, hidden, label, sampling[None], one, label >= 0, "thumb", 1, exact=True)


def solved(config, duel, start=G3_START):
    """The agent that has learned from a duel again and again until it no longer moves, and its last scalars."""
    agent = config.build(policy=TabularPolicy(TASK, start, exact=True))
    scalars = {}
    for _ in range(500):
        before = law(agent.policy)
        scalars = agent.update(duel)
        if (law(agent.policy) - before).abs().max() < 1e-7:
            break
    return agent, scalars


def thumb_arena(start=START, exact=True, payoff=COMAL, batch_size=None, seed=0):
    hidden = TabularPolicy(TASK, start, exact=exact).frozen()
    return DuelArena(TASK, TableOracle(payoff, ("x",), RESPONSES), batch_size, "thumb", seed=seed, hidden=hidden)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_kto_restricts_the_start_to_what_is_liked_at_any_beta(beta):
    agent, scalars = solved(KTOConfig(beta=beta, **EXACT), thumbs(LIKED))
    assert law(agent.policy).tolist() == pytest.approx([0.625, 0.375, 0], abs=1e-5)
    assert scalars["loss/point"] == pytest.approx(0.223144, abs=1e-5)


@pytest.mark.parametrize(
    ("beta", "liked"), [(1e-4, 0.869565), (0.1, 0.869970), pytest.param(1.0, 0.982212, marks=pytest.mark.slow)]
)
def test_kto_goes_to_mu_times_the_positive_part_of_2q_minus_1_as_beta_goes_to_0(beta, liked):
    """At its fixed point what is disliked is gone, and everything else is pulled alike."""
    label = double(0.9, 0.6, 0.2)
    agent, _ = solved(KTOConfig(beta=beta, **EXACT), thumbs(label.tolist()))
    policy = law(agent.policy)
    assert policy.tolist() == pytest.approx([liked, 1 - liked, 0], abs=1e-5)
    ratio = (policy / G3_START).log()[:2]
    gain = torch.sigmoid(beta * (ratio - (policy[:2] * ratio).sum()))
    pull = G3_START[:2] * (2 * label[:2] - 1) * gain * (1 - gain) / policy[:2]
    assert pull[0].item() == pytest.approx(pull[1].item(), rel=1e-3)
    if beta < 0.01:
        limit = G3_START * (2 * label - 1).clamp(min=0)
        assert torch.allclose(policy, limit / limit.sum(), atol=1e-5)


def test_ktos_limit_is_the_sampling_distributions_whatever_the_reference():
    for start in (G3_START, double(0.2, 0.2, 0.6)):
        sampling = double(0.3, 0.6, 0.1)
        agent, _ = solved(KTOConfig(beta=1e-4, **EXACT), thumbs((0.9, 0.6, 0.2), sampling), start)
        assert law(agent.policy).tolist() == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-4)


@pytest.mark.parametrize("sampling", [(0.5, 0.3, 0.2), (0.2, 0.2, 0.6)])
def test_dro_has_one_optimum_whatever_the_sampling_distribution(sampling):
    config = DROConfig(tau=0.5, value=steps(1.0), optimiser=steps(4.0), **FIXED)
    agent, scalars = solved(config, thumbs(G3_REWARD.tolist(), double(*sampling)))
    assert law(agent.policy).tolist() == pytest.approx([0.153357, 0.679897, 0.166747], abs=1e-5)
    assert scalars["loss/point"] == pytest.approx(0.590921, abs=1e-5)


@pytest.mark.parametrize(
    ("tau", "expected", "value"),
    [(0.5, (0.157511, 0.452952, 0.389537), 0.509411), (0.1, (0.041139, 0.207107, 0.751755), None)],
)
def test_dro_on_thumbs_against_the_start_ends_where_offline_ipo_does(tau, expected, value):
    """Two kinds of feedback, one distribution: ref exp(q / tau) / Z, q = (.39, .46, .64) on COMAL."""
    config = DROConfig(tau=tau, value=steps(1.0), optimiser=steps(1 / tau**2), **FIXED)
    arena = thumb_arena()
    arena.reset()
    policy = TabularPolicy(TASK, START, exact=True)
    agent, scalars = solved(config, arena.play(config.build(policy=policy).propose(["x"])), START)
    assert law(agent.policy).tolist() == pytest.approx(expected, abs=1e-5)
    assert value is None or scalars["loss/point"] == pytest.approx(value, abs=1e-5)
    ipo = IPOConfig(tau=tau, average=False, optimiser=SOLVED).build(policy=TabularPolicy(TASK, START, exact=True))
    pairs = DuelArena(TASK, TableOracle(COMAL, ("x",), RESPONSES), None, "probability")
    ipo.update(pairs.play(ipo.propose(pairs.reset())))
    assert torch.allclose(law(agent.policy), law(ipo.policy), rtol=0, atol=1e-5)


def test_labels_of_thumbs_duels_and_pairs():
    policy = TabularPolicy(TASK, START, exact=True)
    arena, alone = thumb_arena(), Proposal(*policy.draw(["x"], 1, None)[:1], left_weight=START[None])
    arena.reset()
    label, weight = labels(arena.play(alone))
    assert label[0].tolist() == pytest.approx([0.39, 0.46, 0.64])
    assert torch.equal(weight[0], START)
    pair = FileArena(TASK, [Preference("x", "a", "b", 0.8)], None).play()
    assert [part.tolist() for part in labels(pair)] == [[[0.8, pytest.approx(0.2)]], [[0.5, 0.5]]]
    drawn = [[Completion(text) for text in RESPONSES]]
    pairs = DuelArena(TASK, TableOracle(COMAL, ("x",), RESPONSES), None, "probability")
    pairs.reset()
    ask = torch.zeros(1, 3, 3, dtype=torch.bool)
    ask[0, 0, 1] = True
    label, weight = labels(pairs.play(Proposal(drawn, ask=ask)))
    assert label[0, :2].tolist() == pytest.approx([0.1, 0.9])
    assert weight.tolist() == [[0.5, 0.5, 0.0]]


def test_a_file_of_thumbs_and_the_pairs_that_they_are_halves_of_teach_the_same():
    """Chosen is 1 and rejected 0, as KTO's authors convert pairs; z0 looks at the responses of the other prompt."""
    task = finite_task("game", ("x", "y"), RESPONSES, RESPONSES)
    found = []
    for rows in (
        [Preference("x", "a", "b", 1.0), Preference("y", "c", "a", 1.0)],
        [Thumb("x", "a", 1.0), Thumb("x", "b", 0.0), Thumb("y", "c", 1.0), Thumb("y", "a", 0.0)],
    ):
        agent = DROConfig(average=False, optimiser=OptimiserConfig("sgd", max_grad_norm=None)).build(
            policy=TabularPolicy(task, START)
        )
        agent.update(FileArena(task, rows, None).play())
        with torch.no_grad():
            found.append(agent.policy.log_probs(["x", "y"]))
    assert torch.allclose(*found, atol=1e-12)
    moved = found[0].exp() - START
    assert moved[0, 0] > 0 > moved[0, 1]
    assert moved[1, 2] > 0 > moved[1, 0]


def test_z0_of_given_responses_is_their_mean_log_ratio_at_another_prompt():
    task = finite_task("game", ("x", "y"), RESPONSES, RESPONSES)
    config = KTOConfig(average=False)
    agent = config.build(policy=TabularPolicy(task, START))
    with torch.no_grad():
        agent.policy.logits += double([0.0, 0.0, 2.0], [1.5, 0.0, 0.0])
        after = agent.policy.log_probs(["x", "y"])
    rows = [Thumb("x", "a", 1.0), Thumb("y", "c", 0.0)]
    duel = FileArena(task, rows, None).play()
    ratio = {p: (after[i] - START.log()) for i, p in enumerate(("x", "y"))}
    expected = (ratio["x"][2] + ratio["y"][0]).item() / 2
    assert expected > 0
    assert agent.update(duel)["loss/point"] == pytest.approx(expected)
    alone = FileArena(task, rows, 1)
    with pytest.raises(ValueError, match="take a batch_size of at least 2"):
        agent.update(alone.play())


def test_z0_of_own_samples_is_their_mean_log_ratio_and_never_below_0():
    agent, arena = KTOConfig(average=False).build(policy=TabularPolicy(TASK, START)), thumb_arena(exact=False)
    assert play(agent, arena, 1)["loss/point"] == 0
    scalars = play(agent, arena, 1)
    assert scalars["loss/point"] == pytest.approx(max(0.0, scalars["policy/kl"]))


@pytest.mark.parametrize("config", [KTOConfig(), DROConfig(refresh_every=3)], ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("exact", [True, False])
def test_agents_of_single_responses_keep_the_contract_on_thumbs(config, exact):
    check_agent(config.build(policy=TabularPolicy(TASK, START, exact=exact)), thumb_arena(exact=exact))


@pytest.mark.parametrize("config", [KTOConfig(average=False), DROConfig(average=False)], ids=["kto", "dro"])
def test_it_learns_from_texts_by_a_language_model(config):
    """A liked answer becomes likelier against a disliked one; the value function is the policy's own copy."""
    task = make_task("chat")
    prompts, texts = task.prompts[:2], ("Pump the tires.", "Water the tomatoes.")
    rows = [Thumb(prompt, text, float(text == texts[0])) for prompt in prompts for text in texts]
    agent, arena = config.build(policy=TinyConfig().build(task=task)), FileArena(task, rows, None)
    responses = [[Completion(text) for text in texts]] * 2
    with torch.no_grad():
        before = agent.policy.logprob(prompts, responses)
    for _ in range(3):
        scalars = agent.update(arena.play())
    with torch.no_grad():
        after = agent.policy.logprob(prompts, responses)
    assert "policy/kl" not in scalars
    assert ((after - before) @ torch.tensor([1.0, -1.0]) > 0).all()


def test_a_loss_of_pairs_refuses_thumbs():
    arena = thumb_arena(exact=False)
    agent = IPOConfig().build(policy=TabularPolicy(TASK, START))
    with pytest.raises(ValueError, match="a thumb shows one; take an agent such as kto"):
        agent.update(arena.play(agent.propose(arena.reset())))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (KTOConfig, {"beta": 0.0}, "beta must be positive"),
        (KTOConfig, {"lambda_u": -1.0}, "lambda_u must be positive"),
        (DROConfig, {"tau": 0.0}, "tau must be positive"),
        (DROConfig, {"responses": 1}, "responses must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_nothing_is_learned_of_a_prompt_that_nobody_judged():
    drawn = [[Completion(text) for text in RESPONSES]]
    pairs = DuelArena(TASK, TableOracle(COMAL, ("x",), RESPONSES), None, "probability")
    pairs.reset()
    duel = pairs.play(Proposal(drawn, ask=torch.zeros(1, 3, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match="some prompt has no judged response"):
        labels(duel)
