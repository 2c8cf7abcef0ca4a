"""Tasks whose prompts are those of preferences, in any container."""

import gzip

import pandas
import pytest

from envs import make_task
from preference_duel.types import messages_of
from runners.duel import main
from tests.envs.votes.layouts import LAYOUTS, QUESTIONS, user

LONG = {"max_prompt_tokens": 200}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_prompts(layout, write):
    task = make_task(write(*LAYOUTS[layout], name="a.jsonl"), held_out_share=0, **LONG)
    assert [messages_of(prompt)[-1] for prompt in task.prompts] == [user(question) for question in QUESTIONS]
    assert task.reading.startswith(f"a.jsonl: 5 rows ({layout.split()[0]}), 5 prompts")


def test_prompts_are_read_from_every_container(tmp_path, write):
    frame = pandas.DataFrame({"prompt": QUESTIONS, "split": ["train", "held_out", "train", "train", "held_out"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    write(*frame.to_dict("records"), name="a.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl", "a.jsonl.gz"):
        task = make_task(name, **LONG)
        assert task.held_out == (QUESTIONS[1], QUESTIONS[4])
        assert not task.reading
    (tmp_path / "a.csv").write_text("prompt,split\nWhy?,test\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.csv:2: split must be 'train' or 'held_out', got 'test'"):
        make_task("a.csv")
    (tmp_path / "a.csv").write_text("prompt,split\nWhy?\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.csv:2: must have 2 cells as the header has, got 1"):
        make_task("a.csv")


def test_marks_of_preferences_are_kept_where_both_splits_occur(write):
    rows = [{**row, "split": "held_out" if i == 2 else "train"} for i, row in enumerate(LAYOUTS["chosen_rejected"])]
    assert make_task(write(*rows, name="a.jsonl"), **LONG).held_out == (QUESTIONS[2],)
    assert len(make_task(write(*LAYOUTS["helpsteer2"], name="a.jsonl"), **LONG).held_out) == 1


def test_rows_without_a_prompt_are_counted_or_refused(write):
    rows = [{"ask": question, "by": 1} for question in QUESTIONS] * 3
    path = write(*rows, {"ask": "", "by": 1}, name="a.jsonl")
    task = make_task(path, fields="prompt=ask", held_out_share=0, **LONG)
    assert len(task.prompts) == 15
    assert task.reading.endswith("skipped 1: prompt is empty (a.jsonl:16)")
    with pytest.raises(ValueError, match=r"a.jsonl:16: prompt is empty"):
        make_task(path, fields="prompt=ask", strict=True, **LONG)
    with pytest.raises(ValueError, match=r"a.jsonl:1: has no field 'prompt'. It has \['ask', 'by'\]"):
        make_task(path, **LONG)


def test_a_run_prints_what_was_read_of_its_prompts(write, capsys):
    path = write(*LAYOUTS["shp"], name="a.jsonl")
    words = ["--task", path, "--run.steps", "1", "--run.eval_every", "0", "--run.dir", "run", "--run.device", "cpu"]
    assert main(words) == 0
    assert "read:  a.jsonl: 5 rows (shp), 5 prompts" in capsys.readouterr().out


def test_files_of_a_dataset_are_read_one_by_one_if_they_make_no_table(tmp_path, write):
    write({"prompt": "Why?"}, name="train_a.jsonl")
    write({"prompt": "How?", "source": "web"}, name="train_b.jsonl")
    assert make_task(f"hf:{tmp_path}", held_out_share=0).prompts == ("Why?", "How?")
    (tmp_path / "train_b.jsonl").write_text('{"prompt": "How?"}\n{"prompt": "half a li\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"train_b.jsonl:2: broken JSON"):
        make_task(f"hf:{tmp_path}")
    write({"ask": "How?", "more": 1}, name="train_b.jsonl")
    with pytest.raises(ValueError, match=r"train_b.jsonl:1: has no column 'prompt'. It has ask, more"):
        make_task(f"hf:{tmp_path}")
    with pytest.raises(ValueError, match=r"hf:\S+: An error occurred while generating the dataset"):
        make_task(f"hf:{tmp_path}", split="train[:1]")


def test_an_array_of_records_is_no_game_and_a_prompt_file_by_its_ending(tmp_path, write):
    (tmp_path / "a.json").write_text('[{"prompt": "Why?"}]', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"a.json: a finite game is .*; name a file of prompts or preferences FILE.jsonl"
    ):
        make_task("a.json")
    (tmp_path / "a.json").rename(tmp_path / "a.jsonl")
    assert make_task("a.jsonl").prompts == ("Why?",)
