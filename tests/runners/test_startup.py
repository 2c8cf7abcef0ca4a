import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import with_a_fast_few

HEAVY = {
    "accelerate",
    "datasets",
    "httpx",
    "jinja2",
    "matplotlib",
    "peft",
    "sb3_contrib",
    "scipy",
    "stable_baselines3",
    "tensorboard",
    "transformers",
    "vllm",
}
LOADED = """
import json, runpy, sys
sys.argv = {argv!r}
code = 0
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as error:
    code = error.code or 0
print()
print(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def loaded(*words):
    """The exit code of a command line, what it wrote, and the top-level modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=["runners." + words[0], *words[1:]])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    text, _, last = done.stdout.rstrip().rpartition("\n")
    code, modules = json.loads(last)
    return code, text + done.stderr, set(modules)


@pytest.mark.parametrize(
    "name",
    with_a_fast_few(
        [
            "bench",
            "evaluate",
            "fit_oracle",
            "label",
            "merge",
            "overoptimise",
            "plot",
            "pretrain",
            "push",
            "report",
            "serve",
        ],
        3,
    ),
)
def test_help_needs_no_torch(name):
    code, text, modules = loaded(name, "--help")
    assert code == 0
    assert "usage" in text.lower()
    assert not modules & (HEAVY | {"torch"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["duel", "--agent", "sppp"], "unknown agent 'sppp'; did you mean 'sppo'?"),
        (["duel", "--oracle", "cyclik"], "unknown oracle 'cyclik'; did you mean 'cyclic'?"),
        (["duel", "--oracle", "cyclic+nois"], "unknown wrapper 'nois'; did you mean 'noise'?"),
        (["duel", "--task", "symbol"], "unknown task 'symbol'; did you mean 'symbols'?"),
        (["duel", "--policy", "tabula"], "unknown policy 'tabula'; did you mean 'tabular'?"),
        (["bench", "--suite", "quik"], "unknown suite 'quik'; did you mean 'quick'?"),
        (["bench", "--agent", "sppp"], "unknown agent 'sppp'; did you mean 'sppo'?"),
        (["serve", "--oracle", "pairm"], "unknown oracle 'pairm'; did you mean 'pairrm'?"),
        (["evaluate", "run", "--oracle", "cyclik,lam=1"], "unknown oracle 'cyclik'; did you mean 'cyclic'?"),
    ],
)
def test_a_wrong_name_is_answered_before_torch_is_imported(words, message):
    code, text, modules = loaded(*words)
    assert code == 2
    assert message in text
    assert not modules & (HEAVY | {"torch"})


ONE_BY_ONE = """
import contextlib, io, json, sys
from runners.duel import main

for words in {lines!r}:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code or 0
    print(json.dumps([code, text.getvalue(), sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""
PARTS = (
    [],
    ["--agent", "ppo"],
    ["--agent", "kto"],
    ["--oracle", "bt"],
    ["--oracle", "gpm"],
    ["--oracle", "judge"],
    ["--oracle", "pair_lm"],
    ["--agent", "oelhf", "--oracle", "cyclic", "--task", "symbols"],
    ["--agent", "pelhf", "--oracle", "annotators", "--task", "rps"],
    ["--agent", "nash_md", "--oracle", "borda_trap", "--task", "symbols"],
    ["--agent", "rlhf", "--oracle", "length_bias", "--policy", "hf", "--policy.path", "some/model"],
)


def test_help_and_wrong_flags_need_no_torch():
    lines = [(0, "usage", [*parts, "--help"]) for parts in PARTS]
    lines += [(2, "--agent.tauu", [*parts, "--agent.tauu", "1"]) for parts in PARTS]
    lines += [
        (2, "many", ["--run.steps", "many"]),
        (2, "eta", ["--agent.eta", "-1"]),
        (2, "no run directory", ["--resume", "no-such-directory"]),
    ]
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE.format(lines=[words for _, _, words in lines])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    for (code, message, words), line in zip(lines, done.stdout.splitlines(), strict=True):
        ended, text, modules = json.loads(line)
        assert ended == code, words
        assert message in text, words
        assert not set(modules) & (HEAVY | {"torch"}), words


def test_importing_envs_registers_with_libraries_that_are_imported_later():
    script = """
import sys, envs
assert "torch" not in sys.modules
import gymnasium
assert gymnasium.make("duel/PreferenceDuel-v0").reset(seed=0)
assert gymnasium.make_vec("duel/PreferenceDuel-v0", num_envs=2).reset(seed=0)
assert gymnasium.make("duel/ResponseDuel-v0").reset(seed=0)
import pettingzoo
assert pettingzoo.make("parallel", "duel/preference_duel-v0").reset(seed=0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("first", ["gymnasium", pytest.param("pettingzoo", marks=pytest.mark.slow)])
def test_importing_envs_registers_with_libraries_that_were_imported_before(first):
    script = f"""
import {first}, envs, gymnasium, pettingzoo
assert "duel/PreferenceDuel-v0" in gymnasium.registry and "duel/ResponseDuel-v0" in gymnasium.registry
assert pettingzoo.make("aec", "duel/preference_duel-v0")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("package", ["agents", "envs", "oracles", "preference_duel"])
def test_every_public_name_can_be_imported(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing
