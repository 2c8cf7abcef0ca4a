import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import Policy, TabularPolicy
from envs import Completion, Duel, games
from envs.keyed import Key
from envs.tasks import make_task
from runners.cli import parse
from runners.duel import describe, main, one_step
from runners.evaluation import Evaluation, choose, law, over_prompts, win_rate
from runners.players import choose_device, gather, judge, tau_of
from runners.progress import Progress
from runners.record import read_lines

LAB = Path(__file__).parent / "golden" / "my_lab" / "my_lab.py"
OUTSIDE = (
    "--task my_lab:LettersConfig --policy my_lab:TableConfig --oracle my_lab:LadderConfig --agent my_lab:NudgeConfig"
)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(LAB.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class Longer:
    """P(a beats b) grows by 1/10 for each letter that a is longer."""

    antisymmetric = True

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]):
        return torch.tensor([0.5 + (len(a) - len(b)) / 10 for a, b in zip(first, second, strict=True)])


def rows(*texts):
    return [[Completion(text) for text in row] for row in texts]


def test_win_rate_is_the_mean_of_pairs_with_students_interval_over_prompts():
    found = win_rate(Longer(), ["x", "y", "z"], rows(["aa", "a"], ["aaa", "aa"], ["a", "a"]), rows(*[["a", "a"]] * 3))
    # by hand: prompts (.6 + .5) / 2, (.7 + .6) / 2, .5; sd sqrt(7) / 40, t(2, .975) = 4.302653
    assert found.mean == pytest.approx((0.55 + 0.65 + 0.5) / 3, abs=1e-6)
    half = 4.302653 * 0.0763763 / 3**0.5
    assert found.low == pytest.approx(found.mean - half, abs=1e-5)
    assert found.high == pytest.approx(found.mean + half, abs=1e-5)


def test_interval_stays_within_zero_and_one_and_needs_two_prompts():
    wide = over_prompts(torch.tensor([0.0, 1.0]))
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    alone = over_prompts(torch.tensor([0.7]))
    assert (alone.low, alone.high) == (None, None)
    assert alone.scalars() == {"eval/win_rate_vs_ref": pytest.approx(0.7)}


def test_held_out_prompts_are_the_same_in_every_run():
    prompts = [str(i) for i in range(300)]
    chosen = choose(prompts, 128)
    assert len(chosen) == 128
    assert chosen == sorted(chosen, key=int) == choose(prompts, 128)
    assert chosen[:3] != prompts[:3]
    assert choose(prompts[:5], 128) == prompts[:5]


def probs64(*probs):
    return torch.tensor(probs, dtype=torch.float64)


def evaluation(reference_probs=None, exact=False, seed=3):
    task = make_task("symbols", alphabet=3, length=1, prompts=2)
    config = parse(["--task", "symbols", "--oracle.scale", "3"]).settings.configs["oracle"]
    oracle = config.build(prompts=task.all_prompts, responses=task.response_texts)
    return task, oracle, Evaluation(task, oracle, TabularPolicy(task, reference_probs, exact), 128, 4, seed, 0.1)


def test_finite_task_is_evaluated_exactly():
    start, now, mean = (probs64(*row) for row in ([0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]))
    task, oracle, measure = evaluation(start)
    scalars = measure.scalars(TabularPolicy(task, now), TabularPolicy(task, mean))
    matrices = games.payoff_matrix(oracle, list(task.held_out), task.response_texts)
    assert scalars["eval/win_rate_vs_ref"] == pytest.approx((now @ matrices @ start).mean().item())
    for tag, probs in (("", now), ("_average", mean)):
        expected = games.exploitability(matrices, probs.expand(2, 3)).mean().item()
        assert scalars[f"game/exploitability{tag}"] == pytest.approx(expected)
    assert "game/exploitability_average" not in measure.scalars(TabularPolicy(task, now))


def test_the_regularised_game_is_measured_around_the_start():
    start, now = probs64(0.2, 0.3, 0.5), probs64(0.7, 0.2, 0.1)
    task, oracle, measure = evaluation(start)
    matrices = games.payoff_matrix(oracle, list(task.held_out), task.response_texts)
    nash = games.regularised_nash(matrices, start, 0.1).policy
    scalars = measure.scalars(TabularPolicy(task, now))
    gap = games.regularised_exploitability(matrices, now.expand(2, 3), start.expand(2, 3), 0.1)
    assert scalars["game/regularised_exploitability"] == pytest.approx(gap.mean().item())
    assert scalars["game/nash_kl"] == pytest.approx(games.kl_divergence(now.expand(2, 3), nash).mean().item())
    solved = measure.scalars(TabularPolicy(task, nash))
    assert solved["game/regularised_exploitability"] < 1e-12
    assert solved["game/nash_kl"] < 1e-12


