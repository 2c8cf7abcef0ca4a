"""The benchmarks run, on sizes that take no time; and the pages that print their figures."""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import agents
from agents.pairs.cpo import CPOConfig
from agents.pairs.f_dpo import FDPOConfig
from agents.registry import AGENTS, make_policy
from agents.singles.d2o import D2OConfig
from agents.singles.kimi import KimiConfig
from agents.singles.npo import NPOConfig
from benchmarks import (
    asking_ahead,
    calibration,
    entrants,
    equal_kl,
    exact_law,
    exploiters,
    fused_head,
    gpu_day,
    group_rest_points,
    memory,
    offline_agents,
    optima,
    queries,
    sampler_gap,
    solvers,
    step,
    vanishing_updates,
)
from benchmarks.matched_kl import measure
from benchmarks.models import SIZES, write_model
from envs import make_task
from envs.arena import DuelArena
from envs.games import bradley_terry_fit, kl_divergence
from envs.offline import FileArena
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.protocols import traits
from preference_duel.types import Proposal
from runners.benchmark.results import published, read_results
from runners.benchmark.scores import games, scores, table
from runners.benchmark.statistics import bootstrap, interquartile_mean
from tests.matrix_games import COMAL, RESPONSES
from tests.paths import DOCS, ROOT


def test_the_list_of_scripts_names_each():
    listed = re.findall(r"`(\w+)`", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))


def test_asking_ahead_is_measured_beside_asking_afterwards(monkeypatch, capsys):
    sizes = "--prompts 3 --responses 2 --token-seconds 1e-5 --repeats 1"
    monkeypatch.setattr("sys.argv", ["asking_ahead", *sizes.split()])
    asking_ahead.main()
    assert re.search(r"waiting: 3 prompts x 2, .* one after the other .* ahead .* ratio", capsys.readouterr().out)


def test_win_rate_hardly_tells_apart_what_exploitability_does():
    for lam, low, high in ((0.0, 0.0, 1e-3), (0.5, 0.0, 0.04)):
        beats_dpo, beats_ipo, start, dpo, ipo, nash = np.mean([measure(lam, seed) for seed in range(12)], axis=0)
        assert low <= beats_dpo - 0.5 <= high
        assert low <= beats_ipo - 0.5 <= high
        assert nash <= min(dpo, ipo) < start
    assert dpo > 2 * nash
    assert ipo > 2 * nash


def test_probabilities_that_verdicts_were_drawn_from_are_calibrated():
    task = finite_task("game", ("x",), RESPONSES, RESPONSES)
    oracle = TableOracle(COMAL, ("x",), RESPONSES)
    arena = DuelArena(task, oracle, None, "outcome")
    listed = [list(task.responses) * 40]
    duels = []
    for _ in range(4):
        arena.reset()
        duels.append(arena.play(Proposal(listed, listed)))
    run = calibration.Played(SimpleNamespace(oracle=oracle), duels, [], 0.0, 0.5)
    log_loss, accuracy, overconfidence = calibration.late(calibration.noise(run))
    assert abs(overconfidence) < 0.02
    assert accuracy > 0.5
    assert log_loss < np.log(2)


def test_late_metrics_are_means_over_the_last_quarter():
    metrics = [dict.fromkeys(calibration.TAGS, float(i)) for i in range(9)]
    assert calibration.late(metrics) == [7.5] * 3
    assert calibration.row("x", [[0.1, 0.6], [0.3, 0.6]]) == ["x", "0.200 ± 0.100", "0.600 ± 0.000"]


def test_replayed_duels_are_predicted_before_they_are_learned():
    class Counter:
        seen = 0

        def foresight(self, duel):
            return {tag: self.seen for tag in calibration.TAGS}

        def add(self, duel):
            self.seen += duel

    assert [one["accuracy"] for one in calibration.replay(Counter(), [1, 2, 3])] == [0, 1, 3]


