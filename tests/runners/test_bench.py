"""The benchmark plays what is missing and nothing twice, tells what failed, and keeps what is finished."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from agents.registry import AGENTS
from envs.games import von_neumann_regret
from runners.bench import main
from runners.benchmark.bounds import COLUMNS, exploited, figures
from runners.benchmark.cells import REGRET, play_cells
from runners.benchmark.executors import batches, local
from runners.benchmark.exploiter import DRAWS
from runners.benchmark.results import read_results, shipped, write_results
from runners.benchmark.scores import gaps, left, table, to_tenth
from runners.benchmark.suites import BUILT_IN, GROUPS, VARIANTS, Cell, Entrant, Game, Suite, find_suite, tabular
from runners.benchmark.tuning import SEARCH, by_default, settings_of, trials, tuned_for
from runners.duel import main as duel
from runners.exploit import main as exploit
from runners.run.build import build_experiment
from runners.run.cli import parse
from runners.run.config import config_class
from runners.run.record import read_lines, write_whole
from tests.bench_engine import in_process
from tests.paths import DOCS

FILE = """
from runners.benchmark.suites import Entrant, Game, Suite, tabular
GAMES = tuple(Game("cyclic", lam) for lam in (0.0, 1.0))
SUITE = Suite("small", "a test", tuple(Entrant(one, one) for one in {agents}), GAMES, 2, tabular(60, 1, 2))
"""


def tuned(agents):
    return settings_of(agents, tuned_for("standard"))


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(FILE.format(agents=["ipo", "dpo"]), encoding="utf-8")
    return path


@pytest.fixture
def here(monkeypatch):
    """Saves the seconds of a process of its own and of drawing the page, which other tests look at."""
    monkeypatch.setattr("runners.benchmark.report.page.write", lambda results, folder: folder / "index.html")
    with in_process(monkeypatch):
        yield


def bench(suite, folder):
    return main(["--suite", str(suite), "--dir", str(folder), "--processes", "1"])


@pytest.mark.slow
def test_what_is_finished_is_not_played_again_and_the_tables_are_the_same(suite, tmp_path, capsys, request):
    folder = tmp_path / "out"
    assert bench(suite, folder) == 0
    first, table = json.loads((folder / "results.json").read_text()), capsys.readouterr().out
    assert len(first["cells"]) == 8
    assert "ipo" in table
    assert "cyclic lam=1" in table
    assert "improvement, row over" in " ".join(table.split())
    assert all(cell["curve"]["queries"][0] == 0 for cell in first["cells"])
    assert all(60 <= cell["curve"]["queries"][-1] < 70 for cell in first["cells"])
    cells = sorted((folder / "cells").iterdir())
    made = {cell.name: (cell / "done.json").stat().st_mtime_ns for cell in cells}
    (cells[2] / "done.json").unlink()  # as if it had been killed in the middle
    request.getfixturevalue("here")  # the other engine: the same numbers without a second process
    assert bench(suite, folder) == 0
    again = {cell.name: (cell / "done.json").stat().st_mtime_ns for cell in cells}
    assert [name for name in made if made[name] != again[name]] == [cells[2].name]
    second = json.loads((folder / "results.json").read_text())
    for one, other in zip(first["cells"], second["cells"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.usefixtures("here")
def test_a_cell_that_fails_does_not_stop_the_others(tmp_path, capsys):
    path = tmp_path / "small.py"
    path.write_text(FILE.format(agents=["ipo", "nosuch"]), encoding="utf-8")
    assert bench(path, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.count("failed:") == 4
    assert "nosuch-cyclic_lam_1-seed1" in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [cell["entrant"] for cell in results["cells"]] == ["ipo"] * 4
    (log,) = (tmp_path / "out/cells").glob("nosuch-cyclic_lam_0-seed0-*/log.txt")
    assert "unknown agent 'nosuch'" in log.read_text()


def test_cells_have_names_of_their_own_that_say_what_they_are():
    cells = [cell for name in BUILT_IN for cell in find_suite(name, tuned).cells]
    assert len({cell.name for cell in cells}) == len(cells)
    one = Cell(Entrant("mine", "my_lab:Config"), Game("cyclic", 0.5, noise=0.25), 3, ("--policy.start", "{seed}"))
    assert one.name.startswith("mine-cyclic_lam_0_5_noise_0_25-seed3-")
    assert one.name != Cell(one.entrant, one.game, 3, ()).name
    line = "--agent my_lab:Config --oracle cyclic+noise --oracle.lam 0.5 --oracle.noise.eps 0.25"
    assert " ".join(one.arguments) == f"{line} --run.feedback outcome --policy.start 3 --run.seed 3"


def test_a_cell_is_the_run_of_its_command_line_alone_or_in_company(tmp_path):
    cells = [Cell(Entrant("sppo", "sppo"), Game("cyclic", lam), 4, tabular(120, 2, 2)) for lam in (0.0, 1.0)]
    together, alone = play_cells(cells), play_cells(cells[1:])
    assert duel([*cells[1].arguments, "--run.dir", str(tmp_path / "run")]) == 0
    run = read_lines(tmp_path / "run/metrics.jsonl")
    for played in (together[1], alone[0]):
        for tag in ("game/exploitability", "game/regularised_exploitability_average", "eval/win_rate_vs_ref"):
            assert played.content["curve"][tag] == pytest.approx([line[tag] for line in run if tag in line], rel=1e-5)
    assert together[1].content["law"] == alone[0].content["law"]


def test_a_cell_is_exploited_as_its_run_would_be_by_the_command(tmp_path):
    games = Game("cyclic", 0.5, exploiter=3000), Game("cyclic", 0.5)
    cells = [Cell(Entrant("ipo", "ipo"), game, 1, tabular(60, 2, 1)) for game in games]
    assert cells[0].name != cells[1].name
    assert batches([*cells, *cells], 30) == [[cells[0]], [cells[1], cells[1]]]
    (played,) = play_cells(cells[:1])
    found = played.content["exploited"]
    run = tmp_path / "run"
    assert duel([*cells[0].arguments, "--run.dir", str(run)]) == 0
    assert exploit([str(run), "--queries", "3000", "--json", str(tmp_path / "found.json"), "--device", "cpu"]) == 0
    (expected,) = json.loads((tmp_path / "found.json").read_text())["policies"]
    assert found["trained"]["queries"] == expected["trained"]["queries"]
    for name in ("value", "low", "high", "kl"):
        assert found["trained"][name] == pytest.approx(expected["trained"][name], abs=1e-5)
    assert 0.5 * expected["exact"] < found["trained"]["value"] < expected["exact"]
    assert found["best of 64"]["low"] < expected["exact"]
    assert "exploited" not in play_cells(cells[1:])[0].content


@pytest.mark.slow
def test_a_language_model_of_the_suite_lm_is_exploited(monkeypatch):
    monkeypatch.setattr("runners.benchmark.exploiter.PROMPTS", 4)
    cell = next(cell for cell in find_suite("lm", by_default, ["dpo"]).cells if cell.game.exploiter)
    small = "--run.queries 96 --run.eval_queries 96 --run.eval_prompts 4 --run.eval_pairs 2 --run.batch_size 8"
    game = replace(cell.game, exploiter=64, options=("--task", "chat", *small.split()))
    (played,) = play_cells([replace(cell, game=game)])
    assert played.content is not None, played.log
    found = exploited({"entrants": ["dpo"], "cells": [played.content]})[game.label]["dpo"]
    assert found[0]["curve"]["eval/kl"][0] == 0 != found[0]["curve"]["eval/kl"][1]
    assert found[0]["exploited"]["best of 64"]["queries"] == 4 * 64 * DRAWS
    assert found[0]["exploited"]["trained"]["queries"] == 128 + 4 * DRAWS**2
    assert len(figures(found)) == len(COLUMNS)


def test_the_regret_is_that_of_the_duels_that_were_played():
    (played,) = play_cells([Cell(Entrant("ipo", "ipo"), Game("cyclic", 0.5), 0, tabular(60, 1, 1))])
    settings = parse(played.cell.arguments).settings
    experiment = build_experiment(settings, "cpu")
    column = {y.text: i for i, y in enumerate(experiment.task.responses)}
    first, second = [], []
    for _ in range(10):
        duel = experiment.arena.play(experiment.agent.propose(experiment.arena.reset()))
        experiment.agent.update(duel)
        for b, k, l in duel.comparisons.nonzero().tolist():
            first.append(column[duel.left[b][k].text])
            second.append(column[duel.right[b][l].text])
    regret = von_neumann_regret(experiment.evaluation.matrices[0], first, second)
    assert played.content["curve"][REGRET] == pytest.approx([regret[-1].item() / 60], rel=1e-5)


@pytest.mark.parametrize("name", ["quick", "lm"])
def test_published_results_are_of_the_suite_as_it_is(name):
    assert shipped(find_suite(name, by_default))["suite"] == name


def test_an_agent_of_ones_own_plays_a_built_in_suite():
    (entrant,) = find_suite("quick", tuned, ["tests.my_agent:Config"]).entrants
    assert entrant == Entrant("tests.my_agent:Config", "tests.my_agent:Config")


def test_what_is_left_is_the_last_gap_over_the_first():
    curve = {"queries": [0, 5, 9], "game/x": [0.4, 0.04, 0.1], "game/x_average": [0.4, 0.3, 0.2]}
    cell = {"curve": curve | {"eval/win_rate_vs_ref": [0.5, 0.6, 0.9]}}
    assert left(cell, "game/x") == 0.25
    assert left(cell, "game/x", "average") == 0.5
    assert to_tenth(cell, "game/x") == 5
    with pytest.raises(ValueError, match="ipo in rps, seed 3: the start is an equilibrium"):
        left({"entrant": "ipo", "game": "rps", "seed": 3, "curve": {"game/x": [0.0, 0.1]}}, "game/x")
    assert gaps(cell, "eval/win_rate_vs_ref") == pytest.approx([0.5, 0.4, 0.1])


@pytest.mark.parametrize("agent", SEARCH)
def test_what_is_tuned_are_fields_of_the_agent(agent):
    kind, _ = config_class("agent", agent)
    assert {name.partition(".")[0] for name in SEARCH[agent]} <= {field.name for field in fields(kind)}


def test_agents_that_are_not_tuned_are_named_on_the_page():
    sentence = re.search(r"Not tuned are (.*?)\.\n", (DOCS / "benchmark.md").read_text(encoding="utf-8"), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == AGENTS.keys() - SEARCH.keys()


@pytest.mark.slow
def test_trials_are_as_many_for_every_agent_and_the_first_is_its_defaults():
    drawn = {agent: trials(Entrant(agent, agent), 16) for agent in ("dpo", "comal", "oelhf")}
    for agent, found in drawn.items():
        assert (len(found), found[0]) == (16, ())
        assert found[:5] == trials(Entrant(agent, agent), 5)
        for options in found:
            parse(["--agent", agent, *options])
    assert len(set(drawn["comal"])) == 16


@pytest.mark.slow
def test_a_reward_is_led_around_where_there_are_cycles_alone(tmp_path):
    suite = find_suite("quick", by_default, ["ipo", "rlhf"])
    played = {("rlhf", "cyclic lam=0"), ("rlhf", "cyclic lam=1"), ("ipo", "cyclic lam=1")}
    cells = [cell.name for cell in suite.cells if (cell.entrant.label, cell.game.label) in played]
    arguments = ["--defaults", "--agent", "ipo", "rlhf", "--dir", str(tmp_path), "--processes", "2"]
    assert main([*arguments, "--cells", *cells]) == 0
    found = table(read_results(tmp_path / "results.json"))
    assert np.median(found["rlhf"]["cyclic lam=0"]) < 0.1
    assert np.median(found["rlhf"]["cyclic lam=1"]) > 1.5
    assert np.median(found["ipo"]["cyclic lam=1"]) < 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--suite", "quik"], 2, "unknown suite 'quik'; did you mean 'quick'?"),
        (["--suite", "nosuch.py"], 1, "the suite's file nosuch.py does not exist"),
        (["--suite", "raises.py"], 1, "raises.py raises ZeroDivisionError"),
        (["--suite", "empty.py"], 1, "empty.py must say SUITE = runners.benchmark.suites.Suite(...), got NoneType"),
        (["--suite", "empty.py", "--agent", "ipo"], 1, "--agent goes with a built-in suite"),
        (["--dir", "full"], 1, "full is not empty and no benchmark's folder"),
        (["--dir", "old"], 1, "old was written in format 0, this is 1"),
        (["--processes", "0"], 1, "--processes must be at least 1, got 0"),
        (["--suite", "small.py", "--cells", "ipo-x"], 2, "unknown cell 'ipo-x'"),
        (["--agent", "ipoo"], 2, "unknown agent 'ipoo'"),
        (["--agent", "ipo", "--tuned", "empty.py"], 1, "empty.py is no file of --tune"),
        (["--tuned", "nosuch.json"], 1, "the file of settings nosuch.json does not exist"),
        (["--defaults", "--agent", "ipoo"], 2, "unknown agent 'ipoo'"),
        (["--tune", "--suite", "lm"], 1, "suite 'lm' names no games to tune on"),
        (["--tune", "--trials", "0"], 1, "--trials must be at least 1, got 0"),
        (["--tune", "--agent", "pelhf"], 1, "agent 'pelhf' does not say what may be tuned"),
    ],
)
def test_wrong_input_is_told(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "small.py").write_text(FILE.format(agents=["ipo"]))
    for name, content in (("full", "x"), ("old", '{"format": 0}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("bench.json" if name == "old" else "x")).write_text(content)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


def test_a_suite_is_what_its_file_says(suite):
    found = find_suite(str(suite), tuned)
    assert isinstance(found, Suite)
    assert len(found.cells) == 8
    assert {cell.options for cell in found.cells} == {found.options}
    assert found.conditions()["games"][1]["label"] == "cyclic lam=1"


@pytest.mark.usefixtures("here")
def test_a_full_disk_is_told_and_keeps_what_is_finished(suite, tmp_path, monkeypatch, capsys):
    written = []

    def write(path, text):
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_whole(path, text)

    monkeypatch.setattr("runners.benchmark.results.write_whole", write)
    assert bench(suite, tmp_path / "out") == 1
    assert "No space left on device; finished cells are kept, call again to go on" in capsys.readouterr().err
    assert len(list((tmp_path / "out/cells").glob("*/done.json"))) == 2
    monkeypatch.setattr("runners.benchmark.results.write_whole", write_whole)
    assert bench(suite, tmp_path / "out") == 0


def test_results_of_another_version_are_told(tmp_path):
    write_results(tmp_path / "results.json", {"format": 99, "cells": []})
    with pytest.raises(ValueError, match="was written in format 99, this is 1"):
        read_results(tmp_path / "results.json")


@pytest.mark.usefixtures("here")
def test_an_agent_of_ones_own_stands_beside_the_published_results(tmp_path, monkeypatch, capsys):
    def small(entrants):
        return Suite("quick", "a test", tuple(entrants), (Game("cyclic", 0.5),), 2, tabular(60, 1, 2))

    monkeypatch.setitem(BUILT_IN, "quick", (small, ("ipo", "dpo")))
    monkeypatch.setattr("runners.benchmark.results.PUBLISHED", tmp_path)
    arguments = ["--processes", "1", "--dir"]
    assert main([*arguments, str(tmp_path / "all")]) == 0
    (tmp_path / "all/results.json").rename(tmp_path / "quick.json")
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "mine"), "--agent", "tests.my_agent:Config"]) == 0
    assert "tests.my_agent:Config" in "".join(capsys.readouterr().out.split())
    results, before = (read_results(tmp_path / path) for path in ("mine/results.json", "quick.json"))
    assert list(results["entrants"]) == ["ipo", "dpo", "tests.my_agent:Config"]
    assert results["cells"][:4] == before["cells"]
    assert {left(cell, "game/exploitability") for cell in results["cells"][4:]} == {1.0}
    assert len(list((tmp_path / "mine/cells").iterdir())) == 2
    monkeypatch.setitem(BUILT_IN, "quick", (lambda entrants: replace(small(entrants), seeds=3), ("ipo", "dpo")))
    assert main([*arguments, str(tmp_path / "other"), "--agent", "ipo"]) == 1
    assert "'quick' were made under other conditions: leave --agent out" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_settings_are_tuned_on_held_out_games_and_played(tmp_path, capsys):
    more = "120, 1, 1), tuned_on=GAMES"
    (tmp_path / "small.py").write_text(FILE.format(agents=["ipo"]).replace("60, 1, 2)", more))
    arguments = ["--suite", str(tmp_path / "small.py"), "--processes", "1", "--dir", str(tmp_path / "out")]
    assert main(["--tune", "--agent", "ipo", "--trials", "3", *arguments]) == 0
    assert f"Settings: {tmp_path / 'out/tuned.json'}" in capsys.readouterr().out
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("cells/*/done.json")}
    assert len(made) == 36
    assert main(["--tune", "--agent", "ipo", "--trials", "3", *arguments]) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    content = json.loads((tmp_path / "out/tuned.json").read_text())
    found = content["agents"]["ipo"]
    assert (content["conditions"]["first_seed"], content["conditions"]["seeds"]) == (1000, 6)
    assert [trial["options"] for trial in found["trials"]] == [list(one) for one in trials(Entrant("ipo", "ipo"), 3)]
    assert found["left"] == min(trial["left"] for trial in found["trials"])
    (entrant,) = settings_of(["ipo"], tmp_path / "out/tuned.json")
    assert list(entrant.options) == found["options"]
    assert settings_of(["sppo"], tmp_path / "out/tuned.json") == [Entrant("sppo", "sppo")]


def test_variants_of_an_agent_try_the_same_values_of_what_they_do_not_set():
    plain = trials(Entrant("rloo", "rloo"), 16)
    fixed = Entrant("rloo two", "rloo", ("--agent.responses", "2"))
    assert trials(fixed, 16)[0] == fixed.options
    for ours, theirs in zip(trials(fixed, 16)[1:], plain[1:], strict=True):
        place = theirs.index("--agent.responses")
        assert ours == (*fixed.options, *theirs[:place], *theirs[place + 2 :])


def test_variants_of_standard_are_named_by_their_agent_and_differ_from_it():
    (entrant,) = find_suite("quick", by_default, ["grpo circular"]).entrants
    assert entrant == Entrant("grpo circular", "grpo", VARIANTS["grpo circular"])
    made = [parse(Cell(one, Game("cyclic"), 0, ()).arguments).settings.configs["agent"] for one in by_default(GROUPS)]
    assert len(set(made)) == len(made)


def test_no_suite_plays_what_settings_are_chosen_on():
    for name in ("quick", "standard"):
        suite = find_suite(name, tuned)
        held_out = suite.held_out(suite.entrants)
        assert len(held_out.games) * held_out.seeds == 12
        assert held_out.first_seed >= suite.first_seed + suite.seeds
        assert {game.label for game in held_out.games} <= {game.label for game in suite.games}
    with pytest.raises(ValueError, match="suite 'lm' names no games to tune on"):
        find_suite("lm", tuned).held_out([])


def test_networks_play_with_their_own_settings():
    assert {entrant.options for entrant in find_suite("lm", lambda a: settings_of(a, tuned_for("lm"))).entrants} == {()}


@pytest.mark.slow
def test_after_an_error_nothing_more_is_begun():
    def cells(seed):
        return [Cell(Entrant("ipo", "ipo"), Game("cyclic", 0.5), seed, tabular(60, 1, 1))]

    under_way = []

    def play():
        with local(1) as engine:
            under_way.extend(engine.submit(cells(seed)) for seed in range(6))
            engine.finished(under_way[:1])
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        play()
    assert under_way[0].result()[0].content is not None
    assert under_way[-1].cancelled()


def test_an_interrupted_benchmark_says_how_to_go_on(suite, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("runners.benchmark.schedule.play", interrupted)
    assert bench(suite, tmp_path / "out") == 130
    assert capsys.readouterr().err == "interrupted: finished cells are kept, call again to go on\n"
