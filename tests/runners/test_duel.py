import json
import re
from types import SimpleNamespace

import pytest
import torch

from envs import Completion, Duel, DuelArena, Proposal, make_task
from preference_duel.keyed_random import Key
from preference_duel.types import Arriving
from runners.duel import main
from runners.run.build import build_experiment, choose_device, judge
from runners.run.cli import parse
from runners.run.loop import describe, one_step
from runners.run.progress import Progress
from runners.run.record import read_lines
from tests.paths import GOLDEN

LAB = GOLDEN / "my_lab" / "my_lab.py"
OUTSIDE = (
    "--task my_lab:LettersConfig --policy my_lab:TableConfig --oracle my_lab:LadderConfig --agent my_lab:NudgeConfig"
)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(LAB.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


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
    unasked = Duel(
        ["x"], [[Completion("a")]], [[Completion("b")]], prob[:, :1, :1], half, half, asked[:, :1, :1], "outcome", 1
    )
    assert describe(unasked) == {}


def test_lengths_are_the_policys_only_where_it_drew():
    left, right = [[Completion("a", (2, 3))]], [[Completion("b", (4, 5, 6, 7))]]
    asked, weight = torch.ones(1, 1, 1, dtype=torch.bool), torch.ones(1, 1)
    duel = Duel(["x"], left, right, torch.ones(1, 1, 1), weight, weight, asked, "outcome", 1)
    assert describe(duel)["policy/length"] == 2, "the right seat may be another's"
    mixed = describe(duel, own=False)
    assert (mixed["duel/length"], "policy/length" in mixed) == (2, False)
    assert describe(duel, given=True) == {"data/prob_std": 0, "data/advantage": 0.5, "data/length": 3}


def test_waiting_for_responses_that_were_proposed_counts_as_sampling(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def spend(seconds):
        clock[0] += seconds

    def sampled():
        for b, seconds in ((1, 4), (0, 8)):
            spend(seconds)
            yield b, [Completion("a"), Completion("b")]

    def propose(prompts):
        spend(1)
        arriving = Arriving(sampled(), (len(prompts), 2))
        next(arriving.arrivals())
        return Proposal(arriving)

    def prob(prompts, first, second):
        spend(32)
        return torch.full((len(prompts),), 0.5)

    oracle = SimpleNamespace(antisymmetric=False, prob=prob)
    agent = SimpleNamespace(propose=propose, update=lambda duel: spend(128) or {})
    arena = DuelArena(make_task("chat"), oracle, 2)
    scalars, _ = one_step(SimpleNamespace(agent=agent, arena=arena, oracle=oracle), 0)
    assert (scalars["time/sample_s"], scalars["time/oracle_s"], scalars["time/update_s"]) == (1 + 4 + 8, 2 * 32, 128)


def test_run_measures_before_during_and_after(lab):
    arguments = f"{OUTSIDE} --run.steps 7 --run.eval_every 3 --run.save_every 2 --run.duel_every 5 --run.dir run"
    assert main(arguments.split()) == 0
    lines = read_lines(lab / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval/win_rate_vs_ref" in line] == [0, 3, 6, 7]
    assert [line["step"] for line in lines if "loss/policy" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert set(lines[1]) == {
        "step", "wall_time", "loss/policy", "duel/prob_std", "duel/advantage", "duel/queries", "policy/length",
        "time/sample_s", "time/oracle_s", "time/update_s",
    }  # fmt: skip
    assert [line["duel/queries"] for line in lines if "duel/queries" in line] == [32 * i for i in range(1, 8)]
    assert [line["step"] for line in read_lines(lab / "run" / "duels.jsonl")] == [5, 5]
    assert sorted(path.name for path in (lab / "run").glob("step-*")) == ["step-6", "step-7"]


def test_oracle_forgets_before_each_step_and_evaluation(lab, monkeypatch):
    import my_lab

    calls = []

    class Remembering(my_lab.Ladder):  # of its own, since isinstance() of a protocol remembers its answer for a class
        def forget(self):
            calls.append("forget")

        def prob(self, *question):
            calls.append("ask")
            return super().prob(*question)

    monkeypatch.setattr(my_lab, "Ladder", Remembering)
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
        experiment = build_experiment(parse([*OUTSIDE.split(), "--run.seed", seed]).settings, "cpu")
        _, duel = one_step(experiment, 0)
        drawn.append((duel.prompts, [[response.text for response in row] for row in duel.left], duel.prob.tolist()))
    assert drawn[0] == drawn[2]
    assert all(one != other for one, other in zip(drawn[0], drawn[1], strict=True))


def test_arena_agent_and_evaluation_are_seeded_apart(lab):
    experiment = build_experiment(parse(OUTSIDE.split()).settings, "cpu")
    assert len({experiment.arena.seed, experiment.agent.seed, experiment.evaluation.key.seed}) == 3
    assert isinstance(experiment.evaluation.key, Key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("--oracle.broken", "prob must lie in [0, 1], Ladder returned nan"),
        ("--agent.forgets", "loss/policy is nan at step 1"),
    ],
)
def test_broken_part_ends_the_run_in_one_line(lab, fields, message, capsys):
    assert main(f"{OUTSIDE} {fields} --run.eval_every 0 --run.dir run".split()) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert "the run goes on after the start with: python -m runners.duel --resume run" in error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ValueError("a log-ratio is not finite"), "a resumed run keeps its settings and data, .*: start a new run$"),
        (OSError("no answer"), r"the run goes on after the start with: python -m runners.duel --resume \S*run$"),
    ],
)
def test_a_run_is_not_to_be_resumed_if_it_would_end_in_the_same_way(tmp_path, monkeypatch, capsys, error, advice):
    def fail(*_):
        raise error

    monkeypatch.setattr("runners.run.loop.one_step", fail)
    line = f"--task rps --agent sppo --run.steps 1 --run.eval_every 0 --run.dir {tmp_path / 'run'}"
    assert main(line.split()) == 1
    written = capsys.readouterr().err.strip()
    assert re.search(advice, written), written
    assert ("--resume" in written) == isinstance(error, OSError)


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
    assert judge(settings, object()) == "cyclic shape=disc lam=0.25"


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
            progress.stepped(1, {"loss/policy": 0.25})
            progress.evaluated(10, {"eval/win_rate_vs_ref": 0.625})
        output = capsys.readouterr().out
        assert "step 10/20" in output
        assert "win rate 0.625" in output
        assert ("━" in output) == terminal


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] can't allocate memory: 9 bytes"),
        MemoryError(),
    ],
)
def test_where_memory_runs_out_the_knobs_are_named(lab, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("runners.run.loop.one_step", fail)
    assert main(f"{OUTSIDE} --run.dir run".split()) == 1
    said = capsys.readouterr().err
    assert "error: out of memory" in said
    assert "with other settings this is a new run" in said
    for knob in ("--policy.micro_tokens", "--policy.checkpointing", "--policy.lora.rank", "--run.parallel fsdp"):
        assert knob in said
    assert "the run goes on after the start with" in said


def test_other_errors_of_a_program_are_not_taken_for_memory(lab, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("runners.run.loop.one_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(f"{OUTSIDE} --run.dir run".split())


def test_a_run_that_is_to_repeat_itself_stops_at_an_operation_that_can_not(lab, monkeypatch, capsys):
    def fail(*_):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("median CUDA does not have a deterministic implementation, but you set '...'. You can turn")

    monkeypatch.setattr("runners.run.loop.one_step", fail)
    assert main(f"{OUTSIDE} --run.dir run --run.deterministic".split()) == 1
    said = capsys.readouterr().err
    assert "error: --run.deterministic: median CUDA does not have a deterministic implementation" in said
    assert "leave it out, or take other parts" in said
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_ends_when_its_queries_are_spent(lab):
    arguments = f"{OUTSIDE} --run.steps 50 --run.queries 200 --run.eval_every 30 --run.dir run"
    assert main(arguments.split()) == 0
    lines = read_lines(lab / "run" / "metrics.jsonl")
    spent = [line["duel/queries"] for line in lines if "duel/queries" in line]
    assert spent[-2] < 200 <= spent[-1]
    assert lines[-1]["step"] == len(spent)
    assert "eval/win_rate_vs_ref" in lines[-1]


def test_a_run_is_measured_when_so_many_queries_are_asked(lab):
    arguments = f"{OUTSIDE} --run.steps 9 --run.eval_queries 200 --run.eval_every 1 --run.dir run"
    assert main(arguments.split()) == 0
    lines = read_lines(lab / "run" / "metrics.jsonl")
    spent = {line["step"]: line["duel/queries"] for line in lines if "duel/queries" in line} | {0: 0}
    measured = [line["step"] for line in lines if "eval/win_rate_vs_ref" in line]
    due = [step for step in range(1, 10) if spent[step] // 200 > spent[step - 1] // 200]
    assert measured == [0, *due, 9][: len(measured)]
    assert measured[-1] == 9
    assert 1 < len(measured) < 9
