"""Every format of docs/data.md in the commands: read from the same five rows, or refused with line and field."""

import json

import pytest

from envs.offline import load_preferences
from envs.tasks.task import make_task
from runners.audit import main as audit
from runners.fitting.fit import split
from runners.label import main as label
from tests.envs.votes.layouts import LAYOUTS, NAMES
from tests.envs.votes.test_formats import broken

THUMBS = [{"prompt": f"p{i}", "completion": "red", "label": bool(i % 2)} for i in range(5)]
LABEL = ["--against", "FILE", "--oracle", "length_bias", "--out", "out.jsonl"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes rows as FILE and as FILE.jsonl, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def write(*rows):
        for name in ("FILE", "FILE.jsonl"):
            (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_with_texts_are_learned_from_labelled_and_give_prompts(layout, file, capsys):
    file(*LAYOUTS[layout])
    found, _ = load_preferences("FILE")  # as runners.duel --run.data and fit_oracle read it
    assert len(found) == 5
    assert list(map(len, split(found, 0.2, seed=0))) == [4, 1]
    assert label(LABEL) == 0
    assert len(load_preferences("out.jsonl")[0]) == 5
    assert len(make_task("FILE.jsonl", held_out_share=0.0, max_prompt_tokens=400).prompts) == 5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("layout", ["arena 33k", "summarize", "nectar", *NAMES])
def test_rows_that_name_items_are_audited(layout, file, capsys):
    file(*(LAYOUTS | NAMES)[layout])
    assert audit(["FILE", "--draws", "19"]) == 0
    assert "FILE: 5 rows" in capsys.readouterr().out


@pytest.mark.parametrize("layout", NAMES)
def test_names_without_texts_teach_nothing(layout, file):
    file(*NAMES[layout])
    with pytest.raises(ValueError, match=rf"FILE:1: format {layout} .* holds no texts to learn from"):
        load_preferences("FILE")


def test_thumbs_give_prompts_and_every_other_command_says_why_not(file, capsys):
    file(*THUMBS)
    assert len(make_task("FILE.jsonl", held_out_share=0.0).prompts) == 5
    with pytest.raises(ValueError, match=r"FILE:1: rows are thumbs .* each about one response"):
        load_preferences("FILE")
    for command in (lambda: audit(["FILE"]), lambda: label(LABEL)):
        assert command() == 1
        assert "FILE:1: rows are thumbs" in capsys.readouterr().err


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_names_the_place_and_the_field_of_a_broken_row(layout, way, file, capsys):
    record, _ = list(broken(layout))[way]
    rows = list(LAYOUTS[layout])
    rows[2] = record
    file(*rows)
    with pytest.raises(ValueError, match=r"^FILE:3: ") as expected:
        load_preferences("FILE")
    assert label(LABEL) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: FILE:3: ")
    assert error.count("\n") == 1
    assert str(expected.value).split(" - ")[0] in error
