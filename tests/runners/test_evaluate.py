import json
from pathlib import Path

import matplotlib.image
import pytest
import torch

import oracles
from agents.policies.tabular import TabularPolicy
from agents.sb3.sb3_config import SB3PolicyConfig
from envs import games
from envs.tasks.task import make_task
from preference_duel.names import UnknownNameError
from runners.duel import main as duel
from runners.evaluate import main
from runners.evaluation import printed_tables
from runners.evaluation.comparison import Comparison, Options
from runners.evaluation.judges import read_judge
from runners.evaluation.output import read_path
from runners.evaluation.sampled import SampledEvaluation
from runners.evaluation.saved_runs import labels, read_saved_runs
from runners.evaluation.tokens.token_credit import token_credits, write_credits
from runners.run.config_file import read_settings
from tests.paths import GOLDEN

COMAL = GOLDEN / "games" / "comal3.json"
EXACT = f"--task {COMAL} --policy.exact --run.feedback probability --run.steps 6 --run.eval_every 2"
SMALL = "--task symbols --task.length 2 --task.prompts 3 --run.steps 3 --run.eval_every 2"
RUNS = {
    "comal": EXACT,
    "a": f"{SMALL} --oracle.lam 0.75",
    "b": f"{SMALL} --oracle.lam 0.75 --run.seed 1 --agent.optimiser.learning_rate 0.3",
    "c": f"{SMALL} --oracle bt",
    "text": "--oracle bt --run.steps 1 --run.batch_size 4 --run.eval_every 0",
    "text2": "--oracle bt --run.steps 1 --run.batch_size 4 --run.eval_every 0 --run.seed 1",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One directory for each of RUNS."""
    folder = tmp_path_factory.mktemp("runs")
    for name, arguments in RUNS.items():
        assert duel([*arguments.split(), "--run.dir", str(folder / name)]) == 0
    return folder


def evaluated(*arguments):
    """The command's evaluation.json."""
    assert main([*map(str, arguments)]) == 0
    return json.loads((Path(arguments[arguments.index("--out") + 1]) / "evaluation.json").read_text(encoding="utf-8"))


def test_a_finite_run_is_measured_by_its_last_and_average_policy(runs, tmp_path):
    found = evaluated(runs / "comal", "--tau", "0.2", "--out", tmp_path)
    rows = found["results"][0][0]
    assert list(rows) == ["start", "last", "average", "regularised Nash", "von Neumann winner"]
    payoff, start = make_task(str(COMAL)).prob, torch.full((3,), 1 / 3, dtype=torch.float64)
    laws = [json.loads(line) for line in (runs / "comal" / "distributions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in laws] == [0, 2, 4, 6]
    for name, law in {"last": laws[-1]["policy"], "average": laws[-1]["average"]}.items():
        policy = torch.tensor(law, dtype=torch.float64)
        assert rows[name]["exploitability"] == pytest.approx(games.exploitability(payoff, policy).item())
        gap = games.regularised_exploitability(payoff, policy, start, 0.2).item()
        assert rows[name]["regularised_exploitability"] == pytest.approx(gap)
        assert rows[name]["win_rate"] == pytest.approx((policy @ payoff @ start).item())
        assert rows[name]["kl_to_start"] == pytest.approx((policy * (policy / start).log()).sum().item())
    assert rows["regularised Nash"]["regularised_exploitability"] < 1e-12
    assert rows["von Neumann winner"]["exploitability"] < 1e-9
    measured = games.intransitivity(payoff)
    assert found["judges"][0]["intransitivity"]["pure"] == pytest.approx(measured.pure.item())
    assert found["judges"][0]["intransitivity"]["curl_ratio"] == pytest.approx(measured.curl_ratio.item())


def test_pictures_are_drawn(runs, tmp_path):
    evaluated(runs / "comal", "--out", tmp_path)
    for name in ("payoff", "simplex", "gap"):
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0.05
    path, average = read_path(read_saved_runs([runs / "comal"], "cpu")[0], "COMAL-3")
    assert path.shape == average.shape == (4, 3)


def test_runs_meet_and_are_ranked(runs, tmp_path, capsys):
    found = evaluated(runs / "a", runs / "b", "--out", tmp_path)
    met = found["meetings"][0]
    assert met["entrants"] == [
        "sppo optimiser.learning_rate=None seed=0",
        "sppo optimiser.learning_rate=0.3 seed=1",
        "start",
    ]
    table = torch.tensor(met["table"])
    assert torch.allclose(table + table.T, torch.ones(3, 3))
    assert table[0, 2] == pytest.approx(found["results"][0][0]["last"]["win_rate"])
    assert sum(met["nash_average"]) == pytest.approx(1)
    assert sum(met["alpha_rank"]) == pytest.approx(1)
    assert met["elo"][1] > met["elo"][2]
    printed = capsys.readouterr().out
    assert "P(row beats column), judged by cyclic,lam=0.75" in printed
    assert "Oracle queries until a gap was a tenth of the first" in printed
    assert found["runs"][0]["queries_to_tenth"] == {"exploitability": None, "regularised_exploitability": None}
    assert "Nash average" in printed
    assert "Intransitivity of the judges" in printed
    assert "curl ratio: share of the logits' energy that no reward explains" in " ".join(printed.split())


def test_a_run_is_judged_by_oracles_it_did_not_learn_from(runs, tmp_path, capsys):
    found = evaluated(runs / "a", runs / "c", "--oracle", "bt", "cyclic,lam=1,seed=5", "--out", tmp_path)
    assert [judge["label"] for judge in found["judges"]] == ["bt", "cyclic,lam=1,seed=5"]
    assert found["judges"][1]["intransitivity"]["curl_ratio"] == pytest.approx(1)
    assert found["judges"][0]["intransitivity"]["curl_ratio"] == pytest.approx(0, abs=1e-9)
    assert [run["own_judge"] for run in found["runs"]] == [None, 0]
    (agreement,) = found["agreement"]
    task = make_task("symbols", length=2, prompts=3)
    judges = [read_judge(judge["label"], task, "cpu").oracle for judge in found["judges"]]
    one, two = (games.payoff_matrix(judge, task.held_out, task.response_texts) - 0.5 for judge in judges)
    pairs = torch.ones_like(one, dtype=torch.bool).triu(1)
    assert agreement["pairs"] == int(pairs.sum())
    assert agreement["agreement"] == pytest.approx((one * two > 0)[pairs].double().mean().item())
    assert agreement["kappa"] == pytest.approx(2 * agreement["agreement"] - 1)  # in both orders chance agrees in 1/2
    own, other = (found["results"][1][j]["last"]["win_rate"] for j in (0, 1))
    assert own != other
    printed = capsys.readouterr().out
    assert "Transfer, win rate vs start" in printed
    assert "* the judge that it learned from" in printed
    assert f"bt and cyclic,lam=1,seed=5     {agreement['pairs']}" in printed


def test_runs_of_different_oracles_make_the_transfer_table_by_themselves(runs, tmp_path):
    found = evaluated(runs / "a", runs / "c", runs / "b", "--out", tmp_path)
    assert [judge["label"] for judge in found["judges"]] == ["cyclic,lam=0.75", "bt"]
    assert [run["own_judge"] for run in found["runs"]] == [0, 1, 0]
    assert [len(row) for row in found["results"]] == [2, 2, 2]


@pytest.mark.slow
def test_free_text_is_judged_by_draws_with_intervals(runs, tmp_path):
    out = "--prompts", 6, "--pairs", 2, "--out", tmp_path
    found = evaluated(runs / "text", runs / "text2", "--oracle", "bt,seed=3", *out)
    for rows in (found["results"][0][0], found["results"][1][0]):
        for row in rows.values():
            assert 0 <= row["win_rate_low"] < row["win_rate"] < row["win_rate_high"] <= 1
            assert 0 <= row["length_controlled_low"] < row["length_controlled"] < row["length_controlled_high"] <= 1
            assert 0 < row["distinct_1"] < row["distinct_2"] <= 1
            assert 0 < row["different"] <= 1
            assert row["entropy"] > 0
    met = found["meetings"][0]
    assert met["low"][0][1] < met["table"][0][1] < met["high"][0][1]
    assert met["low"][0][1] == pytest.approx(1 - met["high"][1][0])
    assert found["judges"][0]["intransitivity"] is None
    again = evaluated(runs / "text", runs / "text2", "--oracle", "bt,seed=3", *out)
    assert again["results"] == found["results"]
    assert again["meetings"] == found["meetings"]


def test_samples_are_measured_once_for_all_judges():
    task = make_task("symbols", length=2, prompts=3)
    law = torch.rand(3, len(task.responses), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = TabularPolicy(task, law / law.sum(1, keepdim=True))
    sampled = SampledEvaluation({"last": policy}, policy, task.prompts, pairs=50, seed=0)
    judge = oracles.make("bt", prompts=task.prompts, responses=task.response_texts)
    row = sampled.measures(sampled.verdicts(judge), partial=False)["last"]
    texts = [[response.text for response in row] for row in sampled.samples["last"]]
    probs = [[law[b, task.response_texts.index(text)] / law[b].sum() for text in row] for b, row in enumerate(texts)]
    assert row["entropy"] == pytest.approx(-torch.tensor(probs).log().mean().item(), rel=1e-5)
    assert row["different"] == pytest.approx(sum(len(set(row)) for row in texts) / 150)
    assert sampled.opponents != sampled.samples["last"]
    drawn = sampled.samples
    sampled.verdicts(oracles.make("length_bias", prompts=task.prompts, responses=task.response_texts))
    assert sampled.samples is drawn


def test_what_can_not_be_compared_is_refused(runs, tmp_path, capsys):
    wrong = {
        (runs / "a", runs / "text"): "must share a task",
        (tmp_path,): "is no run directory",
        (runs / "a", runs / "a"): "a run is named twice",
        (runs / "a", "--tau", "0"): "--tau must be positive, got 0",
        (runs / "a", "--oracle", "cyclic,lam"): "expected FIELD=VALUE after a comma, got 'lam'",
        (runs / "a", "--oracle", "cyclic,lam=2"): "lam must lie in",
        (runs / "a", "--prompts", "0"): "--prompts must be at least 1",
    }
    for arguments, message in wrong.items():
        assert main([*map(str, arguments)]) == 1
        assert message in capsys.readouterr().err
    assert main([str(runs / "a"), "--oracle", "cyclik"]) == 2
    assert "did you mean 'cyclic'" in capsys.readouterr().err


def test_a_judges_fields_are_read_as_their_types():
    task = make_task("symbols", length=2)
    judge = read_judge("cyclic,shape=random,lam=0.25,seed=7", task, "cpu")
    assert judge.fields == {"name": "cyclic", "shape": "random", "lam": 0.25, "scale": 2.0, "seed": 7}
    with pytest.raises(UnknownNameError):
        read_judge("bradley", task, "cpu")


def test_a_label_says_what_differs(runs):
    directories = [runs / name for name in ("a", "b", "c")]
    told = labels([read_settings(directory) for directory in directories], directories)
    rate = "optimiser.learning_rate"
    assert told == [f"sppo cyclic {rate}=None seed=0", f"sppo cyclic {rate}=0.3 seed=1", f"sppo bt {rate}=None seed=0"]
    twice = [runs / "a", runs / "a"]
    assert labels([read_settings(directory) for directory in twice], twice) == ["sppo (a)", "sppo (a)"]


def test_the_average_policy_meets_the_others_where_asked(runs):
    met = [
        Comparison(Options((runs / "a", runs / "b"), policy=name)).cross_play(0).table for name in ("last", "average")
    ]
    assert not torch.allclose(*met)


def test_the_printed_ranking_says_that_the_elo_of_sure_wins_is_not_data():
    met = {"entrants": ["a", "b"], "table": [[0.5, 1.0], [0.0, 0.5]], "elo": [1.0, -1.0]}
    met |= {name: [1.0, 0.0] for name in ("nash_average", "against_nash", "alpha_rank")}
    assert "is where the fit stopped, not data" in printed_tables._ranking("judge", met).caption
    assert printed_tables._ranking("judge", met | {"table": [[0.5, 0.9], [0.1, 0.5]]}).caption is None


def test_credits_of_tokens_sum_to_the_log_ratio_and_are_those_of_exact_values(runs, tmp_path, capsys):
    """A language model's, token by token, and those of the table with its distribution."""
    found = evaluated(runs / "b", "--tokens", "2", "--tau", "0.2", "--out", tmp_path)
    run = read_saved_runs([runs / "b"], "cpu")[0]
    policy, start, task = run.experiment.agent.policy, run.experiment.reference, run.experiment.task
    samples = found["tokens"][0]
    prompts = [sample["prompt"] for sample in samples]
    assert prompts == list(task.held_out[:2])
    laws = [one.distribution(task.all_prompts, task.responses) for one in (policy, start)]
    responses = [next(y for y in task.responses if y.text == "".join(p for p, _ in s["tokens"])) for s in samples]
    tables = [TabularPolicy(task, law) for law in laws]
    exact = token_credits(*tables, prompts, responses, 0.2, task.tokenizer)
    for b, (sample, of_table) in enumerate(zip(samples, exact, strict=True)):
        credits, expected = ([value for _, value in one["tokens"]] for one in (sample, of_table))
        assert credits == pytest.approx(expected, abs=1e-5)
        assert max(map(abs, credits)) > 1e-3
        row, column = task.all_prompts.index(sample["prompt"]), task.responses.index(responses[b])
        ratio = (laws[0] / laws[1]).log()[row, column].item()
        assert sample["credit"] == pytest.approx(0.2 * ratio, abs=1e-5)
        assert of_table["credit"] == pytest.approx(0.2 * ratio)
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert page.count("<span title") == sum(len(sample["tokens"]) for sample in samples)
    assert f"{samples[0]['credit']:+.3f}" in page
    printed = capsys.readouterr().out
    assert "tau log pi/ref of each token, tau 0.2" in printed
    assert f"{samples[0]['credit']:+.3f}  {samples[0]['prompt']!r}: {samples[0]['tokens'][0][0]}" in printed


def test_credits_of_text_name_every_token_and_escape_it(runs, tmp_path):
    few = "--prompts", "2", "--pairs", "1", "--tokens", "1"
    samples = evaluated(runs / "text", *few, "--out", tmp_path)["tokens"][0]
    assert len(samples[0]["tokens"]) > 2
    assert samples[0]["tokens"][-1][0] == ""  # the token that ends it
    sample = {"prompt": "p", "tokens": [["<i>", 1.0]], "credit": 1.0}
    content = {"runs": [{"label": "<b>", "tau": 1.0}], "tokens": [[sample]]}
    text = write_credits(content, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;" in text
    assert "<i>" not in text
    assert "background:#00823c" in text


def test_a_run_is_measured_by_its_decoded_policy_too(runs, tmp_path, capsys):
    found = evaluated(runs / "b", "--decode", "beam", "--width", "1000", "--out", tmp_path / "finite")
    row = found["results"][0][0]["beam"]
    (run,) = read_saved_runs([runs / "b"], "cpu")
    task, policy, start = run.experiment.task, run.experiment.agent.policy, run.experiment.reference
    laws = [one.distribution(task.held_out, task.responses) for one in (policy, start)]
    best = (laws[0] / laws[1]).argmax(1)
    oracle = run.experiment.oracle
    payoffs = [
        oracle.payoff([x], [[task.response_texts[i]]], [list(task.response_texts)])
        for x, i in zip(task.held_out, best.tolist(), strict=True)
    ]
    won = sum((payoff[0, 0].double() @ law).item() for payoff, law in zip(payoffs, laws[1], strict=True)) / len(best)
    assert row["win_rate"] == pytest.approx(won, abs=1e-9)
    assert row["entropy"] == 0
    assert "beam" in capsys.readouterr().out
    for wrong in (["--width", "2"], ["--decode", "beam", "--width", "0"]):
        assert main([str(runs / "b"), *wrong]) != 0
        assert "--width is at least 1, and goes with --decode beam" in capsys.readouterr().err


@pytest.mark.slow
def test_of_text_the_decoded_policy_gives_one_response_to_each_prompt(runs, tmp_path):
    few = "--prompts", "2", "--pairs", "2", "--decode", "beam", "--width", "2"
    row = evaluated(runs / "text", *few, "--out", tmp_path / "text")["results"][0][0]["beam"]
    assert row["entropy"] == 0
    assert row["different"] == 0.5


def test_credits_of_a_policy_without_tokens_are_refused():
    task = make_task("symbols", alphabet=2, length=2, prompts=1)
    policy = SB3PolicyConfig().build(task=task)
    with pytest.raises(ValueError, match="SB3Policy tells no tokens"):
        token_credits(policy, policy, task.prompts, task.responses[:1], 0.1, task.tokenizer)
