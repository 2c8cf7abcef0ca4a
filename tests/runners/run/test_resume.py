import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.learning.learner import Learner
from agents.registry import AGENTS
from preference_duel.types import Arriving, Unanswered
from runners.duel import main
from runners.run.checkpoint import steps
from runners.run.record import read_lines
from tests.conftest import with_a_fast_few
from tests.paths import GOLDEN
from tests.tiny_models import PROMPTS, write_model

LAB = GOLDEN / "my_lab" / "my_lab.py"
OUTSIDE = (
    "--task my_lab:LettersConfig --policy my_lab:TableConfig --oracle my_lab:LadderConfig --agent my_lab:NudgeConfig"
)
STAGED = (
    "--task rps --agent dpo --agent.tau 0.5 --agent.optimiser.learning_rate 0.1 --run.data a.jsonl,b.jsonl "
    "--run.stage_steps 6 --run.batch_size 2 --run.steps 12 --run.eval_every 4 --run.threads 1"
)
SHORT = "--run.eval_every 4 --run.save_every 5 --run.duel_every 3 --run.threads 1"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working directory with somebody else's module, which LAB_DO tells to make trouble."""
    (tmp_path / "my_lab.py").write_text(LAB.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("LAB_DO", raising=False)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def start(directory, arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "runners.duel", *arguments.split()],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, error = process.communicate(timeout=120)
    return process.returncode, output, error


def values(run):
    """Everything that was measured, without the clock's share."""
    lines = read_lines(run / "metrics.jsonl")
    return [{tag: v for tag, v in line.items() if tag != "wall_time" and "time/" not in tag} for line in lines]


def curves(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def require_equal_runs(one, other):
    assert values(one) == values(other)
    assert curves(one) == curves(other)
    for file in ("duels.jsonl", "distributions.jsonl"):
        assert read_lines(one / file) == read_lines(other / file)
    require_equal_folders(*(run / f"step-{steps(one)[-1]}" for run in (one, other)))


def require_equal_folders(one, other):
    """Of every file but model.zip, into which another library writes the time of day."""
    files = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    assert files[0] == files[1]
    assert Path("state.safetensors") in files[0]
    for file in files[0]:
        assert file.name == "model.zip" or (one / file).read_bytes() == (other / file).read_bytes(), file


def require_survives_a_kill(lab, at):
    """A run that is killed from outside after about so many steps, each time, goes on as if it had not been."""
    arguments = "--task symbols --agent.optimiser.learning_rate 0.05 --run.threads 1 --run.steps 60"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    for until in at:
        killed = lab / f"killed-{until}"
        process = start(lab, f"{arguments} --run.dir {killed}")
        metrics = killed / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < until:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        assert values(killed) != values(lab / "whole")
        assert main(["--resume", str(killed)]) == 0
        require_equal_runs(killed, lab / "whole")


@pytest.mark.slow
def test_run_killed_at_its_beginning_middle_and_end_goes_on_as_if_it_had_not_been(lab):
    require_survives_a_kill(lab, (1, 20, 45))


@pytest.mark.slow
def test_run_killed_at_a_random_step_goes_on_as_if_it_had_not_been(lab):
    at = random.SystemRandom().sample(range(1, 45), 3)
    print(f"killed at about the steps {at}")  # shown if the test fails
    require_survives_a_kill(lab, at)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["SIGKILL@update3", "SIGKILL@update12", "SIGKILL@save2"])
def test_kill_loses_nothing_before_the_last_checkpoint(lab, trouble):
    arguments = f"{OUTSIDE} {SHORT} --run.steps 14"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    code, _, _ = finish(start(lab, f"{arguments} --run.dir killed", LAB_DO=trouble))
    assert code == -signal.SIGKILL
    expected = {"SIGKILL@update3": [], "SIGKILL@update12": [5, 10], "SIGKILL@save2": [5]}[trouble]
    assert steps(lab / "killed") == expected
    assert main(["--resume", "killed"]) == 0
    require_equal_runs(lab / "killed", lab / "whole")
    assert not list((lab / "killed").glob(".*"))


@pytest.mark.parametrize("save_every", [6, 4])  # the checkpoint is the last step of the first file, or of the second
def test_a_run_on_two_files_that_ends_inside_the_second_goes_on_as_if_it_had_not(lab, monkeypatch, capsys, save_every):
    order = ["rock", "paper", "scissors", "rock", "paper", "scissors"]
    rows = [{"prompt": "rock-paper-scissors", "chosen": a, "rejected": b} for a, b in itertools.pairwise(order)]
    for name, part in (("a.jsonl", rows[:3]), ("b.jsonl", rows[2:])):
        (lab / name).write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    arguments = f"{STAGED} --run.save_every {save_every}"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    whole, calls = Learner.step_on_pairs, itertools.count(1)

    def fails(*args, **kwargs):
        if next(calls) == 9:
            raise OSError("power cut")
        return whole(*args, **kwargs)

    monkeypatch.setattr(Learner, "step_on_pairs", fails)
    assert main(f"{arguments} --run.dir cut".split()) != 0
    assert steps(lab / "cut")[-1] == {6: 6, 4: 8}[save_every]
    monkeypatch.setattr(Learner, "step_on_pairs", whole)
    assert main(["--resume", "cut"]) == 0
    require_equal_runs(lab / "cut", lab / "whole")
    (lab / "b.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    assert main(["--resume", "cut", "--run.steps", "13"]) != 0
    assert f"--run.data {lab / 'b.jsonl'} has changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_run_saves_its_step_and_says_how_to_go_on(lab, name, code, monkeypatch, capsys):
    arguments = f"{OUTSIDE} {SHORT} --run.steps 14"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    before = signal.getsignal(signal.Signals[name])
    monkeypatch.setenv("LAB_DO", f"{name}@update8")
    assert main(f"{arguments} --run.dir stopped".split()) == code
    monkeypatch.delenv("LAB_DO")
    assert signal.getsignal(signal.Signals[name]) == before
    assert "stopped after step 8; go on with: python -m runners.duel --resume stopped" in capsys.readouterr().out
    assert steps(lab / "stopped") == [5, 8]
    assert main(["--resume", "stopped"]) == 0
    require_equal_runs(lab / "stopped", lab / "whole")


def power_cut():
    raise OSError("power cut")


def silence():
    raise Unanswered("the judge is away")


@pytest.mark.parametrize("trouble", [power_cut, silence, lambda: os.kill(os.getpid(), signal.SIGINT)])
def test_a_run_that_ends_while_a_judge_is_asked_ahead_goes_on_as_if_it_had_not(lab, monkeypatch, trouble):
    import my_lab

    asked = itertools.count(1)
    ends_at, under_way = 0, set()

    class Distant(my_lab.Ladder):
        def ask_ahead(self, *pairs):
            if next(asked) == ends_at:
                assert under_way
                trouble()
            under_way.update(zip(*pairs, strict=True))

        def prob(self, *pairs):
            assert under_way <= set(zip(*pairs, strict=True)), "a question of another step was left"
            under_way.clear()
            return super().prob(*pairs)

        def forget(self):
            under_way.clear()

    def start_draw(self, prompts, n, key):
        responses, weight = self.draw(prompts, n, key)
        return Arriving(reversed(list(enumerate(responses))), (len(prompts), n)), weight

    monkeypatch.setattr(my_lab, "Ladder", Distant)
    monkeypatch.setattr(my_lab.Table, "start_draw", start_draw)
    arguments = f"{OUTSIDE} {SHORT} --agent sppo --run.steps 9 --run.batch_size 3"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    ends_at = next(asked) + 6 * 3 + 2  # the second prompt of step 7
    assert main(f"{arguments} --run.dir cut".split()) != 0
    assert steps(lab / "cut")[-1] == {power_cut: 5, silence: 6}.get(trouble, 7)
    assert main(["--resume", "cut"]) == 0
    require_equal_runs(lab / "cut", lab / "whole")


@pytest.mark.slow
def test_second_interrupt_stops_at_once(lab):
    process = start(lab, f"{OUTSIDE} {SHORT} --run.steps 14 --run.dir stopped", LAB_DO="sleep@update8")
    assert process.stdout is not None
    for line in process.stdout:
        if line == "asleep\n":
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    assert code == 130
    assert "the run goes on after step 5 with: python -m runners.duel --resume stopped" in error
    assert steps(lab / "stopped") == [5]


def test_full_disk_is_told_and_leaves_the_last_checkpoint(lab, monkeypatch, capsys):
    arguments = f"{OUTSIDE} {SHORT} --run.steps 40"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setenv("LAB_DO", "limit@update12")
    try:
        code = main(f"{arguments} --run.dir full".split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.delenv("LAB_DO")
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: can't ")
    assert "File too large" in error
    kept = steps(lab / "full")
    assert kept
    assert f"the run goes on after step {kept[-1]} with: python -m runners.duel --resume full" in error
    assert not list((lab / "full").glob(".step*"))
    assert main(["--resume", "full"]) == 0
    assert main(f"{arguments} --run.dir whole".split()) == 0
    require_equal_runs(lab / "full", lab / "whole")


def test_run_can_be_made_longer(lab):
    assert main(f"{OUTSIDE} {SHORT} --run.steps 16 --run.dir whole".split()) == 0
    assert main(f"{OUTSIDE} {SHORT} --run.steps 8 --run.dir longer".split()) == 0
    assert main(["--resume", "longer", "--run.steps", "16"]) == 0
    require_equal_runs(lab / "longer", lab / "whole")


def test_finished_run_tells_its_summary_again(lab, capsys):
    assert main(f"{OUTSIDE} {SHORT} --run.steps 8 --run.dir run".split()) == 0
    once = capsys.readouterr().out
    before = values(lab / "run")
    assert main(["--resume", "run"]) == 0
    again = capsys.readouterr().out
    assert again.split("Against the starting policy")[1] == once.split("Against the starting policy")[1]
    assert values(lab / "run") == before


def test_run_cannot_be_made_shorter(lab, capsys):
    assert main(f"{OUTSIDE} {SHORT} --run.steps 8 --run.dir run".split()) == 0
    config = (lab / "run" / "config.json").read_bytes()
    assert main(["--resume", "run", "--run.steps", "7"]) == 1
    assert "the run has made 8 steps already" in capsys.readouterr().err
    assert (lab / "run" / "config.json").read_bytes() == config


def test_run_goes_on_where_it_was_moved(lab):
    assert main(f"{OUTSIDE} {SHORT} --run.steps 8 --run.dir run".split()) == 0
    (lab / "run").rename(lab / "moved")
    assert main(["--resume", "moved", "--run.steps", "9"]) == 0
    assert steps(lab / "moved")[-1] == 9
    assert not (lab / "run").exists()


VALUE = "--agent.gradient.form ppo --agent.gradient.baseline value"
GROWING = "psro --agent.response_updates 2 --agent.payoff_updates 1"
OTHERS = f"spo {VALUE}", f"rlhf {VALUE}", GROWING, "oelhf --agent.planner ipo --agent.enhancer tournament"
LEARNERS = [*AGENTS, *OTHERS]


def resumed(arguments):
    """A run, and what becomes of it where a kill takes everything after its checkpoint of step 3, and it goes on."""
    arguments += " --run.steps 7 --run.save_every 3 --run.keep 9 --run.eval_every 2 --run.threads 1"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    shutil.copytree("whole", "killed")
    for step in (6, 7):
        shutil.rmtree(f"killed/step-{step}")
    assert steps(Path("killed")) == [3]
    assert main(["--resume", "killed"]) == 0
    return Path("killed"), Path("whole")


@pytest.mark.parametrize("agent", with_a_fast_few(LEARNERS, 3))
def test_every_agent_goes_on_as_if_it_had_not_been_killed(lab, agent):
    require_equal_runs(*resumed(f"--task symbols --agent {agent}"))


@pytest.mark.slow
def test_what_learns_from_a_file_goes_on_as_if_it_had_not_been_killed(lab):
    data = GOLDEN / "comparisons.jsonl"
    one, other = resumed(f"--agent dpo --run.data {data} --run.batch_size 8 --run.eval_prompts 4")
    assert values(one) == values(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "agent",
    [one for one in LEARNERS[:-1] if one not in ("dcppo", "pelhf") and "sb3" not in AGENTS.get(one, "")],
)
def test_every_agent_of_a_language_model_goes_on_as_if_it_had_not_been_killed(lab, agent):
    write_model(lab / "model")
    (lab / "prompts.jsonl").write_text("".join(f'{{"prompt": "{prompt}"}}\n' for prompt in PROMPTS), encoding="utf-8")
    text = "--policy ./model --task prompts.jsonl --task.max_new_tokens 4 --oracle bt"
    one, other = resumed(f"{text} --agent {agent} --run.batch_size 4 --run.eval_prompts 4")
    assert values(one) == values(other)
    assert curves(one) == curves(other)


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1e-3", "1e-6"], ids=["learning fast", "answers repeated"])
def test_killed_language_model_goes_on_as_if_it_had_not_been(lab, rate):
    arguments = "--run.steps 9 --run.eval_every 3 --run.eval_prompts 4 --run.save_every 2 --run.threads 1"
    arguments += f" --run.batch_size 4 --agent.optimiser.learning_rate {rate}"
    assert main(f"{arguments} --run.dir whole".split()) == 0
    process = start(lab, f"{arguments} --run.dir killed")
    metrics = lab / "killed" / "metrics.jsonl"
    until = random.SystemRandom().randrange(3, 9)
    print(f"killed at about step {until}")
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < until:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert main(["--resume", "killed"]) == 0
    assert values(lab / "killed") == values(lab / "whole")
    assert curves(lab / "killed") == curves(lab / "whole")
