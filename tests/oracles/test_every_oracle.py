"""The contract of every built-in oracle, from the registry."""

import dataclasses

import pytest
import torch

import oracles
from oracles import check_oracle, payoff
from oracles.registry import BUILT_IN, WRAPPERS, oracle_config
from oracles.table import GAMES, game_file, read_game
from tests.paths import DOCS, GOLDEN

PROMPTS = ["x", "y"]
RESPONSES = [f"y{i}" for i in range(5)]
NEEDS_MORE = {"pair_lm", "human", "votes", "implicit"}
"""Oracles that need a model, votes or people; tested in files of their own."""
NAMES = sorted({*BUILT_IN, *GAMES} - NEEDS_MORE)


def shorter(prompt, first, second):
    """A judge."""
    return len(first) < len(second)


def built(name, wrappers=""):
    """The oracle, and prompts and responses that it can be asked about."""
    prompts, responses, fields = PROMPTS, RESPONSES, {}
    if name in GAMES or name == "table":
        path = game_file(name) if name in GAMES else GOLDEN / "games" / "comal3.json"
        game = read_game(path)
        prompts, responses = list(game.prompts), list(game.responses)
        fields = {} if name in GAMES else {"path": str(path)}
    if name == "judge":
        fields = {"of": f"{__name__}:shorter"}
    oracle = oracles.make(name + wrappers, prompts=prompts, responses=responses, **fields)
    return oracle, prompts, [responses] * len(prompts)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    check_oracle(*built(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapper", sorted(set(WRAPPERS) - {"per_prompt", "ood"}))
def test_wrapped_it_keeps_the_contract(name, wrapper):
    check_oracle(*built(name, f"+{wrapper}"))


@pytest.mark.parametrize("name", NAMES)
def test_self_play_is_antisymmetric_with_half_on_the_diagonal(name):
    oracle, prompts, responses = built(name)
    prob = payoff(oracle, prompts, responses)
    assert torch.equal(prob.diagonal(dim1=1, dim2=2), torch.full_like(prob[:, 0], 0.5))
    assert torch.allclose(prob + prob.mT, torch.ones_like(prob), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_page_names_it_and_an_unknown_field_suggests_the_nearest(name):
    page = (DOCS / "oracles.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page
    kind, _ = oracle_config(name)
    field = dataclasses.fields(kind)[0].name
    with pytest.raises(ValueError, match=rf"no field '{field}x'; did you mean '{field}'"):
        oracles.make(name, **{field + "x": 1})