def test_an_agents_own_tau_is_the_one_measured():
    settings = parse(["--task", "symbols"]).settings
    assert tau_of(settings) == 0.1
    regularised = dataclasses.make_dataclass("C", [("tau", float, 0.02)], frozen=True)()
    settings = dataclasses.replace(settings, configs=settings.configs | {"agent": regularised})
    assert tau_of(settings) == 0.02
    assert tau_of(dataclasses.replace(settings, run=dataclasses.replace(settings.run, eval_tau=0.3))) == 0.3
    with pytest.raises(ValueError, match="eval_tau must be positive, got 0"):
        dataclasses.replace(settings.run, eval_tau=0.0)


def test_policy_draws_even_with_itself():
    task, _, measure = evaluation()
    assert measure.scalars(TabularPolicy(task))["eval/win_rate_vs_ref"] == pytest.approx(0.5)


class Dice(Policy):
    """Says "a" one to six times."""

    def __init__(self):
        super().__init__()
        self.drawn = 0

    def draw(self, prompts, n, key):
        self.drawn += 1
        uniforms = key.uniform(k=np.arange(n)[None, :], l=np.arange(len(prompts))[:, None])
        return [[Completion("a" * (1 + int(6 * u))) for u in row] for row in uniforms], torch.full(
            uniforms.shape, 1 / n
        )

    def logprob(self, prompts, responses):
        raise NotImplementedError

    blend = save = logprob


def test_free_text_is_evaluated_from_draws_that_stay_the_same():
    task = dataclasses.replace(make_task("symbols", prompts=100), responses=None)
    reference, policy = Dice(), Dice()
    measure = Evaluation(task, Longer(), reference, 64, 4, 3, 0.1)
    first, second = measure.scalars(policy), measure.scalars(policy)
    assert first == second
    assert reference.drawn == 1
    assert set(first) == {"eval/win_rate_vs_ref", "eval/win_rate_low", "eval/win_rate_high"}
    assert 0 < abs(first["eval/win_rate_vs_ref"] - 0.5) < 0.05  # equal laws, independent draws
    assert first["eval/win_rate_low"] < 0.5 < first["eval/win_rate_high"]
    assert Evaluation(task, Longer(), reference, 64, 4, 4, 0.1).scalars(policy) != first


def test_law_of_a_finite_policy_sums_to_one():
    task, _, measure = evaluation()
    probs = probs64(0.7, 0.2, 0.1)
    assert torch.allclose(law(TabularPolicy(task, probs), task, measure.prompts), probs.expand(2, 3))


def test_too_many_payoffs_are_refused_with_the_way_out():
    task = make_task("symbols", alphabet=6, length=4, prompts=50)
    measure = Evaluation(task, Longer(), TabularPolicy(task), 128, 4, 0, 0.1)
    with pytest.raises(ValueError, match=r"--run.eval_prompts 39 "):
        measure.scalars(TabularPolicy(task))


def test_duel_is_described_by_what_was_asked():
    left = [[Completion("a", (2, 3)), Completion("b", (4,))]]
    asked = torch.tensor([[[False, True], [True, False]]])
    prob = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]])
    half = torch.full((1, 2), 0.5)
    duel = Duel(["x"], left, left, prob, half, half, asked, "probability", 1)
    scalars = describe(duel)
    assert scalars["duel/prob_std"] == pytest.approx(0.4)
    assert scalars["duel/advantage"] == pytest.approx(0, abs=1e-7)
    assert scalars["policy/length"] == 1.5
    unasked = Duel(["x"], rows(["a"]), rows(["b"]), prob[:, :1, :1], half, half, asked[:, :1, :1], "outcome", 1)
    assert describe(unasked) == {}


