import json

import matplotlib.image
import numpy as np
import pytest

from runners.plot import main
from runners.run.curves import Curves, read_curves


def make_run(directory, seed=0, queries=True, lines=None):
    directory.mkdir()
    names = {"agent": "sppo", "oracle": "pairrm", "task": "chat", "policy": "tiny"}
    (directory / "config.json").write_text(json.dumps({"names": names, "run": {"seed": seed}}))
    if lines is None:
        lines = [{"step": 0, "eval/win_rate_vs_ref": 0.5, "eval/win_rate_low": 0.45, "eval/win_rate_high": 0.55}]
        for step in range(1, 11):
            counted = {"duel/queries": step * 192.0} if queries else {}
            lines.append({"step": step, "loss/policy": 1 / step, "policy/kl": step / 10 + seed, **counted})
        lines.append({"step": 10, "eval/win_rate_vs_ref": 0.7, "eval/win_rate_low": 0.6, "eval/win_rate_high": 0.8})
        lines = [{"wall_time": 0.0, **line} for line in lines]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(directory)


@pytest.mark.parametrize("axis", ["steps", "queries"])
def test_picture_is_drawn_from_the_metrics(tmp_path, axis):
    runs = [make_run(tmp_path / f"run{seed}", seed) for seed in (0, 1)]
    out = tmp_path / "curves.png"
    assert main([*runs, "--out", str(out), "--x", axis]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    picture = matplotlib.image.imread(out)
    assert picture.shape[1] > 1000
    for colour in ((0, 114, 178), (213, 94, 0)):
        distance = np.abs(picture[..., :3] * 255 - np.array(colour)).max(-1)
        assert (distance < 2).sum() > 100


def test_the_picture_of_one_run_lies_in_it(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert main([run]) == 0
    assert capsys.readouterr().out == f"{run}/curves.png\n"


def test_queries_are_those_of_the_step(tmp_path):
    make_run(tmp_path / "run")
    run = read_curves([tmp_path / "run"])
    assert run[0].label == "sppo, pairrm, chat, seed 0"
    assert run[0].points("eval/win_rate_vs_ref", "queries") == ([0.0, 1920.0], [0.5, 0.7])
    assert run[0].points("eval/win_rate_vs_ref", "steps") == ([0.0, 10.0], [0.5, 0.7])
    assert run[0].points("loss/policy", "queries")[0][:2] == [192.0, 384.0]


def test_runs_of_the_same_kind_are_told_apart(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path / name)
    runs = read_curves([tmp_path / "one", tmp_path / "two"])
    assert [run.label for run in runs] == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_curve_that_never_changes_gets_no_panel():
    run = Curves("run", [{"step": step, "policy/length": 3.0, "loss/policy": float(step)} for step in range(3)])
    assert not run.moves("policy/length", "steps")
    assert run.moves("loss/policy", "steps")
    assert not run.moves("policy/kl", "steps")


def test_runs_that_named_their_loss_after_the_agent_are_still_drawn(tmp_path):
    losses = {"loss/learning_rate": 1.0, "loss/model": 1.0, "loss/sppo": 2.0}
    make_run(tmp_path / "run", lines=[{"step": 0, **losses}])
    (run,) = read_curves([tmp_path / "run"])
    assert run.points("loss/policy", "steps") == ([0.0], [2.0])
    assert run.points("loss/model", "steps") == ([0.0], [1.0])


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda path: path.mkdir(), [], "is no run directory"),
        (lambda path: make_run(path, lines=[]), [], "has no metrics yet"),
        (lambda path: make_run(path, queries=False), ["--x", "queries"], "counted no queries"),
        (lambda path: make_run(path, lines=[{"step": 0, "wall_time": 0.0, "odd/tag": 1.0}]), [], "nothing to draw"),
        (make_run, ["--out", "no/such/folder/x.png"], "No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(tmp_path, monkeypatch, capsys, make, arguments, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run")
    assert main(["run", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
