import re
from contextlib import ExitStack

import pytest

import oracles
from oracles import check_oracle, payoff
from oracles.human import human_config
from preference_duel import distributed
from preference_duel.protocols import attended
from preference_duel.types import Unanswered
from tests.oracles.human.scripted import Scripted, free_port


def longer(prompt, left, right):
    return "tie" if len(left) == len(right) else "left" if len(left) > len(right) else "right"


@pytest.fixture
def make(tmp_path):
    """Makes the oracle of one file, and closes it at the end."""
    made = []

    def build(name="human", **fields):
        fields = {"file": str(tmp_path / "verdicts.sqlite"), "port": free_port(), "grace": 0.0} | fields
        made.append(oracles.make(name, **fields))
        return made[-1]

    yield build
    for one in made:
        attended(one).close()


def address(oracle):
    return f"http://127.0.0.1:{oracle.config.port}"


def test_it_asks_each_pair_once_and_keeps_the_contract(make):
    oracle = make()
    with Scripted(address(oracle), longer) as ann:
        check_oracle(oracle, ["x", "y"], [["a", "bb", "ccc", "dd"]] * 2)
    assert len(ann.questions) == len(set(ann.questions)) == 12
    assert payoff(oracle, ["x"], [["a", "bb", "dd"]]).tolist() == [[[0.5, 0, 0], [1, 0.5, 0.5], [1, 0.5, 0.5]]]


def test_verdicts_of_another_start_are_read_back_without_a_page(make, capsys):
    first = make()
    with Scripted(address(first), longer):
        asked = first.prob(["x", "x"], ["a", "bb"], ["bb", "c"])
    first.close()
    assert "page:" in capsys.readouterr().out
    again = make().prob(["x", "x"], ["a", "c"], ["bb", "bb"])
    assert again.tolist() == [asked[0], 1 - asked[1]] == [0, 0]
    assert capsys.readouterr().out == ""


def test_the_probability_is_the_share_of_the_people(make):
    oracle = make(people=3)
    rules = {"ann": longer, "bob": longer, "cy": lambda *_: "tie"}
    with ExitStack() as stack:
        for person, rule in rules.items():
            stack.enter_context(Scripted(address(oracle), rule, person))
        assert oracle.prob(["x"], ["bb"], ["a"]).tolist() == pytest.approx([2.5 / 3])
    assert oracle.description.startswith("3 persons for each pair, verdicts in ")


def test_a_wrapper_keeps_the_people_within_reach(make):
    oracle = make("human+noise")
    assert attended(oracle) is oracle.inner
    assert attended(oracles.make("bt", responses=["a", "b"])) is None
    with Scripted(address(oracle.inner), longer):
        assert oracle.prob(["x"], ["bb"], ["a"]).tolist() == pytest.approx([0.95])


def test_it_says_how_many_verdicts_are_left(make, capsys):
    oracle = make()
    with Scripted(address(oracle), longer):
        oracle.prob(["x", "x", "y"], ["bb", "bb", "a"], ["a", "a", "ccc"])
    assert re.fullmatch(r"page:  http://127.0.0.1:\d+/\npeople: 2 verdicts left\n", capsys.readouterr().out)


def test_an_answer_is_never_made_up(make):
    oracle = make()
    oracle.start(stopped=lambda: True)
    with pytest.raises(Unanswered):
        oracle.prob(["x"], ["a"], ["b"])
    assert oracle.prob(["x"], ["a"], ["a"]).tolist() == [0.5], "equal texts need no verdict"


def test_wrong_settings_are_refused_in_a_line(make, monkeypatch):
    with pytest.raises(ValueError, match="people must be at least 1, got 0"):
        make(people=0)
    with pytest.raises(ValueError, match=r"pass --oracle\.file FILE"):
        oracles.make("human").prob(["x"], ["a"], ["b"])
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(ValueError, match="several processes"):
        make()


def test_without_its_libraries_it_says_what_to_install(make, monkeypatch):
    monkeypatch.setattr(human_config, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs starlette and uvicorn: pip install 'preference-duel\[human\]'"):
        make()
