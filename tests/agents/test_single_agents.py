"""Agents of single responses: the distribution that each converges to, and what it reads of thumbs, duels and files."""

import dataclasses

import pytest
import torch

from agents import losses
from agents.check import check_agent
from agents.ipo import IPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm_config import TinyConfig
from agents.policies.tabular import TabularPolicy
from agents.sft import SFTConfig
from agents.singles.bco_unpaired import BCOUnpairedConfig
from agents.singles.d2o import D2OConfig
from agents.singles.dro import DROConfig
from agents.singles.kimi import KimiConfig
from agents.singles.kto import KTOConfig
from agents.singles.npo import NPOConfig
from agents.singles.single_agent import labels
from envs import DuelArena, Proposal, make_task
from envs.offline import FileArena, Preference
from envs.tasks.finite import finite_task
from envs.votes.lists import ResponseList
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


LABELS = double(0.9, 0.6, 0.2)


def final(config, label=LABELS):
    """The distribution at which an agent ends from thumbs of the start, and its log-ratios."""
    agent, _ = solved(config, thumbs(label.tolist()))
    policy = law(agent.policy)
    return policy, (policy / G3_START).log(), agent


def require_alike(pull):
    assert torch.allclose(pull, pull.mean().expand(3), rtol=1e-3, atol=0)


def test_kimis_exact_minimiser_is_not_hedge():
    """Its log-ratios u solve u + k e^u = (q - mean q) / tau; Hedge's have k = 0."""
    policy, ratio, _ = final(KimiConfig(tau=0.5, **EXACT))
    advantage = (LABELS - (G3_START * LABELS).sum()) / 0.5
    k = (advantage - ratio) / ratio.exp()
    require_alike(k)
    assert k[0].item() == pytest.approx(0.105700, abs=1e-5)
    assert policy.tolist() == pytest.approx([0.685227, 0.239687, 0.075086], abs=1e-5)


def test_kimi_learns_nothing_from_one_response_and_says_so():
    agent = KimiConfig().build(policy=TabularPolicy(TASK, START))
    with pytest.raises(ValueError, match="the mean of one response tells nothing: take lists or pairs"):
        agent.update(FileArena(TASK, [Thumb("x", "a", 1.0)], None).play())


def test_kimi_takes_log_ratios_to_the_policy_that_samples():
    agent, arena = KimiConfig(average=False).build(policy=TabularPolicy(TASK, START)), thumb_arena(exact=False)
    assert agent.reference is agent.opponent
    assert "policy/kl" not in play(agent, arena, 3)
    assert not torch.equal(law(agent.policy), law(agent.opponent))
    play(agent, arena, 1)
    assert torch.equal(law(agent.policy), law(agent.opponent))


def test_npo_balances_what_is_liked_with_what_is_not():
    """Where mu (q - 2 (1 - q) sigma(beta r)) is proportional to pi."""
    policy, ratio, _ = final(NPOConfig(beta=0.5, optimiser=steps(10.0), **FIXED))
    require_alike(G3_START * (LABELS - 2 * (1 - LABELS) * torch.sigmoid(0.5 * ratio)) / policy)
    assert policy.tolist() == pytest.approx([0.831761, 0.164552, 0.003687], abs=1e-5)


@pytest.mark.parametrize(("policy", "last"), [(G3_START, 0), (double(0.01, 0.01, 0.98), 2)])
def test_npo_alone_ends_at_one_response_and_any_will_do(policy, last):
    """Nothing holds it: from the start it is the most liked one, from near c it is c."""
    agent = NPOConfig(beta=0.5, retain=0.0, **EXACT).build(policy=TabularPolicy(TASK, G3_START, exact=True))
    with torch.no_grad():
        agent.policy.logits.copy_(policy.log())
    agent.update(thumbs(LABELS.tolist()))
    assert law(agent.policy)[last] > 0.999


