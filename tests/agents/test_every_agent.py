"""Properties of every built-in agent; one that is added to the registry is tested here at once."""

import dataclasses
import importlib
import re

import pytest

import agents
from agents.check import check_agent
from agents.registry import AGENTS, make_policy
from envs import DuelArena, make_task
from oracles import make as make_oracle
from tests.paths import DOCS

OWN_NETWORK = {"ppo", "maskable_ppo", "trpo", "a2c", "dqn"}
"""Agents that bring their policy along: `own_policy` of their configuration."""


def config_class(name):
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def built(name):
    """The agent with its default settings, and an arena on symbols of two letters."""
    task = make_task("symbols", alphabet=2, length=2, prompts=2)
    oracle = make_oracle("cyclic", prompts=task.all_prompts, responses=task.response_texts)
    policy, fields = getattr(config_class(name), "own_policy", ("tabular", {}))
    agent = agents.make(name, policy=make_policy(policy, task=task, **fields), seed=1)
    return agent, DuelArena(task, oracle, 2)


def page(name):
    return (DOCS / "agents" / f"{name}.md").read_text(encoding="utf-8")


def test_agents_with_a_network_of_their_own_are_those_of_stable_baselines3():
    assert {name for name in AGENTS if hasattr(config_class(name), "own_policy")} == OWN_NETWORK


@pytest.mark.parametrize("name", AGENTS)
def test_it_is_built_by_name_and_keeps_the_contract(name):
    check_agent(*built(name))


@pytest.mark.parametrize("name", AGENTS)
def test_its_page_names_every_setting_and_tag(name):
    agent, arena = built(name)
    scalars = agent.update(arena.play(agent.propose(arena.reset())))
    pages = page(name) + (page("ppo") if name in OWN_NETWORK else "")
    missing = [tag for tag in scalars if f"`{tag}`" not in pages]
    missing += [field.name for field in dataclasses.fields(config_class(name)) if f"`{field.name}`" not in pages]
    assert missing == []


@pytest.mark.parametrize("name", AGENTS)
def test_it_cites_its_source_and_every_field_has_its_meaning(name):
    """The line under a field is its help, which tyro shows."""
    kind = config_class(name)
    assert re.search(r"arXiv:\d{4}\.\d{5}|stable-baselines3", page(name))
    source = importlib.import_module(kind.__module__).__loader__.get_source(kind.__module__)
    body = source[source.index(f"class {kind.__name__}") :].split("\n\n\n")[0]
    for field in dataclasses.fields(kind):
        if re.search(rf"^    {field.name}: ", body, re.MULTILINE):
            assert re.search(rf'^    {field.name}: [^\n]+\n    """', body, re.MULTILINE), field.name


@pytest.mark.parametrize("name", AGENTS)
def test_an_unknown_field_suggests_the_nearest(name):
    field = dataclasses.fields(config_class(name))[0].name
    with pytest.raises(ValueError, match=rf"no field '{field}x'; did you mean '{field}'"):
        agents.make(name, policy=None, **{field + "x": 1})
