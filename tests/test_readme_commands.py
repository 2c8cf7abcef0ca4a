"""The documentation's promises: its commands run, its examples work, its links and file names exist."""

from __future__ import annotations

import importlib
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
from envs import make_task
from oracles.registry import BUILT_IN, WRAPPERS
from oracles.table import GAMES
from runners.bench import _parser as bench_parser
from runners.bench import main as bench
from runners.benchmark.results import read_results, shipped
from runners.benchmark.scores import table
from runners.benchmark.suites import BUILT_IN as SUITES
from runners.benchmark.suites import find_suite
from runners.benchmark.tuning import settings_of, tuned_for
from runners.duel import main
from runners.run.cli import parse
from runners.run.record import read_lines
from tests.documents import NOTEBOOKS, PAGES, arguments, blocks, commands, files, name
from tests.paths import ROOT

TEXTS = {name(page): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
SHORT = ["--run.steps", "2", "--run.eval_every", "2", "--run.eval_prompts", "4", "--run.device", "cpu"]
SMALL = {
    "label tiny": "--prompts 12",
    "evaluate ppo": "--prompts 4 --pairs 1",
    "evaluate second": "--prompts 4 --pairs 1",
    "comparisons.jsonl,tests": "--run.stage_steps 1",
}
"""Flags that shrink commands whose sizes are those of their figures, or that end too early when they are short."""
HUB = re.compile(r"hf:|--policy (?!\w+/step-)[\w.-]+/[\w.-]+")
"""Commands that need a network: they are parsed and not run."""
WITH_COMMANDS = [page for page, text in TEXTS.items() if commands(text)]
DOCS = [page for page in WITH_COMMANDS if page not in ("README.md", "docs/tutorial.md")]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder with the repository's games as the working directory, in which pages may save files."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def save(text, folder):
    for path, code in files(text).items():
        (folder / path).write_text(code, encoding="utf-8")
        sys.modules.pop(path.removesuffix(".py"), None)


def suite_of(name, agents):
    """The suite that `runners.bench` plays."""
    return find_suite(name, partial(settings_of, path=tuned_for(name)), agents)


def run(command, number):
    """Runs a command in few steps; returns its exit code, None if it takes minutes or needs a network."""
    words = [re.sub(r"step-\d+/policy", "step-2/policy", word) for word in arguments(command)]  # as runs end here
    words = [word.replace("agents/checkpoints", str(ROOT / "agents" / "checkpoints")) for word in words]
    words += [word for name, small in SMALL.items() if name in command for word in small.split()]
    if "runners.duel" in command:
        if HUB.search(command) or command.startswith("torchrun"):
            assert parse(words).settings
            return None
        short = SHORT[2:] if re.search(r"--run.steps 1\b", command) else SHORT
        return main([*words, *short, *([] if "--run.dir" in words else ["--run.dir", f"run{number}"])])
    module = importlib.import_module(re.match(r"python -m (\S+)", command)[1])
    if "benchmarks." in command:  # minutes; test_benchmarks runs them small, test_documented_flags reads their flags
        return None
    if "runners.exploit" in command and "chat" in words:
        words += ["--queries", "0", "--prompts", "2"]
    if "runners.bench" in command:
        options = bench_parser().parse_args(words)
        suite = suite_of(options.suite, options.agent)
        assert shipped(suite) is not None
        return None
    return module.main(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_every_command_of_a_page_runs(page, elsewhere):
    save(TEXTS[page] + README, elsewhere)
    codes = [run(command, number) for number, command in enumerate(commands(TEXTS[page]))]
    assert set(codes) <= {0, None}
    for directory in elsewhere.glob("run*/metrics.jsonl"):
        assert json.loads(directory.read_text().splitlines()[-1])


def test_every_page_with_commands_is_known():
    assert {"README.md", "docs/oracles.md", "docs/runs.md", "docs/tutorial.md"} <= set(WITH_COMMANDS)
    assert sum(len(commands(TEXTS[page])) for page in WITH_COMMANDS) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_run_in_several_processes_runs(page, tmp_path):
    for command in commands(TEXTS[page]):
        if command.startswith("torchrun") and not HUB.search(command):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *shlex.split(command)[1:]]
            subprocess.run([*launcher, *SHORT, "--run.dir", str(tmp_path / "run")], check=True, timeout=240, cwd=ROOT)
            config = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
            assert config["processes"] == 2


def test_the_tutorial_runs_until_its_last_step(elsewhere, capsys):
    text = TEXTS["docs/tutorial.md"]
    save(text, elsewhere)
    short, long = (commands(text)[:3], commands(text)[3:])
    assert [run(command, number) for number, command in enumerate(short)] == [0, 0, 0]
    check = compile(files(text)["check.py"], "check.py", "exec")
    with pytest.raises(ValueError, match=re.escape("state_dict() must hold all that update() changes")) as error:
        exec(check, {})
    assert str(error.value) in text
    repair(text, elsewhere)
    exec(check, {})
    assert capsys.readouterr().out.splitlines()[-1] in text
    assert [run(command, number) for number, command in enumerate(long)] == [None, None]


def repair(text, folder):
    """Replaces the last two methods of the agent as the tutorial says."""
    start = "    def state_dict"
    (shown,) = [block for block in blocks(text, "python") if "# as before" in block]
    code, methods = files(text)["my_lab.py"], shown[shown.index(start) :]
    (folder / "my_lab.py").write_text(code[: code.index(start)] + methods, encoding="utf-8")
    sys.modules.pop("my_lab", None)


@pytest.mark.slow
def test_the_tutorial_ends_in_a_row_of_the_quick_benchmark(elsewhere):
    text = TEXTS["docs/tutorial.md"]
    save(text, elsewhere)
    repair(text, elsewhere)
    command = next(command for command in commands(text) if "runners.bench" in command)
    suite = suite_of("quick", ["my_lab:Config"])
    cells = [cell.name for cell in suite.cells if cell.game.label == "cyclic lam=0"]
    assert bench([*arguments(command), "--processes", "2", "--cells", *cells]) == 0
    results = read_results(elsewhere / "bench/quick/results.json")
    assert list(results["entrants"])[-1] == "my_lab:Config"
    assert len(results["entrants"]) == 12
    assert np.median(table(results)["my_lab:Config"]["cyclic lam=0"]) < 0.9


def test_the_loop_from_python_prints_what_it_says(capsys):
    (code,) = blocks(TEXTS["docs/runs.md"], "python")
    exec(compile(code, "runs.md", "exec"), {})
    assert capsys.readouterr().out.strip() == code.rsplit("# ", 1)[1].strip()


def test_runs_are_compared_on_the_oracle_of_each_other(elsewhere, capsys):
    text = TEXTS["docs/runs.md"]
    for number, command in enumerate(commands(text)):
        if "--run.dir" in command:
            assert run(command, number) == 0
    (command,) = [command for command in commands(text) if "runners.evaluate cyclic" in command]
    assert run(f"{command} --out found", 0) == 0
    assert "Transfer, exploitability" in capsys.readouterr().out
    assert (elsewhere / "found" / "evaluation.json").exists()


def test_the_pages_name_every_oracle_agent_and_suite():
    for part in [*BUILT_IN, *GAMES, *WRAPPERS]:
        assert f"`{part}`" in TEXTS["docs/oracles.md"]
    for suite in SUITES:
        assert f"`{suite}`" in TEXTS["docs/benchmark.md"]
    for agent in AGENTS:
        assert f"[`{agent}`]({agent}.md)" in TEXTS["docs/agents/README.md"]


@pytest.mark.slow
def test_the_published_results_are_reported(elsewhere, capsys):
    report = importlib.import_module("runners.report").main
    assert report(["quick"]) == 0
    assert capsys.readouterr().out.strip() == "report/quick/index.html"


@pytest.mark.slow
def test_the_metrics_page_names_every_tag(elsewhere):
    tags = set()
    games = {agent: ["--task", "symbols", "--agent", agent] for agent in AGENTS}
    games["mirror"] = [*games["nash_md"], "--agent.form", "mirror"]
    first, second = make_task("symbols").response_texts[:2]
    (elsewhere / "pairs.jsonl").write_text(json.dumps({"prompt": "#0", "chosen": first, "rejected": second}))
    games["file"] = [*games["dpo"], "--run.data", "pairs.jsonl"]
    games["held"] = [*games["grpo"], "--agent.redraws", "0"]
    games["population"] = [*games["psro"], "--agent.response_updates", "1", "--agent.payoff_updates", "1"]
    answer = "None if len(first + second) % 7 == 0 else len(first) < len(second)"
    silent = f"def silent(prompt, first, second):\n    return {answer}\n"
    (elsewhere / "my_silent.py").write_text(silent)
    games["unread"] = ["--oracle", "judge", "--oracle.of", "my_silent:silent"]
    for directory, words in {"text": [], **games}.items():
        assert main([*words, *SHORT, "--run.dir", directory]) == 0
        for line in (elsewhere / directory / "metrics.jsonl").read_text().splitlines():
            tags |= {tag for tag in json.loads(line) if "/" in tag}
    documented = set(re.findall(r"`((?:loss|model|policy|duel|data|eval|game|time)/\w+)`", TEXTS["docs/metrics.md"]))
    assert tags == documented
    for agent in AGENTS:
        assert "`loss/policy`" in TEXTS[f"docs/agents/{agent}.md"]


def test_the_readme_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 180


@pytest.mark.parametrize("page", TEXTS)
def test_every_file_that_a_page_links_to_or_names_exists(page):
    links = [link for link in re.findall(r"\]\(([^)#\s|]+)[^)]*\)", TEXTS[page]) if "://" not in link]
    places = [(ROOT / page).parent / link for link in links]
    missing = [place for place in places if not place.exists() and not place.with_suffix(".ipynb").exists()]
    assert missing == []
    folders = "|".join(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists())
    named = re.findall(rf"(?<![\w/])((?:{folders})/[\w/]+\.py)\b", TEXTS[page])
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_site_has_every_page():
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/")}
    notebooks = {path.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for path in NOTEBOOKS}
    assert listed == pages | notebooks


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_run_learns(tmp_path):
    command = [sys.executable, "-m", "runners.duel", "--agent", "sppo", "--oracle", "pairrm"]
    subprocess.run([*command, "--run.dir", "run", "--run.device", "cpu"], cwd=tmp_path, check=True)
    last = [line for line in read_lines(tmp_path / "run/metrics.jsonl") if "eval/win_rate_vs_ref" in line][-1]
    assert last["eval/win_rate_vs_ref"] >= 0.65
    assert last["eval/win_rate_low"] >= 0.57
    assert parse_share(tmp_path / "run" / "step-100" / "policy", 0) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("agent", "steps"), [("ipo", 30), ("oelhf", 40), ("rlhf", 50)])
def test_every_kind_of_agent_learns_to_chat(agent, steps):
    """Regresses margins (as sppo above), learns a model, follows a gradient; benchmarks.chat has them all."""
    more = ["--run.steps", str(steps), "--run.eval_every", str(steps)]
    evaluations, share, _ = measure(agent, 0, threads=1, more=more)
    assert evaluations[-1]["eval/win_rate_vs_ref"] >= 0.6
    assert evaluations[-1]["eval/win_rate_low"] >= 0.52
    assert share >= 0.95
