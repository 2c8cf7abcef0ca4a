"""Files that a run points to: found from anywhere, and compared with what they were."""

import dataclasses
import hashlib
import json

import pytest

from runners.duel import main
from runners.evaluate import main as evaluate
from runners.run.config import RunConfig, Settings
from runners.run.outside import fingerprint, fingerprints

SHORT = ["--run.steps", "2", "--run.eval_every", "0", "--run.batch_size", "2", "--agent", "dpo", "--agent.no-average"]
PAIR = {"prompt": "a", "chosen": "x", "rejected": "y"}
GAME = {"prompts": ["a", "b"], "responses": ["x", "y", "z"], "prob": [[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]]}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was started with relative paths; the working directory is another one now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "game.json").write_text(json.dumps(GAME))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR))
    assert main(["--task", "game.json", *SHORT, "--run.data", "pairs.jsonl", "--run.dir", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def resume(run):
    return main(["--resume", str(run), "--run.steps", "3"])


def test_a_run_goes_on_from_another_working_directory(run):
    files = json.loads((run / "config.json").read_text())["files"]
    data = run.parent / "pairs.jsonl"
    assert files["run.data"] == {"path": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    assert files["task.path"]["path"] == files["oracle.path"]["path"] == str(run.parent / "game.json")
    assert resume(run) == 0
    assert evaluate([str(run)]) == 0


@pytest.mark.parametrize(("name", "field"), [("pairs.jsonl", "run.data"), ("game.json", "task.path")])
def test_a_file_that_has_changed_is_named(run, name, field, capsys):
    path = run.parent / name
    path.write_text(path.read_text() + "\n")
    assert resume(run) == 1
    assert f"--{field} {path} has changed since the run began (sha256 " in capsys.readouterr().err
    with pytest.warns(UserWarning, match=f"--{field} .* has changed"):
        assert evaluate([str(run)]) == 0


def test_a_file_that_is_gone_is_named(run, capsys):
    (run.parent / "pairs.jsonl").unlink()
    assert resume(run) == 1
    assert f"--run.data {run.parent / 'pairs.jsonl'} is no longer there" in capsys.readouterr().err


def test_a_run_without_fingerprints_goes_on(run, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    del config["files"]
    (run / "config.json").write_text(json.dumps(config))
    (run.parent / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    monkeypatch.chdir(run.parent)
    assert resume(run) == 0


def test_a_file_that_the_run_writes_is_not_compared(tmp_path):
    config = dataclasses.make_dataclass("Judge", [("cache", str), ("template", str)], frozen=True)
    for name in ("answers.sqlite", "question.txt"):
        (tmp_path / name).write_text("x")
    judge = config(str(tmp_path / "answers.sqlite"), str(tmp_path / "question.txt"))
    assert list(fingerprints(Settings({}, {"oracle": judge}, RunConfig()))) == ["oracle.template"]


def test_a_directory_is_its_names_and_contents(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_text("1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "inner" / "a").write_text("2")
    assert fingerprint(tmp_path) != before
    (tmp_path / "inner" / "a").write_text("1")
    (tmp_path / "inner" / "a").rename(tmp_path / "inner" / "b")
    assert fingerprint(tmp_path) != before
