"""The benchmark plays what is missing and nothing twice, tells what failed, and keeps what is finished."""

import json

import pytest

from runners.bench import curve, main, remaining
from runners.suites import BUILT_IN, Cell, Suite, dialled, find_suite

OPTIONS = "--task.length 1 --task.prompts 1 --run.batch_size None --run.eval_every 5 --run.eval_tau 0.1 --run.threads 1"
FILE = """
from runners.suites import Cell, Suite, dialled
OPTIONS = {options!r}.split()
CELLS = dialled({agents}, (0.0, 1.0), 2, 60, OPTIONS)
SUITE = Suite("small", CELLS, "game/regularised_exploitability", "a test")
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(FILE.format(options=OPTIONS, agents=["ipo", "dpo"]), encoding="utf-8")
    return path


def bench(suite, folder):
    return main(["--suite", str(suite), "--dir", str(folder), "--processes", "1"])


def test_what_is_finished_is_not_played_again_and_the_tables_are_the_same(suite, tmp_path, capsys):
    folder = tmp_path / "out"
    assert bench(suite, folder) == 0
    first, table = json.loads((folder / "results.json").read_text()), capsys.readouterr().out
    assert len(first["cells"]) == 8
    assert "ipo" in table
    assert "cyclic lam=1" in table
    assert "probability of improvement, row over column" in table
    assert all(cell["curve"][0]["queries"] == 0 for cell in first["cells"])
    assert all(60 <= cell["curve"][-1]["queries"] < 70 for cell in first["cells"])
    cells = sorted((folder / "cells").iterdir())
    made = {cell.name: (cell / "done.json").stat().st_mtime_ns for cell in cells}
    (cells[2] / "done.json").unlink()  # as if it had been killed in the middle
    assert bench(suite, folder) == 0
    again = {cell.name: (cell / "done.json").stat().st_mtime_ns for cell in cells}
    assert [name for name in made if made[name] != again[name]] == [cells[2].name]
    second = json.loads((folder / "results.json").read_text())
    for one, other in zip(first["cells"], second["cells"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path, capsys):
    path = tmp_path / "small.py"
    path.write_text(FILE.format(options=OPTIONS, agents=["ipo", "nosuch"]), encoding="utf-8")
    assert bench(path, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.count("failed:") == 4
    assert "nosuch-cyclic_lam_1-seed1" in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [cell["agent"] for cell in results["cells"]] == ["ipo"] * 4
    (log,) = (tmp_path / "out/cells").glob("nosuch-cyclic_lam_0-seed0-*/log.txt")
    assert "unknown agent 'nosuch'" in log.read_text()


def test_cells_have_names_of_their_own_that_say_what_they_are():
    cells = [cell for name in BUILT_IN for cell in find_suite(name).cells]
    assert len({cell.name for cell in cells}) == len(cells)
    one = Cell("my_lab:Config", "cyclic lam=0.5", 3, ("--x", "1"))
    assert one.name.startswith("my_lab_Config-cyclic_lam_0_5-seed3-")
    assert one.name != Cell("my_lab:Config", "cyclic lam=0.5", 3, ("--x", "2")).name


def test_every_agent_has_the_same_budget():
    cells = dialled(["ipo", "dpo"], [0.0], 1, 100, ["--run.steps", "9"])
    assert {cell.options for cell in cells} == {cells[0].options}
    assert "--run.queries" in cells[0].options


def test_an_agent_of_ones_own_plays_a_built_in_suite():
    suite = find_suite("quick", ["my_lab:Config"])
    assert {cell.agent for cell in suite.cells} == {"my_lab:Config"}


def test_what_is_left_is_the_last_gap_over_the_first():
    cell = {"curve": [{"queries": 0, "gap": 0.4}, {"queries": 5, "eval": 1.0}, {"queries": 9, "gap": 0.1}]}
    assert remaining(cell, "gap") == 0.25


def test_an_evaluation_knows_the_queries_before_it(tmp_path):
    lines = [{"step": 0, "game/x": 1.0}, {"step": 1, "duel/queries": 6.0}, {"step": 1, "game/x": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curve(tmp_path) == [{"queries": 0.0, "game/x": 1.0}, {"queries": 6.0, "game/x": 0.5}]


@pytest.mark.slow
def test_a_reward_is_led_around_where_there_are_cycles_alone(tmp_path):
    arguments = ["--suite", "quick", "--agent", "ipo", "rlhf", "--dir", str(tmp_path), "--processes", "2"]
    assert main(arguments) == 0
    left = {}
    for cell in json.loads((tmp_path / "results.json").read_text())["cells"]:
        gap = remaining(cell, "game/regularised_exploitability")
        left.setdefault((cell["agent"], cell["game"]), []).append(gap)
    assert max(left["rlhf", "cyclic lam=0"]) < 0.5
    assert min(left["rlhf", "cyclic lam=1"]) > 10
    assert max(left["ipo", "cyclic lam=0"]) < 0.05
    assert max(left["ipo", "cyclic lam=1"]) < 1.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--suite", "quik"], 2, "unknown suite 'quik'; did you mean 'quick'?"),
        (["--suite", "nosuch.py"], 1, "the suite's file nosuch.py does not exist"),
        (["--suite", "raises.py"], 1, "raises.py raises ZeroDivisionError"),
        (["--suite", "empty.py"], 1, "empty.py must say SUITE = runners.suites.Suite(...), got NoneType"),
        (["--suite", "empty.py", "--agent", "ipo"], 1, "--agent goes with a built-in suite"),
        (["--dir", "full"], 1, "full is not empty and no benchmark's folder"),
        (["--dir", "old"], 1, "old was written in format 0, this is 1"),
        (["--processes", "0"], 1, "--processes must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_told(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "empty.py").write_text("")
    for name, content in (("full", "x"), ("old", '{"format": 0}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("bench.json" if name == "old" else "x")).write_text(content)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_a_suite_is_what_its_file_says(suite):
    found = find_suite(str(suite))
    assert isinstance(found, Suite)
    assert len(found.cells) == 8
