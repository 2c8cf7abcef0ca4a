"""Several processes make the run that one makes: same draws, same updates, whichever dies and however many go on."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from oracles import make
from preference_duel import distributed
from runners.duel import main
from runners.run.checkpoint import load, pack
from runners.run.ranks import SplitOracle

RUN = [
    "--oracle",
    "bt",
    "--run.batch_size",
    "7",
    "--run.eval_every",
    "0",
    "--run.threads",
    "1",
    "--run.duel_every",
    "1",
]
PLAIN = ["--agent.optimiser.method", "sgd", "--agent.optimiser.learning_rate", "0.01", "--agent.optimiser.warmup", "0"]
"""Nothing divides a gradient, so that rounding stays as small as it is."""


def command(count, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [sys.executable, *launcher, "-m", "runners.duel", *arguments]


def run(count, directory, *arguments, code=0):
    if count == 1:
        assert main([*RUN, *arguments, "--run.dir", str(directory)]) == code
        return None
    done = finished(command(count, *RUN, *arguments, "--run.dir", str(directory)))
    assert done.returncode == code, done.stdout + done.stderr
    return done


def finished(line):
    return subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)


def lines(directory, name="metrics.jsonl"):
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


def require_same(one, other, steps):
    """Compares draws, scalars and what was learned."""
    assert lines(one, "duels.jsonl") == lines(other, "duels.jsonl")
    for mine, theirs in zip(lines(one), lines(other), strict=True):
        assert mine.keys() == theirs.keys()
        for tag in mine.keys() - {"wall_time"}:
            assert tag.startswith("time/") or mine[tag] == pytest.approx(theirs[tag], rel=1e-4, abs=1e-5), tag
    first, second = {}, {}
    for folder, tensors in ((one, first), (other, second)):
        saved = load(folder)
        assert saved.step == steps
        pack(saved.agent, tensors, "agent")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-5), name


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path):
    arguments = "--agent", "ipo", "--run.steps", "2", *PLAIN
    said = run(2, tmp_path / "two", *arguments).stdout
    run(1, tmp_path / "one", *arguments)
    require_same(tmp_path / "one", tmp_path / "two", 2)
    assert said.count("judge:") == 1
    config = json.loads((tmp_path / "two/config.json").read_text(encoding="utf-8"))
    assert config["processes"] == 2


@pytest.mark.slow
def test_sharded_parameters_learn_the_same_and_are_saved_whole(tmp_path):
    arguments = "--agent", "ipo", "--run.steps", "3", "--run.save_every", "2", *PLAIN
    run(1, tmp_path / "one", *arguments)
    run(2, tmp_path / "two", *arguments, "--run.parallel", "fsdp")
    require_same(tmp_path / "one", tmp_path / "two", 3)
    first, second = (load_file(tmp_path / name / "step-3/policy/model.safetensors") for name in ("one", "two"))
    assert {name: t.shape for name, t in first.items()} == {name: t.shape for name, t in second.items()}
    config = json.loads((tmp_path / "two/step-3/policy/config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_goes_on_in_any_number(tmp_path):
    arguments = "--agent", "ipo", "--run.save_every", "1", *PLAIN
    run(1, tmp_path / "whole", *arguments, "--run.steps", "6")
    arguments = *RUN, *arguments, "--run.steps", "6", "--run.parallel", "fsdp", "--run.dir", str(tmp_path / "cut")
    process = subprocess.Popen(command(2, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "cut/step-2").exists():
        time.sleep(0.05)
        assert process.poll() is None
    doomed = next(
        child for child in psutil.Process(process.pid).children(recursive=True) if child.environ().get("RANK") == "1"
    )
    doomed.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "rank      : 1" in said
    assert "SIGKILL" in said
    assert main(["--resume", str(tmp_path / "cut")]) == 0
    require_same(tmp_path / "whole", tmp_path / "cut", 6)


@pytest.mark.slow
def test_what_cannot_be_sharded_is_refused(tmp_path):
    arguments = "--agent", "ipo", "--task", "symbols", "--policy", "tabular", "--run.parallel", "fsdp"
    said = run(2, tmp_path / "run", *arguments, code=1).stderr
    assert "--run.parallel fsdp spreads language models over processes, and the policy is 'tabular'" in said


def test_a_process_alone_does_everything():
    assert distributed.share(5) == range(5)
    assert distributed.exchange([1, 2], 2) == [1, 2]
    assert (distributed.count(), distributed.rank(), distributed.agreed("x")) == (1, 0, "x")


def test_gradients_are_summed_by_messages_of_bounded_size(monkeypatch):
    """Numbers of two processes that hold the same are doubled."""
    sent = []
    monkeypatch.setattr(distributed, "_MESSAGE", 5 * 4)
    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: sent.append(tensor) or tensor.view(-1).mul_(2))
    tensors = [torch.randn(size) for size in ((2,), (1, 3), (3, 3), (2,), (3, 2))]
    tensors[-1] = tensors[-1].T
    expected = [2 * tensor for tensor in tensors]
    distributed.add_each(tensors)
    assert all(map(torch.equal, tensors, expected))
    assert [tensor.numel() for tensor in sent] == [5, 9, 2, 6]
    assert [tensor.data_ptr() for tensor in sent[1:3]] == [tensor.data_ptr() for tensor in tensors[2:4]]  # no copies
    monkeypatch.setattr(distributed, "count", lambda: 1)
    distributed.add_each(tensors)
    assert len(sent) == 4


@pytest.mark.parametrize("name", ["bt", "cyclic"])
def test_a_split_oracle_says_what_its_own_says(name, monkeypatch):
    oracle = make(name, prompts=["x", "y", "z"], responses=["a", "b", "c"])
    asked = ["x", "y", "z"], ["a", "b", "c"], ["b", "c", "a"]
    every = SplitOracle(oracle).prob(*asked)
    assert torch.equal(every, oracle.prob(*asked).double())
    given = []
    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "exchange", lambda mine, total: given.append((mine, total)) or [0.5] * total)
    SplitOracle(oracle).prob(*asked)
    assert given == [([every[1].item()], 3)]


def test_no_other_variable_of_the_environment_makes_a_group(monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "1")
    with distributed.together("cpu"):
        assert not torch.distributed.is_initialized()
