"""The page of preference data: every format, every name of a mapping, and its example."""

from envs.votes.formats import FORMATS
from envs.votes.mapping import MAPPED
from envs.votes.preferences import load_preferences
from tests.documents import blocks
from tests.paths import DOCS, ROOT

PAGE = (DOCS / "data.md").read_text(encoding="utf-8")


def test_the_page_names_every_format_and_every_name_of_a_mapping():
    assert [name for name in (*FORMATS, *MAPPED) if f"`{name}`" not in PAGE] == []


def test_the_example_and_the_report_are_those_of_the_files(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks(PAGE, "python")
    exec(code, {})
    first, last = capsys.readouterr().out.splitlines()
    assert first == "tests/data/preferences/answers.csv: 24 rows (fields), 24 preferences"
    assert last == "24 votes over 43 items by ['w0', 'w1', 'w2']"
    report = f"data:  {load_preferences('tests/data/preferences/helpsteer3.jsonl')[1]}\n"
    assert blocks(PAGE, "text")[0] == report
