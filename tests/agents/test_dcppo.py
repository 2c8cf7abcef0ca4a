"""DCPPO: the rewards that it recovers, where it ends, and what pessimism changes."""

import dataclasses
import math

import pytest
import torch

from agents.check import check_agent
from agents.policies.tabular import TabularPolicy
from agents.tokens.dcppo import DCPPOConfig
from envs import DuelArena, make_task
from envs.games import exploitability
from envs.games.soft_values import soft_values
from envs.games.tries import Trie
from envs.offline import FileArena
from envs.votes.thumbs import Thumb
from oracles.table import TableOracle
from tests.matrix_games import COMAL, START, game, law

TASK = make_task("symbols", alphabet=2, length=2, prompts=1)
PROMPT = TASK.prompts[0]
REF = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def taught(counts, **fields):
    """An agent that was shown each response so often."""
    agent = DCPPOConfig(**fields).build(policy=TabularPolicy(TASK, REF))
    shown = [Thumb(PROMPT, text, 1.0) for text, n in zip(TASK.response_texts, counts, strict=True) for _ in range(n)]
    agent.update(FileArena(TASK, shown, None).play())
    return agent


def law_of(agent):
    with torch.no_grad():
        return agent.policy.log_probs([PROMPT])[0].exp()


def test_token_rewards_are_recovered_and_their_sums_know_no_anchor():
    """Choices with chances exp(R) / Z are soft-optimal for rewards R at the end; V is the log of a sum of exp."""
    trie = Trie([response.ids for response in TASK.responses])
    reward = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)
    value = trie.logsumexp(reward)  # [M]
    behaviour = value - value[0]  # [M] log pi_b of the beginnings
    choice = behaviour[1:] - behaviour[trie.parents]
    leaves = trie.paths[:, -1]
    anchors = [value, torch.randn(len(value), dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    for anchor in anchors:
        ahead = anchor.index_fill(0, leaves, 0.0)
        recovered = choice + ahead[trie.parents] - ahead[1:]  # of each edge
        total = trie.along(recovered)
        torch.testing.assert_close(total - ahead[0], reward - value[0], atol=1e-9, rtol=0)
        if anchor is value:
            at_end = torch.isin(torch.arange(1, len(value)), leaves)
            torch.testing.assert_close(recovered[at_end], reward[trie.paths[:, -1].argsort()], atol=1e-9, rtol=0)
            assert recovered[~at_end].abs().max() < 1e-9


def test_of_soft_optimal_demonstrations_it_ends_at_the_optimum_of_their_reward():
    counts, tau = torch.tensor([2, 5, 1, 12], dtype=torch.float64), 0.4
    reward = counts.log()
    agent = taught([2, 5, 1, 12], width=0.0, tau=tau)
    expected = torch.softmax(REF.log() + reward / tau, 0)
    torch.testing.assert_close(law_of(agent), expected, atol=1e-12, rtol=0)
    values = soft_values([y.ids for y in TASK.responses], REF, reward, tau)
    torch.testing.assert_close(
        tau * (law_of(agent) / REF).log(), values[:, -1] - values[:, 0], atol=1e-9, rtol=0
    )  # each token by its soft value


def test_where_sft_ends_at_the_demonstrators_it_plays_what_they_mean():
    counts = [2, 5, 1, 12]
    reward = torch.tensor(counts, dtype=torch.float64).log()
    payoff = torch.sigmoid(reward[:, None] - reward)
    demonstrators = torch.tensor(counts, dtype=torch.float64) / 20
    assert exploitability(payoff, demonstrators) > 0.1
    assert exploitability(payoff, law_of(taught(counts, width=0.0, tau=0.02))) < 1e-6


def test_pessimism_prefers_what_begins_as_much_of_the_data_does():
    """aa, ab, ba, bb were shown 9, 91, 10 and 0 times; ba more often than aa, but not its beginning."""
    counts = {"aa": 9, "ab": 91, "ba": 10, "bb": 0}
    shown = [counts[text] for text in TASK.response_texts]
    plain, careful = (
        dict(zip(TASK.response_texts, taught(shown, width=width).values([PROMPT])[0].tolist(), strict=True))
        for width in (0.0, 1.0)
    )
    assert plain["ba"] > plain["aa"]
    assert careful["ba"] < careful["aa"]
    assert careful["aa"] == pytest.approx(math.log(9 / 110) - 101**-0.5 - 10**-0.5)
    assert careful["ba"] == pytest.approx(math.log(10 / 110) - 11**-0.5 - 11**-0.5)
    assert law_of(taught(shown))[TASK.response_texts.index("bb")] < 1e-300


def test_winners_of_the_starts_draws_are_imitated():
    agent, arena = game(DCPPOConfig(width=0.0, tau=1.0))
    duel = arena.play(agent.propose(arena.reset()))
    agent.update(duel)
    won = duel.prob[0].masked_fill(torch.eye(4).bool(), 0).sum(1) / 6  # of six pairs
    liked = torch.tensor([sum(w for y, w in zip(duel.left[0], won, strict=True) if y.text == text) for text in "abc"])
    torch.testing.assert_close(agent.counts[0], liked.double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(law(agent.policy), liked * START / (liked * START).sum(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("fields", [{}, {"width": 0.0, "tau": 0.5, "responses": 2}])
def test_it_keeps_the_contract_of_an_agent(fields):
    task = make_task("symbols", alphabet=2, length=2, prompts=3)
    payoff = torch.sigmoid(torch.arange(4.0)[:, None] - torch.arange(4.0)).double()
    arena = DuelArena(task, TableOracle(payoff, task.prompts, task.response_texts), 3)
    check_agent(DCPPOConfig(**fields).build(policy=TabularPolicy(task)), arena)


def test_what_it_can_not_count_is_refused():
    with pytest.raises(ValueError, match=r"its policy is a table \(--policy tabular\), without exact"):
        game(DCPPOConfig(), exact=True)
    for fields, message in (({"tau": 0.0}, "tau must be positive"), ({"width": -1.0}, "width must be at least 0")):
        with pytest.raises(ValueError, match=message):
            DCPPOConfig(**fields)
    agent, arena = game(DCPPOConfig(), payoff=COMAL)
    duel = arena.play(agent.propose(arena.reset()))
    with pytest.raises(ValueError, match="no judged response"):
        agent.update(dataclasses.replace(duel, asked=torch.zeros_like(duel.asked)))