def test_sft_ends_at_the_frequencies_of_a_file():
    """Of demonstrations, and of the winners of pairs; a share of votes is as much of a win."""
    pairs = [("a", "b", 1.0), ("a", "c", 1.0), ("b", "a", 0.9), ("c", "b", 0.6)]
    rows = [Thumb("x", text, 1.0) for text in "aaabbcccccc"], [Preference("x", *pair) for pair in pairs]
    for given, frequencies in zip(rows, ([3 / 11, 2 / 11, 6 / 11], [2.1 / 4, 1.3 / 4, 0.6 / 4]), strict=True):
        agent = SFTConfig(average=False, optimiser=SOLVED).build(policy=TabularPolicy(TASK, START, exact=True))
        agent.update(FileArena(TASK, given, None).play())
        assert law(agent.policy).tolist() == pytest.approx(frequencies, abs=1e-5)


def test_sft_on_its_own_winners_is_a_step_of_the_replicator():
    """The winners of pairs of samples are distributed as 2 W mu."""
    config = SFTConfig(average=False, optimiser=SOLVED)
    agent, arena = config.build(policy=TabularPolicy(TASK, START, exact=True)), thumb_arena()
    pairs = DuelArena(TASK, TableOracle(COMAL, ("x",), RESPONSES), None, "probability")
    scalars = agent.update(pairs.play(agent.propose(pairs.reset())))
    assert law(agent.policy).tolist() == pytest.approx((2 * START * (COMAL @ START)).tolist(), abs=1e-5)
    assert "policy/kl" not in scalars
    agent.update(arena.play(agent.propose(arena.reset())))


def test_d2o_ends_where_every_disliked_response_is_led_alike():
    """At alpha = beta: (1 - q) sigma(beta (r - mean r)) is one number S for all of them."""
    policy, ratio, _ = final(D2OConfig(beta=0.5, alpha=0.5, **EXACT))
    share = (1 - LABELS) * torch.sigmoid(0.5 * (ratio - (G3_START * ratio).sum()))
    require_alike(share)
    logit = torch.logit(share.mean() / (1 - LABELS))
    assert (G3_START * logit).sum().item() == pytest.approx(0, abs=1e-5)
    assert policy.tolist() == pytest.approx([0.998251, 0.001548, 0.000201], abs=1e-5)


def test_d2o_with_one_sample_is_dpo_of_it_against_the_disliked_response():
    agent = D2OConfig(average=False, optimiser=steps(1.0)).build(policy=TabularPolicy(TASK, START))
    with torch.no_grad():
        agent.policy.logits += double(1.0, 0.0, -1.0)
        agent.opponent.draw = lambda prompts, count, key: ([[Completion("b")]], torch.ones(1, 1, dtype=torch.float64))
        ratio = agent.policy.log_probs(["x"])[0] - START.log()
    scalars = agent.update(FileArena(TASK, [Thumb("x", "a", 0.0)], None).play())
    assert scalars["loss/policy"] == pytest.approx(losses.dpo(ratio[1] - ratio[0], double(1.0)[0], 0.1).item())


def test_bco_ends_where_classes_and_labels_agree_as_the_policy_weighs_them():
    """Where mu (sigma(beta r - d) - q) is proportional to pi, d the mean reward."""
    policy, ratio, agent = final(BCOUnpairedConfig(beta=0.5, optimiser=steps(20.0), **FIXED))
    shift = 0.5 * (G3_START * ratio).sum()
    assert agent.shift.item() == pytest.approx(shift.item(), abs=1e-5)
    require_alike(G3_START * (torch.sigmoid(0.5 * ratio - shift) - LABELS) / policy)


def test_bcos_shift_is_the_running_mean_of_past_rewards():
    agent = BCOUnpairedConfig(average=False).build(policy=TabularPolicy(TASK, START))
    with torch.no_grad():
        agent.policy.logits += double(1.0, 0.0, -1.0)
        ratio = agent.policy.log_probs(["x"])[0] - START.log()
    duel = FileArena(TASK, [Thumb("x", "a", 1.0)], None).play()
    assert agent.update(duel)["loss/point"] == 0
    assert agent.update(duel)["loss/point"] == pytest.approx(0.1 * 0.1 * ratio[0].item())


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


