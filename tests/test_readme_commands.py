"""The README's promises: its commands run, its examples work, its table names every tag."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from agents.registry import AGENTS
from benchmarks.chat import measure, parse_share
from oracles.registry import BUILT_IN
from oracles.table import GAMES
from oracles.wrappers import WRAPPERS
from runners.bench import _parser as bench_parser
from runners.bench import main as bench
from runners.benchmark.results import read_results, shipped
from runners.benchmark.scores import table
from runners.benchmark.suites import BUILT_IN as SUITES
from runners.benchmark.suites import find_suite
from runners.benchmark.tuning import settings_of, tuned_for
from runners.duel import main
from runners.evaluate import main as evaluate
from runners.fit_oracle import main as fit_oracle
from runners.report import main as report
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["--run.steps", "2", "--run.eval_every", "2", "--run.eval_prompts", "4", "--run.device", "cpu"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(program: str) -> list[str]:
    lines = [part.strip() for block in blocks("bash") for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line.startswith(program)]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the README's own files and the repository's games, as the working directory."""
    for name, code in re.findall(r"Save this as `(\w+\.py)`:\n\n```python\n(.*?)```", README, flags=re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_lab", "my_judge"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("command", commands("python -m runners.duel"))
def test_every_run_in_the_readme_runs(command, elsewhere):
    arguments = shlex.split(command)[3:]
    assert main([*arguments, *SHORT, "--run.dir", "run"]) == 0
    assert json.loads((elsewhere / "run" / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_the_run_in_several_processes_runs(tmp_path):
    (command,) = commands("torchrun")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *shlex.split(command)[1:]]
    subprocess.run([*launcher, *SHORT, "--run.dir", str(tmp_path / "run")], check=True, timeout=240, cwd=ROOT)
    config = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert (config["processes"], config["run"]["parallel"]) == (2, "fsdp")


def test_the_runs_that_the_readme_judges_are_judged(elsewhere, capsys):
    for command in commands("python -m runners.duel"):
        if "--run.dir" in command:
            assert main([*shlex.split(command)[3:], *SHORT]) == 0
    (command,) = commands("python -m runners.evaluate")
    assert evaluate([*shlex.split(command)[3:], "--out", "found"]) == 0
    assert "Transfer, exploitability" in capsys.readouterr().out
    assert (elsewhere / "found" / "evaluation.json").exists()


def test_every_run_of_the_oracles_page_runs(elsewhere):
    page = (ROOT / "docs" / "oracles.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("python -m runners.")]
    for i, line in enumerate(lines):
        arguments = shlex.split(line)[3:]
        if "runners.fit_oracle" in line:
            assert fit_oracle(arguments) == 0
        else:
            where = [] if "--run.dir" in line else ["--run.dir", f"run{i}"]
            assert main([*arguments, *SHORT, *where]) == 0
    assert len(lines) == 6
    for name in [*BUILT_IN, *GAMES, *WRAPPERS]:
        assert f"`{name}`" in page


def test_the_benchmarks_commands_name_what_there_is(elsewhere):
    lines = [line.split("#")[0] for line in commands("python -m runners.bench")]
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    lines += [line.split("#")[0] for line in page.splitlines() if line.startswith("python -m runners.bench")]
    sys.path.insert(0, str(elsewhere))
    for line in lines:
        options = bench_parser().parse_args(shlex.split(line)[3:])
        suite = find_suite(options.suite, partial(settings_of, path=tuned_for(options.suite)), options.agent)
        assert shipped(suite) is not None
    assert len(lines) >= 4
    assert all(f"`{name}`" in page for name in SUITES)


def test_the_published_results_are_reported(elsewhere, capsys):
    (command,) = commands("python -m runners.report")
    assert report(["quick"]) == 0
    assert capsys.readouterr().out.strip() == "report/quick/index.html"
    assert shlex.split(command)[3] in SUITES


@pytest.mark.slow
def test_an_agent_of_ones_own_is_added_to_the_published_results_by_one_command(elsewhere):
    sys.path.insert(0, str(elsewhere))
    assert bench(["--suite", "quick", "--agent", "my_lab:Config", "--processes", "2"]) == 0
    results = read_results(elsewhere / "bench/quick/results.json")
    assert list(results["entrants"])[-1] == "my_lab:Config"
    assert len(results["entrants"]) == 12
    assert np.median(table(results)["my_lab:Config"]["cyclic lam=0"]) < 0.9


def test_an_oracle_is_fitted_as_the_readme_says(elsewhere, capsys):
    (command,) = commands("python -m runners.fit_oracle")
    assert fit_oracle(shlex.split(command)[3:]) == 0
    assert (
        "Judge with it: python -m runners.duel --oracle gpm --oracle.model runs/oracle-gpm-" in capsys.readouterr().out
    )


def test_the_environment_example_prints_a_verdict(elsewhere, capsys):
    (example,) = [block for block in blocks("python") if "parallel_env" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"\{'player_0': -?1.0, 'player_1': -?1.0\} [01]\n", capsys.readouterr().out)


def test_the_readme_names_every_tag(elsewhere):
    tags = set()
    games = {agent: ["--task", "symbols", "--agent", agent] for agent in AGENTS}
    for name, arguments in {"text": [], **games}.items():
        assert main([*arguments, *SHORT, "--run.dir", name]) == 0
        for line in (elsewhere / name / "metrics.jsonl").read_text().splitlines():
            tags |= {tag for tag in json.loads(line) if "/" in tag}
    documented = set(re.findall(r"`((?:loss|model|policy|duel|eval|game|time)/\w+)`", README))
    assert tags == documented
    for agent in AGENTS:
        assert "`loss/policy`" in (ROOT / "docs" / "agents" / f"{agent}.md").read_text(encoding="utf-8")


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_learns(seed, tmp_path):
    command = [sys.executable, "-m", "runners.duel", "--agent", "sppo", "--oracle", "pairrm", "--run.seed", str(seed)]
    subprocess.run([*command, "--run.dir", "run", "--run.device", "cpu"], cwd=tmp_path, check=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval/win_rate_vs_ref" in line][-1]
    assert last["eval/win_rate_vs_ref"] >= 0.65
    assert last["eval/win_rate_low"] >= 0.57
    assert parse_share(tmp_path / "run" / "step-100" / "policy", seed) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("agent", ["ipo", "oelhf", "rlhf"])
def test_every_kind_of_agent_learns_to_chat(agent):
    """Regresses margins, learns a model, follows a gradient; benchmarks.chat has them all, on three seeds."""
    evaluations, share, _ = measure(agent, seed=0, threads=1, more=["--run.steps", "60", "--run.eval_every", "60"])
    assert evaluations[-1]["eval/win_rate_vs_ref"] >= 0.6
    assert share >= 0.95
