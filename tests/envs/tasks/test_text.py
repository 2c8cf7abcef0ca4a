"""Datasets are read from local directories without a network, and what is wrong is named with its row."""

import json
from pathlib import Path

import pytest

from envs import make_task


@pytest.fixture
def data(tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets


def test_a_directory_of_files_works_offline(data):
    Path("mine").mkdir()
    for split, count in (("train", 10), ("test", 2)):
        lines = [json.dumps({"prompt": f"{split} {i}"}) for i in range(count)]
        Path("mine", f"{split}.jsonl").write_text("\n".join(lines))
    task = make_task("hf:mine")
    assert (len(task.prompts), len(task.held_out)) == (9, 1)
    task = make_task("hf:mine", split="train[:3]", held_out="test")
    assert (task.prompts, task.held_out) == (("train 0", "train 1", "train 2"), ("test 0", "test 1"))
    assert task.name == "hf:mine"


def test_a_saved_dataset_works_offline(data):
    rows = data.Dataset.from_dict({"question": [[{"role": "user", "content": f"q{i}"}] for i in range(4)]})
    rows.save_to_disk("one")
    data.DatasetDict({"train": rows, "test": rows.select([3])}).save_to_disk("two")
    one = make_task("hf:one", column="question", held_out_share=0.25)
    assert sorted(one.prompts + one.held_out) == [f"USER: q{i}" for i in range(4)]
    two = make_task("hf:two", column="question", held_out="test")
    assert two.held_out == ("USER: q3",)
    with pytest.raises(ValueError, match=r"hf:two has no split 'tran'; did you mean 'train'\? It has train, test"):
        make_task("hf:two", column="question", split="tran")


def test_a_wrong_column_or_row_is_named(data):
    data.Dataset.from_dict({"prompts": ["a", "", "c"], "id": [1, 2, 3]}).save_to_disk("rows")
    with pytest.raises(
        ValueError, match=r"hf:rows\[train\] has no column 'prompt'; did you mean 'prompts'\? It has pro"
    ):
        make_task("hf:rows")
    with pytest.raises(ValueError, match=r"hf:rows\[train\] row 1: prompt is empty"):
        make_task("hf:rows", column="prompts")
    with pytest.raises(ValueError, match=r"hf:rows\[train\] row 0: prompt must be text or a list of messages, got 1"):
        make_task("hf:rows", column="id")


def test_an_empty_dataset_is_named(data, monkeypatch):
    Path("table").mkdir()
    Path("table/train.csv").write_text("prompt,id\na,1\n")
    with pytest.raises(ValueError, match=r"hf:table: .*no data"):
        make_task("hf:table", split="train[:0]")
    monkeypatch.setattr(data, "load_dataset", lambda *args, **kwargs: data.Dataset.from_dict({"prompt": []}))
    with pytest.raises(ValueError, match=r"hf:table\[train\] has no rows"):
        make_task("hf:table")


def test_without_a_network_it_names_what_needs_none(data, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'org/data' on the Hub")

    monkeypatch.setattr(data, "load_dataset", unreachable)
    with pytest.raises(ConnectionError, match=r"could not load hf:org/data: .*local directory.*FILE\.jsonl.*'chat'"):
        make_task("hf:org/data")
