"""Checkpoints of sharded policies: written in shards while the run goes on, read by any number of processes."""

import importlib
import json
import os
import shutil
import signal
import time
import weakref

import pytest
import torch

import agents
from agents.policies.lm_config import LoRAConfig
from envs import DuelArena
from oracles import make
from preference_duel import distributed
from preference_duel.types import Completion
from runners.duel import main
from runners.run.checkpoint import Checkpoint, load, pack, save, steps, take_part
from runners.run.record import read_lines
from tests.process_group import joined
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model

RUN = (
    "--agent ipo --task prompts.jsonl --task.max_new_tokens 4 --oracle bt --policy model --run.device cpu "
    "--run.parallel fsdp --run.steps 6 --run.save_every 2 --run.keep 9 --run.eval_every 0 --run.threads 1 "
    "--run.batch_size 5 --agent.optimiser.warmup 0 --agent.optimiser.smoothing 0.5 "
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with a model and prompts in its letters."""
    importlib.import_module("agents.policies.shard_files")  # once, before processes are forked
    lab = tmp_path_factory.mktemp("lab")
    write_model(lab / "model")
    (lab / "prompts.jsonl").write_text("".join(json.dumps({"prompt": x}) + "\n" for x in PROMPTS), encoding="utf-8")
    return lab


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(lab, monkeypatch):
    monkeypatch.chdir(lab)
    return lab


@pytest.fixture(scope="module")
def alone(lab):
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab)
        assert main(f"{RUN} --run.dir alone".split()) == 0
    return lab / "alone"


@pytest.fixture(scope="module")
def two(lab):
    """The run of two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab)
        assert joined(2, run, f"{RUN} --run.dir two") == [0, 0]
    return lab / "two"


def run(arguments, trouble=None, at=0):
    """Makes a run whose checkpoints are written late: when the next step is made; one of them may end badly."""
    from agents.policies.shard_files import _Writer

    def late(self, plan, planner, write=_Writer.write_data):
        directory, step = self.path.parents[1], int(self.path.parent.name.split("-")[1].split(".")[0])
        while step < 6 and read_lines(directory / "metrics.jsonl")[-1]["step"] <= step:
            time.sleep(0.01)
        if step == at and trouble == "kill" and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == at and trouble == "full" and distributed.rank() == 1:
            raise OSError("No space left on device")
        return write(self, plan, planner)

    _Writer.write_data = late
    return main(arguments.split())


def tensors(directory, step):
    """All numbers of the agent at a step, by name."""
    found = {}
    pack(load(directory, step).agent, found, "agent")
    return found


def require_same(one, other):
    """Compares scalars, and the state of agents at each checkpoint."""
    for mine, theirs in zip(read_lines(one / "metrics.jsonl"), read_lines(other / "metrics.jsonl"), strict=True):
        for tag in mine.keys() - {"wall_time"}:
            assert tag.startswith("time/") or mine[tag] == pytest.approx(theirs[tag], rel=1e-4, abs=1e-5), tag
    for step in (4, 6):
        mine, theirs = tensors(one, step), tensors(other, step)
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.allclose(mine[name], theirs[name], atol=1e-5)] == []


@pytest.mark.slow
def test_shards_are_those_of_their_step_though_the_run_went_on(alone, two):
    assert len(list((two / "step-4/shards").iterdir())) == 2
    require_same(alone, two)
    assert not list(two.glob(".*"))
    exported, state = policy_of(two / "step-6/policy").state_dict(), tensors(two, 6)
    for name in exported.keys() - {"model.lm_head.weight"}:  # tied
        assert torch.equal(exported[name], state[f"agent.policy.{name}"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_run_killed_while_shards_are_written_goes_on_from_the_checkpoint_before(count, here, alone):
    killed = here / f"killed-{count}"
    assert joined(2, run, f"{RUN} --run.dir {killed}", "kill", 4)[1] == -signal.SIGKILL
    assert read_lines(killed / "metrics.jsonl")[-1]["step"] == 5
    assert steps(killed) == [2]
    assert (killed / ".step-4.partial/policy/model.safetensors").exists()
    if count == 1:
        assert main(["--resume", str(killed)]) == 0
    else:
        assert joined(count, main, ["--resume", str(killed)]) == [0] * count
    require_same(alone, killed)
    assert not list(killed.glob(".*"))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_earlier_checkpoints_stay(here, capfd):
    assert joined(2, run, f"{RUN} --run.dir full", "full", 4) != [0, 0]
    assert "can't save full/step-4: process 1: No space left on device; step-2 is kept" in capfd.readouterr().err
    assert steps(here / "full") == [2]
    assert [path.name for path in (here / "full").glob(".step-*")] == [], "what was written of it takes no room"


@pytest.mark.slow
def test_missing_shards_are_told(two, tmp_path):
    damaged = shutil.copytree(two, tmp_path / "damaged")
    next((damaged / "step-6/shards").glob("shard-00002*")).unlink()
    with pytest.raises(ValueError, match=r"step-6 is damaged \(.*holds \d+ of the \d+ numbers of agent.policy.*step-4"):
        load(damaged)


def hold_little(folder, run_folder, rank):
    """Saves and counts the bytes of whole tensors that a device holds at once."""
    from torch.distributed.tensor import DTensor

    held = [0, 0]

    def hold(size):
        held[0] += size
        held[1] = max(held)

    def gathered(tensor, gather=DTensor.full_tensor):
        found = gather(tensor)
        hold(found.nbytes)
        weakref.finalize(found, hold, -found.nbytes)
        return found

    with distributed.together("cpu"):
        policy = policy_of(folder, lora=LoRAConfig(rank=rank))
        policy.shard()
        agent = agents.make("sppo", policy=policy)
        task = text_task(folder)
        arena = DuelArena(task, make("bt", prompts=task.all_prompts), 5)
        agent.update(arena.play(agent.propose(arena.reset())))
        DTensor.full_tensor = gathered
        torch.Tensor.cpu = lambda tensor: tensor.clone()  # as if they were on a device
        state = Checkpoint(1, agent.state_dict(), {})
        assert held[1] == 0
        first = distributed.rank() == 0
        wait = save(run_folder, state, policy, 1) if first else take_part(run_folder, state, policy)
        wait()
    assert 0 < held[1] <= max(tensor.nbytes for tensor in policy.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "count"), [(0, 2), (4, 3)])  # of 4 rows the third process has none
def test_a_device_holds_one_tensor_whole_while_a_checkpoint_is_written(rank, count, lab, tmp_path):
    assert joined(count, hold_little, lab / "model", tmp_path, rank) == [0] * count
    policy = policy_of(lab / "model", lora=LoRAConfig(rank=rank))
    agents.make("sppo", policy=policy).load_state_dict(load(tmp_path).agent)
    exported, responses = policy_of(tmp_path / "step-1/policy"), [[Completion("ab"), Completion("c#0")]] * len(PROMPTS)
    with torch.no_grad():
        assert torch.allclose(policy.logprob(PROMPTS, responses), exported.logprob(PROMPTS, responses), atol=1e-5)
