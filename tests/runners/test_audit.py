"""`python -m runners.audit`: its words, numbers and page for tables whose answer is known."""

import csv
import json
from pathlib import Path

import pytest

from envs.votes.statistics.labels import audit_labels
from envs.votes.vote_files import load_votes
from runners.audit import main
from runners.auditing.audit_summary import label_lines


def votes(path: Path, rows: list[tuple[str, str, str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("model_a", "model_b", "winner"), *rows])
    return str(path)


def test_the_example_shows_a_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, numbers = tmp_path / "audit.html", tmp_path / "audit.json"
    assert main(["example", "--draws", "99", "--html", str(page), "--json", str(numbers)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith("One score per item does not explain these votes: p = 0.01, exact test on 1,066 decided")
    assert any("the top cycle is alder, birch, cedar" in line for line in lines)
    found = json.loads(numbers.read_text())
    assert found["verdicts"] == 1200
    assert found["fit"]["p_value"] == pytest.approx(0.01)
    assert 0.05 < found["share"]["low"] < found["share"]["value"] < found["share"]["high"] < 0.5
    assert found["top_cycle"] == ["alder", "birch", "cedar"]
    assert found["order"]["low"] > 0.5
    assert sum(found["rankings"]["lottery"].values()) == pytest.approx(1)
    text = page.read_text(encoding="utf-8")
    assert "does not explain these votes" in text
    assert {one.name for one in (tmp_path / "audit_files").iterdir()} >= {"matrix.csv", "matrix.png", "rankings.csv"}
    with (tmp_path / "audit_files" / "rankings.csv").open() as file:
        assert next(row["item"] for row in csv.DictReader(file)) == "alder"


def test_votes_of_one_score_are_not_called_intransitive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """a over b over c, 8 of 12 and 10 of 12: the odds multiply as scores say (2 x 2 against 5 of the pair a, c)."""
    won = {("a", "b"): 8, ("b", "c"): 8, ("a", "c"): 10}
    rows = [(*pair, "model_a" if k < number else "model_b") for pair, number in won.items() for k in range(12)]
    assert main([votes(tmp_path / "votes.csv", rows), "--draws", "99"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("One score per item explains these votes: p = ")
    assert "intransitive." not in said
    assert "a beats every other item by majority" in said


def test_groups_that_never_met_and_sure_winners_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "b", "model_a")] * 3 + [("c", "d", "model_a"), ("c", "d", "model_b")]
    assert main([votes(tmp_path / "votes.csv", rows), "--draws", "19"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("These comparisons form no cycle")
    assert "2 groups that were never compared with each other" in said
    assert "hold the scores of a, b (marked *)" in said


def labelled(path: Path) -> str:
    """Harmless a beats b beats c beats a, 9 of 10 each; helpful d over e over a; three with one each, one with none."""
    won = {("a", "b", "harmless"): 9, ("b", "c", "harmless"): 9, ("c", "a", "harmless"): 9}
    won |= {("d", "e", "helpful"): 7, ("e", "a", "helpful"): 7, ("d", "a", "helpful"): 8}
    rows = [(*key, k < number) for key, number in won.items() for k in range(10)]
    rows += [("a", "b", f"rare {k}", True) for k in range(3)]
    fields = [
        {"model_a": a, "model_b": b, "winner": "model_a" if first else "model_b", "about": {"aspect": label}}
        for a, b, label, first in rows
    ]
    fields.append({**fields[0], "winner": "nobody", "about": {"aspect": "of a skipped row"}})
    path.write_text("".join(json.dumps(row) + "\n" for row in fields))
    return str(path)


def test_labels_are_audited_alone(tmp_path: Path) -> None:
    table, reading = load_votes(labelled(tmp_path / "votes.jsonl"), label="about.aspect")
    found = audit_labels(table, reading.labels, 1.0, draws=99, seed=0)
    assert [one.name for one in found] == ["harmless", "helpful", "rare 0", "rare 1", "rare 2"]
    harmless, helpful, rare = found[:3]
    assert (harmless.verdicts, harmless.fit.p_value, harmless.fit.freedom) == (30, 0.01, 1)
    assert harmless.share.low > 0.5 > helpful.share.value
    assert helpful.fit.p_value > 0.5
    assert helpful.leader == "d"
    assert (rare.fit.freedom, rare.as_dict()["share"]["value"]) == (0, None)
    lines = label_lines(found)
    assert len(lines) == 6
    assert lines[1].split()[:2] == ["harmless", "30"]
    assert "not known" in lines[3]
    assert lines[-1] == "1 more labels: see --html or --json"


@pytest.mark.slow
def test_the_command_shows_labels_in_the_25_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, page = tmp_path / "audit.json", tmp_path / "audit.html"
    file = labelled(tmp_path / "votes.jsonl")
    more = "--draws", "19", "--label", "about.aspect", "--json", str(numbers), "--html", str(page)
    assert main([file, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert any(line.startswith("harmless  ") for line in lines)
    assert [one["verdicts"] for one in json.loads(numbers.read_text())["labels"]] == [30, 30, 1, 1, 1]
    assert ">harmless</th><td>30</td>" in page.read_text()


def test_a_label_that_no_row_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([labelled(tmp_path / "votes.jsonl"), "--label", "abuot"]) == 1
    assert "no row has the label 'abuot'; did you mean 'about'?" in capsys.readouterr().err


def test_markup_in_a_name_is_shown_as_text(tmp_path: Path) -> None:
    rows = [("<b>x</b>", "y", "model_a"), ("y", "<b>x</b>", "model_a")]
    assert main([votes(tmp_path / "v.csv", rows), "--draws", "19", "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "missing.csv"),
        (["example", "--draws", "5"], "--draws must be at least 19"),
        (["example", "--data.format", "arna"], "arena"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
