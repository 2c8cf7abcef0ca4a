"""One small game, an agent that plays it from a table, and what every agent's page must say."""

import dataclasses

import torch

from agents.policies.tabular import TabularPolicy
from envs.arena import DuelArena
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Completion
from tests.paths import DOCS

RESPONSES = ["a", "b", "c"]
COMAL = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], dtype=torch.float64)
REWARD = torch.tensor([0.9, 0.0, -0.3], dtype=torch.float64)
RANKED = torch.sigmoid(REWARD[:, None] - REWARD)
START = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
G3_REWARD = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
G3_PAYOFF = torch.sigmoid(G3_REWARD[:, None] - G3_REWARD)
G3_START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
G3_LENGTHS = 1, 2, 3


def game(config, payoff=COMAL, exact=False, prompts=("x",), seed=0):
    """An agent at START and its arena: whole laws and probabilities where exact, else draws and outcomes."""
    task = finite_task("game", prompts, RESPONSES, RESPONSES)
    oracle = TableOracle(payoff, prompts, RESPONSES)
    arena = DuelArena(task, oracle, None, "probability" if exact else "outcome", seed=seed)
    return config.build(policy=TabularPolicy(task, START, exact=exact), seed=seed), arena


def g3(config, payoff=G3_PAYOFF, start=G3_START, exact=True):
    """An agent on three responses of 1, 2 and 3 tokens with Bradley-Terry rewards 0, 1 and 1/2, and its arena."""
    task = finite_task("g3", ("x",), RESPONSES, RESPONSES)
    tokens = tuple(Completion(text, (0,) * length) for text, length in zip(RESPONSES, G3_LENGTHS, strict=True))
    task = dataclasses.replace(task, responses=tokens)
    arena = DuelArena(task, TableOracle(payoff, ("x",), RESPONSES), None, "probability" if exact else "outcome")
    return config.build(policy=TabularPolicy(task, start, exact=exact)), arena


def play(agent, arena, steps):
    """The scalars of the last of some updates."""
    scalars = {}
    for _ in range(steps):
        scalars = agent.update(arena.play(agent.propose(arena.reset())))
    return scalars


def law(policy):
    """The probabilities of the responses to the prompt x."""
    with torch.no_grad():
        return policy.log_probs(["x"])[0].exp()


def require_page(name, config):
    """Asserts that docs/agents/NAME.md names every setting and every tag of an update."""
    agent, arena = game(config)
    scalars = play(agent, arena, 1)
    page = (DOCS / "agents" / f"{name}.md").read_text(encoding="utf-8")
    missing = [tag for tag in scalars if f"`{tag}`" not in page]
    assert missing + [field.name for field in dataclasses.fields(config) if f"`{field.name}`" not in page] == []
