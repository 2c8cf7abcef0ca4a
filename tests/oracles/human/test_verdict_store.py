import sqlite3
import threading

import pytest

from oracles.human.verdict_store import VerdictStore
from preference_duel.types import Conversation, Unanswered

PAIRS = [("p", "a", "b"), ("p", "c", "a"), ("q", "a", "b")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "verdicts.sqlite"


@pytest.fixture
def opened(path):
    """Makes stores on one file, each closed before the next, as a process that ends."""
    stores = []

    def make(**options):
        if stores:
            stores[-1].close()
        stores.append(VerdictStore(path, **options))
        return stores[-1]

    yield make
    stores[-1].close()


def prefer(store, person, better):
    """Answers a person's question in favour of a text, or by a tie; returns the question."""
    shown = store.question(person)
    choice = "tie" if better is None else "left" if shown.left == better else "right"
    assert store.answer(person, shown.number, choice)
    return shown


def test_a_verdict_counts_for_its_text_in_either_order_of_the_pair(opened):
    store = opened()
    first, second, third = store.ask(PAIRS)
    for better in ("b", "a", None):
        prefer(store, "ann", better)
    assert [store.share(first, "a"), store.share(first, "b")] == [0, 1]
    assert [store.share(second, "c"), store.share(second, "a")] == [0, 1]
    assert store.share(third, "a") == store.share(third, "b") == 0.5
    assert store.ask([("p", "b", "a")]) == [first]
    assert store.missing() == 0


def test_the_share_of_several_people_is_the_probability(opened):
    store = opened(people=3)
    (number,) = store.ask(PAIRS[:1])
    for person, better in (("ann", "a"), ("bob", "b"), ("cy", None)):
        prefer(store, person, better)
        assert store.question(person) is None
    assert store.share(number, "a") == pytest.approx(0.5)
    store.wait()
    assert store.question("dora") is None


def test_each_response_stands_on_the_left_for_half_of_the_questions(opened):
    store = opened()
    store.ask([("p", f"a{i}", f"b{i}") for i in range(60)])
    lefts = [prefer(store, "ann", None).left[0] for _ in range(60)]
    assert 18 < lefts.count("a") < 42
    sides = {"a": "first", "b": "second"}
    shown = store._base.execute("select shown_left from verdicts order by number").fetchall()
    assert [side for (side,) in shown] == [sides[left] for left in lefts]


def test_an_open_question_is_the_same_after_a_reload_and_another_start(opened):
    store = opened()
    store.ask(PAIRS)
    shown = store.question("ann")
    assert store.question("ann") == shown
    store = opened()
    assert store.question("ann") is None, "the run has not come to its question yet"
    store.ask(PAIRS[::-1])
    assert store.question("ann") == shown


def test_two_people_never_have_the_same_question(opened):
    store = opened()
    store.ask(PAIRS)
    shown = [store.question(person) for person in ("ann", "bob", "cy")]
    assert len({one.number for one in shown}) == 3
    assert store.question("dora") is None
    assert not store.answer("dora", shown[0].number, "left"), "it is reserved for ann"
    assert store.answer("ann", shown[0].number, "left")
    assert not store.answer("bob", shown[0].number, "left"), "it has its verdict"
    assert store.answer("ann", shown[0].number, "right"), "a page that sends a verdict again is told it is kept"
    assert store.given() == 1
    assert store.verdicts()[0].winner == "left"


def test_many_people_at_once_give_each_question_one_verdict(opened):
    store = opened()
    store.ask([("p", "a", f"b{i}") for i in range(30)])

    def judge(person):
        while shown := store.question(person):
            store.answer(person, shown.number, "left")

    people = [threading.Thread(target=judge, args=(f"person {i}",)) for i in range(4)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert store.given() == 30
    assert store.missing() == 0


def test_a_page_that_goes_away_frees_its_question(opened, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("oracles.human.verdict_store.time.time", lambda: clock[0])
    store = opened(patience=30)
    store.ask(PAIRS[:1])
    shown = store.question("ann")
    clock[0] += 29
    assert store.question("bob") is None
    clock[0] += 2
    assert store.question("bob").number == shown.number
    assert store.question("ann") is None
    assert not store.answer("ann", shown.number, "left")
    clock[0] += 31
    assert store.answer("ann", shown.number, "left"), "nobody else has it any more"
    assert not store.answer("bob", shown.number, "left")


def test_undo_takes_verdicts_back_one_by_one_and_shows_their_questions(opened):
    store = opened()
    store.ask(PAIRS)
    first, second = prefer(store, "ann", "a"), prefer(store, "ann", "a")
    assert store.undo("ann")
    assert store.question("ann") == second
    assert store.undo("ann")
    assert store.question("ann") == first
    assert not store.undo("ann")
    assert not store.undo("bob")
    assert store.missing() == 3


def test_undo_ends_where_the_run_has_used_the_verdicts(opened):
    store = opened()
    store.ask(PAIRS[:1])
    prefer(store, "ann", "a")
    store.wait()
    assert not store.undo("ann")
    store.ask(PAIRS)
    assert store.undo("ann"), "the question is open again"


def test_waiting_ends_with_the_last_verdict_or_when_it_is_stopped(opened):
    store = opened()
    store.ask(PAIRS)
    missing, answers = [], iter(["a", "a", "b"])
    store.wait(report=lambda left: missing.append(left) or prefer(store, "ann", next(answers)))
    assert missing == [3, 2, 1]
    store.ask([("p", "new", "er")])
    with pytest.raises(Unanswered, match=r"people have yet to give 1 verdicts; .*verdicts.sqlite keeps"):
        store.wait(stopped=lambda: True)


def test_a_last_verdict_may_be_undone_for_a_while(opened):
    store = opened()
    store.ask(PAIRS[:1])
    prefer(store, "ann", "a")
    reports = []

    def report(missing):
        reports.append(missing)
        if len(reports) == 1:
            assert store.undo("ann")
        elif missing:
            prefer(store, "ann", "b")
            store._last_change -= 60  # a minute passes

    store.wait(grace=30, report=report)
    assert reports == [0, 1]
    assert store.share(1, "b") == 1


def test_all_turns_of_a_conversation_are_kept(opened):
    store = opened()
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "é"},
    ]
    store.ask([(Conversation(turns), "a", "b"), (str(Conversation(turns)), "a", "b")])
    assert store.question("ann").messages == turns
    prefer(store, "ann", "a")
    assert store.question("ann").messages == [{"role": "user", "content": str(Conversation(turns))}]
    (verdict,) = store.verdicts()
    assert verdict.messages == turns
    assert {verdict.left, verdict.right} == {"a", "b"}
    assert (verdict.left if verdict.winner == "left" else verdict.right) == "a"


def test_the_file_holds_every_verdict_as_soon_as_it_is_given(opened, path):
    store = opened()
    store.ask(PAIRS)
    for count in (1, 2):
        prefer(store, "ann", "a")
        other = sqlite3.connect(path)
        assert other.execute("select count(*) from verdicts where person = 'ann'").fetchone() == (count,)
        other.close()


def test_a_file_is_tied_to_what_it_was_made_for(opened, path):
    store = opened()
    store.claim("the run one")
    store.claim("the run one")
    with pytest.raises(ValueError, match="holds the verdicts of the run one, not of the run two; choose another file"):
        store.claim("the run two")


def test_a_file_in_use_or_of_another_kind_is_refused_in_a_line(opened, tmp_path):
    store = opened()
    with pytest.raises(OSError, match=r"verdicts.sqlite is in use by another process"):
        VerdictStore(store.path)
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    with pytest.raises(ValueError, match=r"notes.txt is no file of verdicts: file is not a database; choose another"):
        VerdictStore(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="is a directory"):
        VerdictStore(tmp_path)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("create table answers (question text)")
    other.close()
    with pytest.raises(ValueError, match="other tables"):
        VerdictStore(tmp_path / "other.sqlite")
