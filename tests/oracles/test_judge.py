"""Oracles as judges of TRL, and functions and judges as oracles."""

import re
import sys

import pytest
import torch

from oracles.base import payoff
from oracles.check import check_oracle
from oracles.judge import Judge, JudgeConfig, JudgeOracle
from oracles.registry import make
from preference_duel.names import UnknownNameError
from runners.duel import main
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
    undecided = type("Undecided", (), {"judge": lambda self, x, y, shuffle_order: [-1] * len(x)})()
    with pytest.raises(ValueError, match="by 0 or 1, got -1"):
        JudgeOracle(undecided).prob(["p"], ["a"], ["b"])
    silent = type("Silent", (), {"judge": lambda self, x, y, shuffle_order: []})()
    with pytest.raises(ValueError, match="each of 1 pairs, got 0"):
        JudgeOracle(silent).prob(["p"], ["a"], ["b"])
    with pytest.raises(UnknownNameError, match="no module"):
        make("judge", of="nobody_has_this:judge")
    assert JudgeConfig("x:y").orders == "both"
