"""Over-optimisation along checkpoints: figures computed anew, the turning point by hand, and what is refused."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from envs.games import exploitability, kl_divergence, payoff_matrix
from envs.games.lower_bounds import best_of_n_kl
from oracles.registry import make
from runners.duel import main as duel
from runners.evaluation.overoptimisation.gain_report import SHOWN, shown
from runners.evaluation.overoptimisation.turning_point import interval, turn
from runners.fit_oracle import main as fit_oracle
from runners.overoptimise import main
from runners.run.checkpoint import load, steps
from tests.paths import GOLDEN, TESTS

GOLD = "cyclic,lam=0.5"
GAME = ["--task", "symbols", "--task.alphabet", "2", "--task.prompts", "2", "--policy", "tabular", "--policy.exact"]
RUN = ["--run.batch_size", "None", "--run.eval_every", "0", "--run.duel_every", "0", "--run.save_every", "2"]
PPO = ["--agent", "ppo_ptx", "--agent.reward", "log_odds", "--run.feedback", "probability", "--agent.gradient.form"]
HEDGE = [*PPO, "rebel", "--agent.optimiser.method", "lbfgs", "--agent.gradient.eta", "0.3", "--agent.tau", "1e-6"]
PROMPTS, RESPONSES = ["#0", "#1"], [a + b + c for a in "ab" for b in "ab" for c in "ab"]


def trained(folder, *more):
    """Returns the directory of a run of four steps; more words override."""
    assert duel([*GAME, *RUN, *HEDGE, "--run.steps", "4", "--run.keep", "9", "--run.dir", str(folder), *more]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs whose proxies are other games than the gold one."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        trained(folder / seed, "--oracle", "cyclic", "--oracle.lam", "0", "--oracle.seed", seed, "--run.seed", seed)
        for seed in "12"
    ]


def results_of(found, *words):
    assert main([*map(str, words), "--gold", GOLD, "--json", str(found), "--picture", str(found) + ".png"]) == 0
    return json.loads(found.read_text(encoding="utf-8"))


def test_a_checkpoint_is_measured_by_its_whole_distribution(runs, tmp_path):
    (run,) = results_of(tmp_path / "found.json", runs[0])["runs"]
    assert [one["name"] for one in run["checkpoints"]] == ["start", *(f"step {step}" for step in steps(runs[0]))]
    assert load(runs[0], 3) is None
    point = run["checkpoints"][1]
    table = json.loads((runs[0] / "step-2/policy/probs.json").read_text(encoding="utf-8"))
    policy = torch.tensor([[table[x][y] for y in RESPONSES] for x in PROMPTS], dtype=torch.float64)
    start = torch.full((2, 8), 1 / 8, dtype=torch.float64)
    assert point["kl"] == pytest.approx(kl_divergence(policy, start).mean().item())
    for judge, lam, seed in (("proxy", 0.0, 1), ("gold", 0.5, 0)):
        oracle = make("cyclic", prompts=PROMPTS, responses=RESPONSES, lam=lam, seed=seed)
        matrix = payoff_matrix(oracle, PROMPTS, RESPONSES)
        for name, values in (("win_rate", matrix), ("reward", matrix.logit())):
            wanted = torch.einsum("bn,bnm,bm->b", policy, values, start).mean().item()
            assert point[name][judge] == pytest.approx(wanted, abs=1e-9)
    assert point["exploitability"]["value"] == pytest.approx(exploitability(matrix, policy).mean().item())


def test_the_proxy_gains_what_its_variance_allows(runs, tmp_path, capsys):
    """Hedge with small steps moves along start e^(R / tau), whose gain is sqrt(2 Var KL) to first order."""
    results = results_of(tmp_path / "found.json", *runs)
    for run in results["runs"]:
        assert run["proxy_variance"] == pytest.approx(4 / 2 * 7 / 8)  # differences have root mean square 2
        for one in run["checkpoints"][1:]:
            limit = math.sqrt(2 * run["proxy_variance"] * one["kl"])
            assert one["reward"]["proxy"] / limit == pytest.approx(1, abs=0.05)
        for one in run["best_of"]:
            assert one["kl"] <= best_of_n_kl(int(one["name"].split()[-1])) + 1e-9
        gains = [one["reward"]["proxy"] for one in run["best_of"]]
        assert gains == sorted(gains)
        assert gains[0] > 1
    exploited = np.array([[p["exploitability"]["value"] for p in run["checkpoints"]] for run in results["runs"]]).T
    least = results["least_exploitable"]
    assert least["place"] == exploited.mean(1).argmin()
    of_the_other = exploited[:, ::-1].argmin(0)
    assert least["fall"]["value"] == pytest.approx((exploited[-1] - exploited[of_the_other, [0, 1]]).mean())
    printed = capsys.readouterr().out.splitlines()
    assert "Exploitability is least at KL" in " ".join(printed[:3])
    assert results["intervals_over"] == "runs"
    assert printed[0].startswith("The gold reward ")
    assert len(printed) < 25
    assert (tmp_path / "found.json.png").read_bytes()[:4] == b"\x89PNG"


def test_a_peak_is_chosen_on_some_runs_and_the_fall_measured_on_others():
    """Three runs, of which the second is highest at another checkpoint."""
    height = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 3.0], [1.0, 4.0, 1.0], [0.5, 0.0, 1.0]])
    kl = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 4.0], [2.0, 2.0, 5.0], [3.0, 3.0, 6.0]])
    found = turn(height, kl)
    # Without the first run checkpoints 1 and 2 have means 2 and 2.5, without the second 2.5 and 1, without the third
    # 1.5 and 2.5: the falls are from checkpoints 2, 1 and 2.
    assert found.fall == interval(np.array([1.0 - 0.5, 1.0 - 0.0, 1.0 - 1.0]))
    assert found.place in (1, 2)
    assert found.kl.low is not None
    assert found.kl.low <= found.kl.value <= found.kl.high
    assert not found.turns


def test_noise_around_a_level_does_not_turn_and_a_fall_does():
    noise = np.random.default_rng(0).normal(size=(12, 10))
    kl = np.arange(12.0)[:, None].repeat(10, 1)
    assert not turn(noise, kl).turns
    rise_and_fall = -np.abs(kl - 4) + 0.3 * noise
    found = turn(rise_and_fall, kl)
    assert found.turns
    assert found.place == 4
    assert found.fall.value == pytest.approx(7, abs=0.5)
    only = turn(rise_and_fall[:, :1], kl[:, :1])
    assert only.turns
    assert only.kl.low is None
    with pytest.raises(ValueError, match=r"height and kl must be \[C >= 2, U\]"):
        turn(noise[:1], kl[:1])


def test_the_table_shows_the_start_the_highest_and_the_last():
    assert shown(5, 2) == [0, 1, 2, 3, 4]
    for top in range(40):
        places = shown(40, top)
        assert len(places) == SHOWN
        assert places == sorted(places)
        assert {0, top, 39} <= set(places)


def test_runs_that_show_nothing_are_refused(runs, tmp_path, capsys):
    def error(*words, code=1):
        assert main([*map(str, words)]) == code
        return capsys.readouterr().err

    assert "unknown oracle 'cyclc'; did you mean 'cyclic'?" in error(runs[0], "--gold", "cyclc", code=2)
    assert "has no learned reward: it was judged by cyclic" in error(runs[0], "--gold", "cyclic,lam=0,seed=1")
    assert "a run is named twice" in error(runs[0], runs[0], "--gold", GOLD)
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "bare" in error(bare, "--gold", GOLD)
    (bare / "config.json").write_bytes((runs[0] / "config.json").read_bytes())
    assert "has no checkpoint yet" in error(bare, "--gold", GOLD)
    assert "expected one --test-reward, or one for each of 2 runs, got 3" in error(
        *runs, "--gold", GOLD, "--test-reward", "a", "b", "c"
    )
    pairs = [{"prompt": "#0", "chosen": "aaa", "rejected": "bbb"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    offline = ["--agent", "dpo", "--run.data", str(tmp_path / "pairs.jsonl"), "--run.steps", "1"]
    assert duel([*GAME, *RUN, *offline, "--oracle", "cyclic", "--run.dir", str(tmp_path / "offline")]) == 0
    capsys.readouterr()
    assert "has no learned reward: it learned from" in error(tmp_path / "offline", "--gold", GOLD)
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    for step in (4, 2):
        (other / f"step-{step}").rename(other / f"step-{step + 1}")
    assert "no step has a checkpoint in every run" in error(runs[0], other, "--gold", GOLD)


@pytest.mark.slow
def test_free_text_is_measured_by_samples_with_a_test_reward_and_a_corpus(tmp_path, capsys):
    """The proxy is a reward that is drawn at random, and so is the gold one."""
    text = ["--task", "chat", "--agent", "ppo_ptx", "--oracle", "bt", "--oracle.seed", "1", "--run.steps", "1"]
    folder = tmp_path / "run"
    assert duel([*text, "--run.eval_every", "0", "--run.batch_size", "2", "--run.dir", str(folder)]) == 0
    fit = ["--kind", "bt", "--epochs", "1", "--data", str(GOLDEN / "comparisons.jsonl"), "--out", str(tmp_path / "bt")]
    assert fit_oracle(fit) == 0
    capsys.readouterr()
    corpus = str(TESTS / "data/preferences/demonstrations.jsonl")
    more = ["--test-reward", str(tmp_path / "bt"), "--corpus", corpus, "--prompts", "4", "--draws", "2"]
    found = tmp_path / "found.json"
    assert main([str(folder), "--gold", "bt", "--json", str(found), *more]) == 0
    printed = capsys.readouterr().out
    assert "test reward  log loss" in printed
    assert "Intervals: 95 %, over 4 prompts. The KL of best-of-n is its bound" in printed
    (run,) = json.loads(found.read_text(encoding="utf-8"))["runs"]
    start, step = run["checkpoints"]
    assert start["kl"] == 0
    assert 0 < start["log_loss"] < 100
    assert step["log_loss"] != start["log_loss"]
    assert step["exploitability"] is not None
    assert [one["kl"] for one in run["best_of"]] == pytest.approx([best_of_n_kl(n) for n in (4, 16, 64)])
    assert run["best_of"][2]["reward"]["proxy"] > 1.0
    assert (folder / "overoptimisation.png").exists()
