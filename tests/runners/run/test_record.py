import json
import math
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import TabularPolicy
from envs import Completion, Duel
from envs.tasks.task import make_task
from runners.run import checkpoint
from runners.run.checkpoint import Checkpoint
from runners.run.cli import parse
from runners.run.record import Record, default_directory, read_lines, require_new

ARGUMENTS = ["--task", "symbols", "--task.length", "1", "--agent.eta", "0.5", "--run.keep", "2"]


@pytest.fixture
def settings():
    return parse(ARGUMENTS).settings


@pytest.fixture
def policy():
    return TabularPolicy(make_task("symbols", length=1))


@pytest.fixture
def opened(tmp_path, settings):
    """Opens the record of one run directory, and closes what is still open at the end."""
    records = []

    def open_record():
        for record in records:
            record.close()
        records[:] = [Record(tmp_path / "run", settings, ARGUMENTS, "cpu", 1)]
        return records[0]

    yield open_record
    records[0].close()


def curves(directory):
    """TensorBoard's own reading: tag -> (step, wall time, value)."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.wall_time, e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(directory):
    """The same from metrics.jsonl, rounded as TensorBoard rounds."""
    found = {}
    for line in read_lines(directory / "metrics.jsonl"):
        for tag in line.keys() - {"step", "wall_time"}:
            value = struct.unpack("f", struct.pack("f", line[tag]))[0]
            found.setdefault(tag, []).append((line["wall_time"], line["step"], value))
    return found


def duel_of(texts, asked=True):
    left = [[Completion(text) for text in texts]]
    mask = torch.full((1, len(texts), len(texts)), asked)
    weight = torch.full((1, len(texts)), 1 / len(texts))
    prob = torch.full(mask.shape, 0.75)
    return Duel(["why?"], left, left, prob, weight, weight, mask, "probability", 1)


def test_metrics_and_tensorboard_hold_the_same(opened):
    record = opened()
    record.log(0, {"eval/win_rate_vs_ref": 0.5})
    record.log(1, {"loss/policy": 0.1, "policy/kl": 1e-9})
    record.log(2, {"loss/policy": 0.2, "policy/kl": 3})
    # no close: what was logged must be there already
    assert curves(record.directory) == logged(record.directory)
    assert [(step, value) for _, step, value in curves(record.directory)["loss/policy"]] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.2)),
    ]
    assert read_lines(record.directory / "metrics.jsonl")[1]["loss/policy"] == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scalar_that_is_not_finite_stops_the_run(opened, value):
    record = opened()
    with pytest.raises(ValueError, match=f"loss/policy is {value} at step 3"):
        record.log(3, {"policy/kl": 1.0, "loss/policy": value})
    assert record.metrics() == []


def test_config_says_all_that_is_needed_to_repeat_the_run(opened):
    record = opened()
    config = json.loads((record.directory / "config.json").read_text())
    assert config["names"] == {"task": "symbols", "policy": "tabular", "oracle": "cyclic", "agent": "sppo"}
    assert config["task"] == {"alphabet": 4, "length": 1, "prompts": 4}
    assert config["agent"]["eta"] == 0.5
    assert {"optimiser", "responses", "refresh_every"} <= config["agent"].keys()
    assert {"steps", "seed", "votes", "feedback", "batch_size", "device"} <= config["run"].keys()
    assert config["command"] == ["python", "-m", "runners.duel", *ARGUMENTS]
    assert (config["device"], config["threads"]) == ("cpu", 1)
    assert config["versions"]["torch"] == torch.__version__
    assert config["git_commit"] is None or len(config["git_commit"].rstrip("+")) == 40


def test_duels_are_written_for_people(opened):
    record = opened()
    record.duels(10, duel_of(["yes", "yes", "no"]), prompts=2)
    record.duels(20, duel_of(["yes", "no"], asked=False), prompts=2)
    assert read_lines(record.directory / "duels.jsonl") == [
        {"step": 10, "prompt": "why?", "left": "yes", "right": "no", "prob": 0.75}
    ]


def test_reopened_run_is_cut_back_to_its_checkpoint(opened, policy):
    record = opened()
    for step in range(8):
        record.log(step, {"loss/policy": step / 7})
        record.duels(step, duel_of(["yes", "no"]), 1)
        record.distributions(step, [{"prompt": "x", "policy": [0.5, 0.5]}])
        if step == 4:
            record.save(Checkpoint(step, {"updates": step}, {}), policy)
    before = curves(record.directory)["loss/policy"]
    with (record.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "wall_ti')  # what a kill leaves
    record = opened()
    assert record.saved == 4
    assert checkpoint.load(record.directory) == Checkpoint(4, {"updates": 4}, {})
    assert [line["step"] for line in record.metrics()] == [0, 1, 2, 3, 4]
    for file in ("duels.jsonl", "distributions.jsonl"):
        assert [line["step"] for line in read_lines(record.directory / file)] == [0, 1, 2, 3, 4]
    assert curves(record.directory)["loss/policy"] == before[:5]
    record.log(5, {"loss/policy": 9.0})
    assert curves(record.directory) == logged(record.directory)
    assert len(list(record.directory.glob("events.out.tfevents.*"))) == 1


def test_run_without_a_checkpoint_starts_again(opened):
    record = opened()
    record.log(0, {"loss/policy": 1.0})
    record = opened()
    assert record.saved is None
    assert record.metrics() == []
    assert curves(record.directory) == {}


def test_reopening_adds_to_the_config_and_keeps_the_rest(opened):
    first = json.loads((opened().directory / "config.json").read_text())
    second = json.loads((opened().directory / "config.json").read_text())
    (resumed,) = second.pop("resumed")
    assert second == first
    assert resumed["command"] == ["python", "-m", "runners.duel", *ARGUMENTS]
    assert {"started", "versions", "device", "threads", "git_commit"} <= resumed.keys()


def test_broken_line_is_an_error_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 2}\n{"st')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: broken JSON"):
        read_lines(tmp_path / "metrics.jsonl")


def test_two_runs_never_write_one_directory(opened, tmp_path, settings):
    opened()
    with pytest.raises(OSError, match="is being written by another run"):
        Record(tmp_path / "run", settings, ARGUMENTS, "cpu", 1)


def test_existing_directory_is_never_overwritten(tmp_path):
    require_new(tmp_path)
    require_new(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"never overwritten.*--run.dir.*--resume {tmp_path}"):
        require_new(tmp_path)
    with pytest.raises(FileExistsError):
        require_new(tmp_path / "notes.txt")


def test_default_directory_is_named_after_the_run_and_new(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_directory(settings)
    assert first.parent == Path("runs")
    assert first.name.startswith("symbols-sppo-cyclic-seed0-2")
    first.mkdir(parents=True)
    assert default_directory(settings) != first


def test_state_returns_from_a_checkpoint_as_it_was(tmp_path, policy):
    table = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimiser = torch.optim.AdamW([table], lr=0.1)
    table.sum().backward()
    optimiser.step()
    half = torch.tensor([0.1, 1e-8], dtype=torch.bfloat16)
    state = {
        "table": table.detach(),
        "same": table.detach(),
        "row": table.detach()[1],
        "turned": table.detach().T,
        "half": half,
        "optimiser": optimiser.state_dict(),
        "numbers": [1, 0.1, -1e-300, float("inf"), True, None, "text"],
        "by step": {3: (1, 2), 4: ()},
        "$odd": {},
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2**40),
    }
    checkpoint.save(tmp_path, Checkpoint(12, state, {"episode": 3}), policy, keep=1)
    loaded = checkpoint.load(tmp_path)
    assert (loaded.step, loaded.arena) == (12, {"episode": 3})
    require_equal(loaded.agent, state)
    assert json.loads((tmp_path / "step-12" / "policy" / "probs.json").read_text())


def require_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            require_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            require_equal(a, b)
    else:
        assert one == other


def test_state_that_cannot_be_written_names_its_place(tmp_path, policy):
    state = {"sampler": [{"generator": torch.Generator()}]}
    with pytest.raises(ValueError, match=r"Generator at 'agent.sampler.0.generator'"):
        checkpoint.save(tmp_path, Checkpoint(1, state, {}), policy, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_last_checkpoints_are_kept(tmp_path, policy):
    for step in (5, 10, 15, 100):
        checkpoint.save(tmp_path, Checkpoint(step, {}, {}), policy, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-100", "step-15"]
    assert checkpoint.load(tmp_path).step == 100


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),
    ],
    ids=["python", "safetensors", "tokenizers"],
)
def test_full_disk_keeps_the_earlier_checkpoint(tmp_path, policy, monkeypatch, error):
    checkpoint.save(tmp_path, Checkpoint(5, {"x": torch.ones(2)}, {}), policy, keep=1)

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"can't save .*step-10: .*No space left on device.*; step-5 is kept"):
        checkpoint.save(tmp_path, Checkpoint(10, {"x": torch.ones(2)}, {}), policy, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]
    assert checkpoint.load(tmp_path).step == 5


def test_damaged_checkpoint_is_named_with_the_way_out(tmp_path, policy):
    for step in (5, 10):
        checkpoint.save(tmp_path, Checkpoint(step, {"x": torch.ones(2)}, {}), policy, keep=2)
    (tmp_path / "step-10" / "state.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-10 is damaged .* remove the folder to go on from step-5"):
        checkpoint.load(tmp_path)
