"""Every recipe of docs/libraries.md runs where its package is installed."""

import re

import gymnasium
import numpy as np
import pytest

import envs
from envs.views.one_hot import OneHot
from tests.paths import DOCS

PAGE = (DOCS / "libraries.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
LONG = {"tianshou"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "package", [pytest.param(one, marks=[pytest.mark.slow] if one in LONG else []) for one in RECIPES]
)
def test_the_recipe_runs(package, tmp_path, monkeypatch, capsys):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "recipe"}
    exec(compile(RECIPES[package], f"{package} in docs/libraries.md", "exec"), names)
    if package == "torchrl":
        assert set(names["rewards"].flatten().tolist()) <= {0.0, 1.0, -1.0}
        assert names["rewards"].sum() == 0
    if package == "torch":
        assert float(capsys.readouterr().out) > 0.3


def test_all_libraries_but_rllib_are_tried_here():
    assert set(RECIPES) == {"stable_baselines3", "torchrl", "supersuit", "tianshou", "ray.rllib", "torch"}
    for package in set(RECIPES) - {"ray.rllib"}:
        __import__(package)


def test_one_hot_rows_are_the_tokens():
    plain = gymnasium.make(envs.registration.DUEL, obs="flat", mask="none")
    rows = OneHot(gymnasium.make(envs.registration.DUEL, obs="flat", mask="none"))
    board, _ = plain.reset(seed=0)
    shown, _ = rows.reset(seed=0)
    assert rows.observation_space.contains(shown)
    assert shown.reshape(len(board), -1).argmax(1).tolist() == board.tolist()
    assert shown.sum() == len(board)
    with pytest.raises(ValueError, match="build the environment with obs='flat'"):
        OneHot(gymnasium.make(envs.registration.DUEL))
    assert rows.observation_space.dtype == np.float32
