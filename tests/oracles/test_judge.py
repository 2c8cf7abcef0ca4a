"""Oracles as judges of TRL, and functions and judges as oracles."""

import re
import sys

import pytest
import torch

from oracles.base import ask_pairs, payoff
from oracles.check import check_oracle
from oracles.judge import Judge, JudgeConfig, JudgeOracle
from oracles.registry import make
from preference_duel.names import UnknownNameError
from preference_duel.types import Unanswered
from runners.duel import main
from runners.run.record import read_lines
from tests.conftest import FirstFavoured, Remembering
from tests.paths import DOCS

PROMPTS = ["p", "q", "r"]
PAIRS = [["a", "bb"], ["ccc", "d"], ["e", "e"]]


def shorter(prompt, first, second):
    return len(first) < len(second)


def shyly(prompt, first, second):
    """Prefers short answers, and whoever stands first."""
    return min(1.0, 0.5 * (len(first) < len(second)) + 0.5)


class Ranks:
    """A judge that subclasses of TRL's BasePairwiseJudge look like."""

    def judge(self, prompts, completions, shuffle_order=True):
        assert not shuffle_order
        return [int(len(a) > len(b)) for a, b in completions]


class Scores(Ranks):
    def judge(self, prompts, completions, shuffle_order=True, return_scores=False):
        assert return_scores
        return [0.8 if len(a) < len(b) else 0.2 for a, b in completions]


def test_an_oracle_judges_pairs():
    oracle = Remembering()
    expected = [oracle.rule(x, *pair) for x, pair in zip(PROMPTS, PAIRS, strict=True)]
    judge = Judge(oracle)
    for shuffled in (True, False):
        assert judge.judge(PROMPTS, PAIRS, shuffled, return_scores=True) == pytest.approx(expected)
        assert judge.judge(PROMPTS, PAIRS, shuffled) == [int(p < 0.5) for p in expected]


def test_shuffling_takes_a_favourite_seat_away():
    judge, prompts, pairs = Judge(FirstFavoured()), ["p"] * 4000, [["a", "b"]] * 4000
    told = torch.tensor(judge.judge(prompts, pairs, shuffle_order=True, return_scores=True)).mean().item()
    fair = Remembering().rule("p", "a", "b")
    assert told == pytest.approx((1 + fair) / 4 + (1 - (2 - fair) / 2) / 2, abs=0.02)
    assert judge.judge(["p"], [["a", "b"]], shuffle_order=False, return_scores=True) == [pytest.approx((1 + fair) / 2)]


def test_functions_and_judges_are_oracles():
    answers = {"function": shorter, "ranks": Ranks(), "scores": Scores()}
    for name, judge in answers.items():
        oracle = JudgeOracle(judge)
        strong = 0.8 if name == "scores" else 1.0
        assert oracle.prob(PROMPTS, *zip(*PAIRS, strict=True)).tolist() == pytest.approx([strong, 1 - strong, 0.5])
        check_oracle(oracle, PROMPTS[:2], [["a", "bb", "ccc"]] * 2)
        assert make("judge", of=judge, orders="both").prob(["p"], ["a"], ["bb"]).tolist() == pytest.approx([strong])


def test_both_orders_take_a_favourite_seat_away():
    oracle = JudgeOracle(shyly)
    assert payoff(oracle, ["p"], [["a", "bb"]])[0, 0, 1].item() == pytest.approx(0.75)
    one = JudgeOracle(shyly, orders="one")
    assert one.prob(["p"], ["a"], ["bb"]).tolist() == [1.0]