def test_heads_are_timed_and_agree_with_the_plain_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fused_head, "matrix_rate", lambda *_: 1e9)
    small = "--vocabularies 50 --tokens 6 --width 8 --repeats 1 --threads 1 --json"
    monkeypatch.setattr("sys.argv", ["fused_head", *small.split(), str(tmp_path / "found.json")])
    fused_head.main()
    assert re.search(r"50 │ ours +│ \d\.\d{3} │ +1\.00 │", capsys.readouterr().out)
    found = json.loads((tmp_path / "found.json").read_text())["found"]["50"]
    assert {"ours", "plain"} <= found.keys()
    assert all(one["apart"] < 1e-5 and one["seconds"] > 0 for one in found.values())


@pytest.mark.slow
def test_small_updates_vanish_in_bfloat16(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vanishing_updates", "--rates", "1e-6", "--steps", "1"])
    vanishing_updates.main()
    rounded, whole = (float(share) for share in re.findall(r"(\d+\.\d)%", capsys.readouterr().out))
    assert rounded < 1 < 99 < whole


@pytest.mark.slow
def test_the_sampler_is_nearer_to_what_learns_in_float32(monkeypatch, capsys):
    monkeypatch.setattr(sampler_gap, "SAMPLERS", ("transformers",))
    small = "--sizes tiny --prompts 2 --responses 1 --threads 1"
    monkeypatch.setattr("sys.argv", ["sampler_gap", *small.split()])
    sampler_gap.main()
    exact, rounded = (
        [float(x) for x in line.split("│")[4:-1]] for line in capsys.readouterr().out.splitlines() if "tiny" in line
    )
    assert max(exact) < 1e-4
    assert all(a < b for a, b in zip(exact, rounded, strict=True))


def test_the_exact_law_is_timed_and_compared_with_draws(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["exact_law", "--length", "3", "--draws", "500"])
    exact_law.main()
    printed = capsys.readouterr().out
    assert "64 strings" in printed
    exact, low, high = (float(number) for number in re.findall(r"(\d\.\d{4})[\n\],]", printed))
    assert low - (high - low) < exact < high + (high - low)


def test_optima_of_pair_losses_are_those_of_theory(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["optima", "--agents", "nca"])
    optima.main()
    printed = capsys.readouterr().out
    assert "0.3213 0.4669 0.2118  0.1002" in printed, "nca on the reward"
    assert "0.3636 0.2727 0.3636  0.0000" in printed, "the Nash policy of comal3"
    assert "dpo" not in printed
    cpo = optima.optimum(CPOConfig(beta=0.5, alpha=0.0), optima.games()["reward"])
    assert torch.allclose(cpo, torch.softmax(2 * optima.REWARD, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "ratio", "limit", "expected"),
    [
        ("forward_kl", equal_kl.forward_kl, 0.0, (0.313426, 0.503971, 0.182603)),
        ("js", equal_kl.jensen_shannon, math.log(2), (0.171657, 0.682700, 0.145643)),
    ],
)
def test_policies_of_equal_kl_are_those_that_the_agents_end_at(divergence, ratio, limit, expected):
    """At beta 1 on rewards 0, 1, 1/2: f_dpo's optima; on comal3 the agent's own."""
    start, reward = (torch.tensor(row, dtype=torch.float64) for row in ((0.5, 0.3, 0.2), (0.0, 1.0, 0.5)))
    assert equal_kl.held(start, reward, 1.0, ratio, limit).tolist() == pytest.approx(expected, abs=1e-6)
    comal = optima.games()["comal3"]
    fitted = equal_kl.held(start, bradley_terry_fit(comal, start), 0.5, ratio, limit)
    solved = optima.optimum(FDPOConfig(beta=0.5, divergence=divergence), comal)
    assert torch.allclose(fitted, solved, atol=1e-5)
    spent = equal_kl.spending(lambda beta: equal_kl.held(start, reward, beta, ratio, limit), start, 0.05)
    assert kl_divergence(spent, start).item() == pytest.approx(0.05, abs=1e-5)


def test_single_responses_of_equal_kl_are_those_that_the_agents_end_at():
    comal = optima.games()["comal3"]
    start, wins = optima.START, comal @ optima.START
    tilt = torch.softmax(start.log() + 2 * equal_kl.d2o_score(start, wins), 0)
    for policy, config in (
        (equal_kl.kimi(start, wins, 0.5), KimiConfig(tau=0.5)),
        (equal_kl.npo(start, wins, 1.0, 0.5), NPOConfig(beta=0.5)),
        (tilt, D2OConfig(beta=0.5, alpha=0.5)),
    ):
        assert torch.allclose(policy, optima.optimum(config, comal), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_bounds_are_compared_with_the_exact_exploitability(monkeypatch, capsys):
    for name, value in {"AGENTS": ["ipo"], "SNAPSHOTS": [2, 5], "LAMS": [0.75], "LENGTHS": {2: 1}}.items():
        monkeypatch.setattr(exploiters, name, value)
    monkeypatch.setattr("sys.argv", ["exploiters", "--repeats", "3", "--queries", "20000", "--compare", "--cases", "2"])
    exploiters.main()
    printed = capsys.readouterr().out
    assert "16 strings" in printed
    assert re.search(r"best of 64 │ 6 +│ \d", printed)  # three samplings of two policies
    shares = [float(share) for share in re.findall(r"│ 2 +│ (-?\d\.\d\d) +│", printed)]
    assert len(shares) == len(exploiters.TRAININGS)
    assert 0.8 < shares[0] <= 1
    assert shares[2] < shares[0]


@pytest.mark.slow
def test_a_solve_is_timed_in_a_process_of_its_own(tmp_path):
    def options(limit):
        return argparse.Namespace(threads=1, device="cpu", limit=limit)

    torch.save(solvers.game("gpm", 40), tmp_path / "game.pt")
    found = solvers.solve(str(tmp_path / "game.pt"), "gpm", 40, "von Neumann winner", "ours", options(60.0))
    assert found.error is None
    assert 0 < found.seconds < 60
    assert found.exploitability < 1e-9
    assert found.copies >= 1
    late = solvers.solve(str(tmp_path / "game.pt"), "gpm", 40, "von Neumann winner", "ours", options(0.01))
    assert late.seconds is None
    table = solvers.show([found, late], [40], 0.01)
    assert table.row_count == 1


def test_queries_are_counted_until_the_mean_gap_stays_within_a_tenth():
    first, second = [(0, 1.0), (6, 0.1), (12, 0.3), (18, 0.02)], [(0, 1.0), (6, 0.0), (12, 0.1), (18, 0.04)]
    assert queries.told([first, second]) == "3.0 % (18)"
    assert queries.told([first[:3], second[:3]]) == "20.0 % (not reached)"
    found = queries.play("oelhf", "comal3", 0, 100)
    assert [count for count, _ in found] == [0, 200, 400]
    assert found[-1][1] < 0.1 * found[0][1]


def test_the_example_of_the_games_page_prints_what_it_says(capsys):
    codes = re.findall(r"```python\n(.*?)```", (DOCS / "games.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(codes[1], "games.md", "exec"), {})
    assert re.findall(r"\d\.\d{4}", capsys.readouterr().out) == re.findall(r"(?<= )\d\.\d{4}", codes[1])
    exec(compile(codes[0], "games.md", "exec"), {})
    printed = capsys.readouterr().out
    for number in ("0.0333", "4.0*, 3.0*, 4.0*", "0.2749, 0.2797, 0.4454", "0.9621"):
        assert re.search(number, printed)
    assert float(re.findall(r"tensor\(([\d.e-]+)", printed)[-1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_rest_points_of_groups_are_printed_as_the_page_says(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["group_rest_points", "--games", "comal3"])
    group_rest_points.main()
    printed = capsys.readouterr().out
    page = (DOCS / "agents/grpo.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in row.split("|")[1:5]] for row in re.findall(r"^\| `.* \|$", page, re.MULTILINE)
    ]
    shown = {
        tuple(cell.strip() for cell in row.split("│")[1:-1]) for row in printed.splitlines() if row.startswith("│")
    }
    found = 0
    for schedule, aggregate, std, figures in (row for row in rows if row[0] in ("all_pairs", "circular", "anchor")):
        gap, away, tau, near = re.findall(r"\.\d{4}", figures)
        (row,) = [row for row in shown if row[:3] == (schedule, aggregate, std)]
        assert row[4:7] == (f"0{gap}", f"0{away}", f"0{near} at 0{tau}")
        found += 1
    assert found == 14


@pytest.mark.slow
def test_entrants_rewarded_in_a_group_are_printed_as_the_page_says(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["entrants"])
    entrants.main()
    printed = {
        tuple(re.split(r"\s*│\s*", row.strip("│ \n"))) for row in capsys.readouterr().out.splitlines() if "│" in row
    }
    page = (DOCS / "agents/grpo.md").read_text(encoding="utf-8")
    rows = [
        tuple(cell.strip(" `") for cell in row.strip("| ").split("|"))
        for row in re.findall(r"^\| `.* \|$", page.split("## Benchmark")[1].split("## Settings")[0], re.MULTILINE)
    ]
    assert [row[0] for row in rows] == 2 * entrants.of_groups(read_results(published("standard")))
    assert set(rows) <= printed


@pytest.mark.slow
def test_the_rows_of_the_benchmarks_page_are_those_of_the_published_results():
    results = read_results(published("standard"))
    left, every = table(results), games(results)
    page = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    figure = r" +(\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\])"
    rows = re.findall(rf"^  (\w+){figure * 4}$", page, re.MULTILINE)
    for label, *figures in rows:
        if label != entrants.UNIFORM:
            shown = [scores(left[label], chosen) for chosen in (*([game] for game in entrants.CYCLES), every)]
            assert figures == [str(bootstrap(one)) for one in shown], label
    assert {label for label, *_ in rows} == {entrants.UNIFORM} | {label for label in left if " " not in label}
    over_all = [float(figures[-1].split()[0]) for _, *figures in rows]
    assert over_all == sorted(over_all)
    exact = [float(interquartile_mean(scores(left[label], every))) for label, *_ in rows if label != entrants.UNIFORM]
    assert exact == sorted(exact)
    assert list(entrants.ends(results, ["dno", "oelhf"], ranked=True).columns[0].cells) == ["oelhf", "dno"]


SMALL = ["--prompts", "3", "--prompt-tokens", "4", "--new-tokens", "5", "--threads", "1"]


def hide(monkeypatch, package):
    """Makes a package look as if it were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )


@pytest.mark.slow
def test_a_step_is_measured_beside_its_floor(monkeypatch, capsys, tmp_path):
    hide(monkeypatch, "trl")
    monkeypatch.setattr("sys.argv", ["step", *SMALL, "--steps", "2", "--profile", "--json", str(tmp_path / "out.json")])
    step.main()
    printed = capsys.readouterr().out
    assert "floor" in printed
    assert re.search(r"aten::mm +\d+\.\d+%", printed)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(found["steps"]["ours"]) == 2 + step.WARM
    assert all(one["sample"] > 0 and one["learn"] > 0 for one in found["steps"]["ours"])
    options = argparse.Namespace(size="1m", prompts=64, responses=2, prompt_tokens=16, new_tokens=64, lora=0)
    weights = 4 * (4 * 128 * 128 + 3 * 128 * 384) + 128 * 2048
    assert step.floor(options, 1.0)["learn"] == 2 * weights * 128 * 80 * 4
    assert step.floor(options, 1.0)["sample"] == 2 * weights * (128 * 64 + 64 * 16)


@pytest.mark.slow
def test_memory_grows_with_the_tokens_of_a_pass(tmp_path):
    write_model(tmp_path, SIZES["1m"], torch.float32)
    few, many = (memory.measure(tmp_path, 16, 4, tokens, False, "cpu") for tokens in (256, 4096))
    assert 0 < few < many / 3


@pytest.mark.slow
def test_every_agent_that_learns_from_files_has_the_same_duels(monkeypatch, capsys):
    ours = {name for name, where in AGENTS.items() if "sb3" not in where}
    assert set(offline_agents.FROM_FILES) == {name for name in ours if learns_from_files(name)}
    monkeypatch.setattr(offline_agents, "STEPS", 3)
    given = []
    play = FileArena.play
    monkeypatch.setattr(FileArena, "play", lambda self, *of: given.append(len(self.given)) or play(self, *of))
    monkeypatch.setattr(
        "sys.argv", ["offline_agents", "--agents", "dpo", "dno", "pelhf", "--seeds", "2", "--trials", "1"]
    )
    offline_agents.main()
    printed = capsys.readouterr().out
    assert set(re.findall(r"│ (dpo|dno|pelhf|plain plan|behaviour policy) ", printed)) >= {"dpo", "dno", "pelhf"}
    assert len(given) == 2 * 2 * (3 + 3 + 1 + 1)
    assert len(set(given)) == 2, "one file for each game, of as many duels for both kinds"


def learns_from_files(name):
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    return traits(agents.make(name, policy=make_policy("tabular", task=task))).learns_from_files


SLEEPS = "timeit -n 1 -r 1 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'"


def in_this_process(command, limit):
    """What `gpu_day.run` returns, without the seconds that a process needs to import torch."""
    module, output = importlib.import_module(command[2]), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(module, "matrix_rate", lambda *_: 1e9, raising=False)
        patch.setattr("sys.argv", command[2:])
        return module.main() or 0, output.getvalue(), ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_a_gpu_day_runs_at_toy_size_and_what_takes_too_long_is_recorded(monkeypatch, tmp_path, capsys):
    real, middle = gpu_day.run, len(gpu_day.PARTS) // 2
    asleep = gpu_day.Part("sleeps", 15 / 60, SLEEPS, "", keep=r"^\d+$")
    failing = gpu_day.Part("fails", 1, "timeit -n 1 'raise ValueError(\"no such card\")'", "")
    parts = (*gpu_day.PARTS[:middle], asleep, failing, *gpu_day.PARTS[middle:])
    monkeypatch.setattr(gpu_day, "PARTS", parts)
    apart = ("timeit", "pytest")
    monkeypatch.setattr(gpu_day, "run", lambda words, s: (real if words[2] in apart else in_this_process)(words, s))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["gpu_day", "--toy", "--out", str(tmp_path)])
    gpu_day.main()
    found = json.loads((tmp_path / "gpu_day.json").read_text(encoding="utf-8"))
    assert found["toy"]
    assert found["versions"]["torch"] == torch.__version__
    status = {one["name"]: one["status"] for one in found["parts"]}
    assert list(status) == [part.name for part in parts]
    killed, failed = found["parts"][middle : middle + 2]
    assert killed["status"] == "ended after its 15 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(killed["figures"][0]), 0)
    assert failed["status"] == 1
    assert failed["error"].endswith("ValueError: no such card")
    for part, one in zip(parts, found["parts"], strict=True):
        missing = part.needs and importlib.util.find_spec(part.needs) is None
        if part not in (asleep, failing):
            assert one["status"] == (f"{part.needs} is not installed" if missing else 0), one["error"]
            assert bool(one["figures"]) is not bool(missing), part.name
    figures = {one["name"]: "\n".join(one["figures"]) for one in found["parts"]}
    assert all(f"\n{who} · " in figures["sampling"] for who in ("ours", "transformers", "floor"))
    assert re.search(r"\nours · \d+\.\d · \d+\.\d · 1.00 · 0.0e\+00", figures["PairRM"])
    page = (tmp_path / "gpu_day.md").read_text(encoding="utf-8")
    assert page.startswith("Toy sizes on the CPU")
    assert page.count("\n| ") == len(parts) + 1
    assert "sleeps: ended after its 15 s" in capsys.readouterr().out


def test_a_gpu_day_stops_at_its_budget():
    late = gpu_day.perform(gpu_day.PARTS[0], True, -1.0, folder="", blender="")
    assert late.status == "not run: the budget was spent"
    assert gpu_day.seconds("40m") == 2400
    with pytest.raises(argparse.ArgumentTypeError, match="40m or 2h; got '40'"):
        gpu_day.seconds("40")