def test_z0_of_lists_counts_the_responses_of_the_other_prompt_alone():
    """The shorter list is filled up with responses of weight 0, which play no part at the other prompt either."""
    task = finite_task("game", ("x", "y"), RESPONSES, RESPONSES)
    agent = KTOConfig(average=False).build(policy=TabularPolicy(task, START))
    with torch.no_grad():
        agent.policy.logits += double([-3.0, 0.0, 0.5], [0.0, 0.0, 0.0])
        ratio = agent.policy.log_probs(["x", "y"]) - START.log()
    whole = ResponseList("x", ("a", "b", "c"), {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0})
    duel = FileArena(task, [whole, ResponseList("y", ("b", "c"), {(0, 1): 1.0})], None).play()
    expected = (ratio[0, 1:].mean() + ratio[1].mean()).item() / 2
    assert expected > 0
    assert agent.update(duel)["loss/point"] == pytest.approx(expected)


def test_z0_of_own_samples_is_their_mean_log_ratio_and_never_below_0():
    agent, arena = KTOConfig(average=False).build(policy=TabularPolicy(TASK, START)), thumb_arena(exact=False)
    assert play(agent, arena, 1)["loss/point"] == 0
    scalars = play(agent, arena, 1)
    assert scalars["loss/point"] == pytest.approx(max(0.0, scalars["policy/kl"]))


@pytest.mark.parametrize("config", [KTOConfig(), KTOConfig(refresh_every=3), KimiConfig(), DROConfig(), NPOConfig()])
def test_of_own_samples_the_reference_is_asked_once_an_update(config):
    agent, arena = config.build(policy=TabularPolicy(TASK, START)), thumb_arena(exact=False)
    duel, asked, logprob = arena.play(agent.propose(arena.reset())), [], agent.reference.logprob
    agent.reference.logprob = lambda *of: asked.append(of) or logprob(*of)
    agent.update(duel)
    assert len(asked) == 1


EVERY = (
    KTOConfig(),
    DROConfig(refresh_every=3),
    KimiConfig(),
    NPOConfig(),
    D2OConfig(refresh_every=3),
    BCOUnpairedConfig(),
    SFTConfig(),
)


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("exact", [True, False])
def test_agents_of_single_responses_keep_the_contract_on_thumbs(config, exact):
    check_agent(config.build(policy=TabularPolicy(TASK, START, exact=exact)), thumb_arena(exact=exact))


@pytest.mark.parametrize(
    "config",
    [EVERY[0], *(pytest.param(one, marks=pytest.mark.slow) for one in EVERY[1:])],
    ids=lambda c: type(c).__name__,
)
def test_it_learns_from_texts_by_a_language_model(config):
    """A liked answer becomes likelier against a disliked one."""
    task = make_task("chat")
    prompts, texts = task.prompts[:2], ("Pump the tires.", "Water the tomatoes.")
    rows = [Thumb(prompt, text, float(text == texts[0])) for prompt in prompts for text in texts]
    if isinstance(config, KimiConfig):  # a thumb is its own mean
        rows = [Preference(prompt, *texts, 1.0) for prompt in prompts]
    refreshed = {"refresh_every": 9} if hasattr(config, "refresh_every") else {}
    config = dataclasses.replace(config, average=False, **refreshed)
    agent, arena = config.build(policy=TinyConfig().build(task=task)), FileArena(task, rows, None)
    responses = [[Completion(text) for text in texts]] * 2
    with torch.no_grad():
        before = agent.policy.logprob(prompts, responses)
    for _ in range(3):
        agent.update(arena.play())
    with torch.no_grad():
        after = agent.policy.logprob(prompts, responses)
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
        (KimiConfig, {"tau": -1.0}, "tau must be positive"),
        (NPOConfig, {"retain": -1.0}, "retain must be at least 0"),
        (D2OConfig, {"alpha": 0.0}, "alpha must be positive"),
        (BCOUnpairedConfig, {"refresh_every": 0}, "refresh_every must be at least 1"),
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