def test_a_run_is_judged_by_a_function(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_taste.py").write_text("def shorter(prompt, first, second):\n    return len(first) < len(second)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    arguments = (
        "--task symbols --policy tabular --oracle judge --oracle.of my_taste:shorter --run.steps 2 --run.dir run"
    )
    assert main(arguments.split()) == 0
    assert "judge: judge of=my_taste:shorter" in capsys.readouterr().out


def test_the_example_of_the_page_prints_what_it_says(capsys):
    page = (DOCS / "oracles.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "Judge(" in code]
    exec(compile(code, "oracles.md", "exec"), {})
    assert capsys.readouterr().out == "[0]\n"


def test_what_is_no_judge_is_told(tmp_path):
    with pytest.raises(ValueError, match="function of three texts"):
        JudgeOracle(3)
    with pytest.raises(ValueError, match="orders must be one of"):
        JudgeOracle(shorter, orders="none")
    with pytest.raises(ValueError, match=r"must return the chance, in \[0, 1\]"):
        JudgeOracle(lambda x, a, b: 2.5).prob(["p"], ["a"], ["b"])
    with pytest.raises(ValueError, match="a row of 3"):
        Judge(Remembering()).judge(["p"], [["a", "b", "c"]])
    with pytest.raises(ValueError, match="1 rows for 2 prompts"):
        Judge(Remembering()).judge(["p", "q"], [["a", "b"]])
    third = type("Third", (), {"judge": lambda self, x, y, shuffle_order: [2] * len(x)})()
    with pytest.raises(ValueError, match="by 0 or 1, or say by -1 that it can't tell, got 2"):
        JudgeOracle(third).prob(["p"], ["a"], ["b"])
    silent = type("Silent", (), {"judge": lambda self, x, y, shuffle_order: []})()
    with pytest.raises(ValueError, match="each of 1 pairs, got 0"):
        JudgeOracle(silent).prob(["p"], ["a"], ["b"])
    with pytest.raises(UnknownNameError, match="no module"):
        make("judge", of="nobody_has_this:judge")
    assert JudgeConfig("x:y").orders == "both"


def by_first_letter(prompt, first, second):
    """Can't tell about answers that begin alike, nor if a question mark comes second."""
    return None if first[0] == second[0] or second == "?" else first < second


class RanksByFirstLetter:
    def judge(self, prompts, completions, shuffle_order=True):
        answers = [by_first_letter("", *pair) for pair in completions]
        return [-1 if answer is None else int(not answer) for answer in answers]


@pytest.mark.parametrize("judge", [by_first_letter, RanksByFirstLetter()], ids=["function", "judge"])
def test_what_a_judge_cant_tell_is_unread_in_either_order_and_never_scored(judge):
    asked = ["p"] * 5, ["a", "ab", "a", "?", "b"], ["b", "ac", "?", "a", "b"]
    oracle = JudgeOracle(judge)
    assert oracle.leaves_unread
    assert oracle.prob(*asked).nan_to_num(-1).tolist() == [1, -1, -1, -1, 0.5]
    assert JudgeOracle(judge, orders="one").prob(*asked).nan_to_num(-1).tolist() == [1, -1, -1, 1, 0.5]
    assert (oracle.unread.count, oracle.unread.asked) == (3, 5)
    with pytest.raises(Unanswered, match="left 3 of 5 pairs unread, and each is needed here"):
        ask_pairs(oracle, *asked)
    stops = JudgeOracle(judge, unread="stop")
    assert not stops.leaves_unread
    with pytest.raises(Unanswered, match="left 3 of 5 pairs unread, and unread='stop'"):
        stops.prob(*asked)
    judged = Judge(oracle).judge(asked[0], list(zip(*asked[1:], strict=True)), shuffle_order=False)
    assert judged == [0, -1, -1, -1, 0]


def test_a_function_may_answer_with_a_verdict():
    says = {"a": "first", "b": "second", "c": "tie", "d": "both_bad", "e": "unread"}
    oracle = JudgeOracle(lambda x, first, second: says[first], orders="one")
    assert oracle.prob(["p"] * 5, list(says), ["z"] * 5).nan_to_num(-1).tolist() == [1, 0, 0.5, 0.5, -1]
    with pytest.raises(ValueError, match=r"one of first, second, tie, both_bad, unread, or None .* got 'better'"):
        JudgeOracle(lambda x, first, second: "better").prob(["p"], ["a"], ["b"])


def test_a_judge_that_hardly_ever_can_tell_is_no_judge():
    oracle = JudgeOracle(lambda x, a, b: None)
    for i in range(19):
        assert oracle.prob([f"p{i}"], ["a"], ["b"]).isnan().all()
    with pytest.raises(ValueError, match="left 20 of 20 pairs unread"):
        oracle.prob(["p"], ["a"], ["b"])


def test_a_run_learns_from_what_is_read_and_logs_the_share(tmp_path, monkeypatch, capsys):
    """A quarter of the pairs begin alike, and an exact evaluation needs each of them."""
    rule = "lambda x, a, b: None if a[0] == b[0] else a < b"
    (tmp_path / "shy.py").write_text(f"judge = {rule}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    line = "--task symbols --policy tiny --oracle judge --oracle.of shy:judge --run.steps 3 --run.threads 1"
    line += " --run.batch_size 8 --agent ipo"
    assert main([*line.split(), "--run.dir", "exact"]) == 1
    assert "pairs unread, and each is needed here: nothing is put in place of an answer" in capsys.readouterr().err
    assert main([*line.split(), "--run.dir", "run", "--run.eval_every", "0"]) == 0
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    shares = [line["duel/unread"] for line in lines if "duel/unread" in line]
    assert len(shares) == 3
    assert all(0 < share < 0.5 for share in shares)
    asked = [line["duel/queries"] for line in lines if "duel/queries" in line]
    assert all(
        (share * count) == pytest.approx(round(share * count)) for share, count in zip(shares, asked, strict=True)
    )
    assert f"Unread:   {shares[-1]:.1%} of the pairs asked about" in capsys.readouterr().out
    for line in read_lines(tmp_path / "run/duels.jsonl"):
        assert line["left"] == line["right"] or line["left"][0] != line["right"][0]