def test_run_measures_before_during_and_after(lab):
    arguments = f"{OUTSIDE} --run.steps 7 --run.eval_every 3 --run.save_every 2 --run.duel_every 5 --run.dir run"
    assert main(arguments.split()) == 0
    lines = read_lines(lab / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval/win_rate_vs_ref" in line] == [0, 3, 6, 7]
    assert [line["step"] for line in lines if "loss/nudge" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert set(lines[1]) == {
        "step", "wall_time", "loss/nudge", "duel/prob_std", "duel/advantage", "duel/queries", "policy/length",
        "time/sample_s", "time/oracle_s", "time/update_s",
    }  # fmt: skip
    assert [line["duel/queries"] for line in lines if "duel/queries" in line] == [32 * i for i in range(1, 8)]
    assert [line["step"] for line in read_lines(lab / "run" / "duels.jsonl")] == [5, 5]
    assert sorted(path.name for path in (lab / "run").glob("step-*")) == ["step-6", "step-7"]


def test_oracle_forgets_before_each_step_and_evaluation(lab, monkeypatch):
    import my_lab

    calls = []
    monkeypatch.setattr(my_lab.Ladder, "forget", lambda oracle: calls.append("forget"), raising=False)
    ask = my_lab.Ladder.prob
    monkeypatch.setattr(my_lab.Ladder, "prob", lambda *question: calls.append("ask") or ask(*question))
    assert main(f"{OUTSIDE} --run.steps 3 --run.eval_every 0 --run.dir run".split()) == 0
    assert [call for i, call in enumerate(calls) if calls[i - 1 : i] != [call]] == ["forget", "ask"] * 3


def test_outside_agent_learns_from_an_outside_oracle(lab, capsys):
    assert main(f"{OUTSIDE} --oracle.steepness 0.5 --run.steps 60 --run.dir run".split()) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "judge: the ladder of my lab, 0.5 per letter"
    assert output[1] == "run:   run"
    last = read_lines(lab / "run" / "metrics.jsonl")[-1]
    assert last["eval/win_rate_vs_ref"] > 0.65
    text = "\n".join(output)
    for words in ("before, step  0: win rate 0.500", "after,  step 60", "prompt:  ?", "before:", "after:   e (0."):
        assert words in text
    assert "tensorboard --logdir run" in text
    probs = json.loads((lab / "run" / "step-60" / "policy" / "probs.json").read_text())
    assert probs["?"]["e"] > 0.5


def test_learning_the_exact_law_asks_no_queries(lab):
    arguments = "--task symbols --task.length 1 --policy.exact --run.feedback probability --run.steps 3 --run.dir run"
    assert main(arguments.split()) == 0
    lines = read_lines(lab / "run" / "metrics.jsonl")
    assert not any("duel/queries" in line for line in lines)


def test_neighbouring_seeds_share_nothing(lab):
    drawn = []
    for seed in ("0", "1", "0"):
        players = gather(parse([*OUTSIDE.split(), "--run.seed", seed]).settings, "cpu")
        _, duel = one_step(players, 0)
        drawn.append((duel.prompts, [[response.text for response in row] for row in duel.left], duel.prob.tolist()))
    assert drawn[0] == drawn[2]
    assert all(one != other for one, other in zip(drawn[0], drawn[1], strict=True))


def test_arena_agent_and_evaluation_are_seeded_apart(lab):
    players = gather(parse(OUTSIDE.split()).settings, "cpu")
    assert len({players.arena.seed, players.agent.seed, players.evaluation.key.seed}) == 3
    assert isinstance(players.evaluation.key, Key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("--oracle.broken", "prob must lie in [0, 1], Ladder returned nan"),
        ("--agent.forgets", "loss/nudge is nan at step 1"),
    ],
)
def test_broken_part_ends_the_run_in_one_line(lab, fields, message, capsys):
    assert main(f"{OUTSIDE} {fields} --run.eval_every 0 --run.dir run".split()) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert "the run goes on after the start with: python -m runners.duel --resume run" in error


def test_existing_run_is_refused_before_anything_is_built(lab, capsys):
    (lab / "run").mkdir()
    (lab / "run" / "notes.txt").write_text("mine")
    assert main(f"{OUTSIDE} --run.dir run".split()) == 1
    captured = capsys.readouterr()
    assert "never overwritten" in captured.err
    assert captured.out == ""
    assert [path.name for path in (lab / "run").iterdir()] == ["notes.txt"]


def test_judge_is_named_with_its_telling_fields(lab):
    settings = parse(["--task", "symbols", "--oracle.lam", "0.25"]).settings
    assert judge(settings, Longer()) == "cyclic shape=disc lam=0.25"


def test_missing_device_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match="sees no CUDA device"):
        choose_device("cuda")


def test_log_gets_plain_lines_and_a_terminal_a_bar(capsys, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)  # noqa: B023 - used at once
        monkeypatch.setenv("TERM", "xterm")
        with Progress(0, 20) as progress:
            progress.stepped(1, {"loss/sppo": 0.25})
            progress.evaluated(10, {"eval/win_rate_vs_ref": 0.625})
        output = capsys.readouterr().out
        assert "step 10/20" in output
        assert "win rate 0.625" in output
        assert ("━" in output) == terminal
