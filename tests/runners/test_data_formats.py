"""Results of the commands for every format of docs/data.md: pairs, prompts, labels and audits of the same five rows."""

import json

import pytest

from envs.offline import load_preferences
from envs.tasks.task import make_task
from runners.audit import main as audit
from runners.fitting.fit import split
from runners.label import main as label
from tests.envs.votes.layouts import LAYOUTS, NAMES

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
