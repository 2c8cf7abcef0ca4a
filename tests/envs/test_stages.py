"""Files in turn: where solved stages of DPO end, whose reference is renewed, and what a run's command refuses."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from agents.ipo import IPOConfig
from agents.lists.lipo import LiPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.policies.tabular import TabularPolicy
from agents.singles.kto import KTOConfig
from envs.offline import FileArena, Preference
from envs.stages import StagedArena
from envs.tasks.finite import finite_task
from runners.duel import main
from runners.run.loop import one_step
from tests.matrix_games import G3_PAYOFF, G3_START, RESPONSES, law

SOLVED = OptimiserConfig("lbfgs")


def population():
    """Every pair of the game with its exact probability."""
    rows = [(i, j) for i in range(3) for j in range(3) if i != j]
    return [Preference("x", RESPONSES[i], RESPONSES[j], G3_PAYOFF[i, j].item()) for i, j in rows]


def staged(config, plays=(1,)):
    task = finite_task("g3", ("x",), RESPONSES, RESPONSES)
    arena = StagedArena([FileArena(task, population(), None) for _ in range(2)], plays)
    agent = config.build(policy=TabularPolicy(task, G3_START))
    return SimpleNamespace(agent=agent, arena=arena, oracle=None)


@pytest.mark.parametrize("steps", [1, 2])
def test_two_solved_files_are_dpo_at_half_of_tau(steps):
    experiment = staged(DPOConfig(tau=0.5, average=False, optimiser=SOLVED), plays=(steps,))
    for step in range(2 * steps):
        one_step(experiment, step)
    assert law(experiment.agent.policy).tolist() == pytest.approx([0.027237, 0.892260, 0.080503], abs=1e-5)
    assert law(experiment.agent.reference).tolist() == pytest.approx([0.153357, 0.679897, 0.166747], abs=1e-5)


@pytest.mark.parametrize("config", [DPOConfig(), IPOConfig(), KTOConfig(), LiPOConfig()])
def test_the_reference_of_agents_with_one_is_renewed(config):
    agent = staged(config).agent
    agent.policy.logits.data[0, 0] += 1
    assert law(agent.reference).tolist() == pytest.approx(G3_START.tolist())
    agent.begin_stage()
    assert law(agent.reference).tolist() == law(agent.policy).tolist() != pytest.approx(G3_START.tolist())


def test_files_follow_one_another_and_the_last_goes_on():
    task = finite_task("g3", ("x",), RESPONSES, RESPONSES)
    files = [[Preference("x", "a", "b", 1.0)] * 2, [Preference("x", "b", "c", 1.0)], [Preference("x", "c", "a", 1.0)]]

    def begun():
        return StagedArena([FileArena(task, file, None) for file in files], (2, 1))

    arena = begun()
    seen, opened = [], []
    for _ in range(5):
        twin = begun()
        twin.load_state_dict(arena.state_dict())
        opened.append(arena.opens_stage)
        assert arena.reset() == twin.reset()
        duel = arena.play()
        assert duel.left == twin.play().left
        assert arena.state_dict() == twin.state_dict()
        seen.append((duel.left[0][0].text, arena.queries))
    assert seen == [("a", 2), ("a", 4), ("b", 5), ("c", 6), ("c", 7)]
    assert opened == [False, False, True, True, False]
    for plays in ((2,), (2, 0)):
        with pytest.raises(ValueError, match="3 files need 2 positive numbers"):
            StagedArena(arena.arenas, plays)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files of comparisons on rps, a.jsonl of three rows and b.jsonl of one, and an empty one."""
    monkeypatch.chdir(tmp_path)
    one = {"prompt": "rock-paper-scissors", "chosen": "paper", "rejected": "rock"}
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(one)] * 3), encoding="utf-8")
    other = {"prompt": "rock-paper-scissors", "chosen": "rock", "rejected": "scissors"}
    (tmp_path / "b.jsonl").write_text(json.dumps(other), encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    return tmp_path


RUN = ["--task", "rps", "--run.eval_every", "0", "--run.batch_size", "2", "--run.threads", "1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--run.data a.jsonl,none.jsonl", "none.jsonl"),
        ("--run.data a.jsonl,", "names an empty file"),
        ("--run.data a.jsonl,empty.jsonl", "empty.jsonl"),
        ("--run.data a.jsonl,b.jsonl --run.steps 2", "b.jsonl begins after step 2, and the run ends with step 2"),
        ("--run.data a.jsonl --run.stage_steps 3", "stage_steps is about several files"),
        ("--run.data a.jsonl,b.jsonl --run.stage_steps 0", "run.stage_steps must be at least 1"),
        ("--agent pelhf --run.data a.jsonl,b.jsonl", "agent 'pelhf' learns from one file"),
    ],
)
def test_a_run_names_the_file_that_is_wrong(files, capsys, options, message):
    agent = [] if "--agent" in options else ["--agent", "dpo"]
    with contextlib.suppress(SystemExit):  # of a wrong command line
        assert main([*RUN, *agent, *options.split()]) != 0
    assert message in capsys.readouterr().err
    assert not (files / "runs").exists()
