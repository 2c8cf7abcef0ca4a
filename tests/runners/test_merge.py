"""Merges of models: by hand on single tensors, and from folders into a folder that can be played."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.policies.lm_config import TINY, HFConfig
from envs import make_task
from runners.merge import main
from runners.publishing.merged_folder import merge, task_arithmetic, ties


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_task_arithmetic_adds_weighted_changes():
    first, second = double(1.0, 0.0, -2.0), double(0.0, 4.0, 1.0)
    assert task_arithmetic([first, second], [0.5, 2.0]).tolist() == [0.5, 8.0, 1.0]
    assert task_arithmetic([first, second], [0.0, 1.0]).tolist() == second.tolist()


def test_ties_trims_elects_a_sign_and_averages_what_agrees():
    """Of five entries each keeps three: (3, -1, 2), (1, 2, -4) and their places; ties of size 1 and below go."""
    first, second = double(3.0, -1.5, 2.0, 0.1, 0.0), double(1.0, 2.0, -4.0, 0.0, 0.2)
    found = ties([first, second], [1.0, 1.0], density=0.6)
    assert found.tolist() == [2.0, 2.0, -4.0, 0.0, 0.0]  # (3 + 1)/2; 2 against -1.5; -4 against 2
    weighted = ties([first, second], [3.0, 1.0], density=0.6)
    assert weighted.tolist() == [2.5, -1.5, 2.0, 0.0, 0.0]  # (9 + 1)/4; 4.5 against 2; 6 against 4


def test_ties_of_disjoint_supports_is_their_sum():
    first, second = double(3.0, 0.0, 0.0, -1.0), double(0.0, 2.0, 0.0, 0.0)
    assert ties([first, second], [0.5, 0.5], density=0.5).tolist() == (first + second).tolist()


def copied(folder, change):
    """The shipped model with changed tensors."""
    folder.mkdir(parents=True)
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def moved(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda tensors: {n: t.float() + 0.01 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


def test_a_merge_of_runs_is_a_folder_that_can_be_played(tmp_path, capsys):
    run, folder = tmp_path / "run", tmp_path / "folder"
    copied(run / "step-2" / "policy", moved(0))
    first, second = copied(run / "step-10" / "policy", moved(1)), copied(folder, moved(2))  # the run's last one
    out = tmp_path / "out"
    assert main([str(run), str(folder), "--base", "tiny", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    half = load_file(out / "model.safetensors")
    assert all(torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-6) for name, tensor in half.items())
    task = make_task("symbols", prompts=1)
    law = HFConfig(str(out)).build(task=task).distribution(task.prompts, task.responses)
    assert law.sum().item() == pytest.approx(1)
    merge([run, folder], "tiny", tmp_path / "alone", weights=[0, 1])
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    assert all(torch.allclose(tensor, second[name], atol=1e-6) for name, tensor in alone.items())
    merge([run, folder], "tiny", tmp_path / "ties", "ties", density=1.0)
    name, agreed = next(iter(first)), load_file(tmp_path / "ties" / "model.safetensors")
    start = load_file(TINY / "model.safetensors")[name].float()
    expected = start + ties([first[name] - start, second[name] - start], [0.5, 0.5], 1.0)
    assert torch.allclose(agreed[name], expected, atol=1e-6)


def test_a_merge_of_different_shapes_is_refused_with_the_tensor(tmp_path):
    name = "model.norm.weight"
    copied(tmp_path / "other", lambda tensors: {**tensors, name: tensors[name][:5].clone()})
    with pytest.raises(ValueError, match=rf"tensor {name} has shape \(5,\), that of the base \(128,\)"):
        merge([TINY, tmp_path / "other"], "tiny", tmp_path / "out")
    copied(tmp_path / "less", lambda tensors: {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(ValueError, match=rf"tensor {name} has shape none"):
        merge([TINY, tmp_path / "less"], "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "1"], "one for each of 2 models, got 1"),
        (["--density", "0.5"], "--density is of --method ties"),
        (["--method", "ties", "--density", "0"], r"must lie in \(0, 1\]"),
        (["--method", "ties", "--weights", "1", "-1"], "of at least 0"),
        (["--out", "."], "is there already"),
        (["--base", "no-such-folder"], "no-such-folder is no transformers folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message, tmp_path, capsys):
    given = {"--base": "tiny", "--out": str(tmp_path / "out")}
    missing = [word for flag, value in given.items() if flag not in words for word in (flag, value)]
    assert main([str(TINY), str(TINY), *missing, *words]) == 1
    assert re.search(message, capsys.readouterr().err)
