"""Each format reads what says one thing, and nothing else."""

import pytest

from oracles.judging.formats import FORMATS, read_answer, without_thought

GENRM = '{{"score_1": {}, "score_2": {}, "ranking": {}}}'.format
READ = {
    "letters": [
        *[
            (text, "first")
            for text in ("A", " a.", "**A**", "[[A]]", "Answer: A", '{"winner": "A"}', "A\nIt is shorter")
        ],
        *[(text, "second") for text in ("B", "The better answer is B.", "(B)")],
        *[(text, "unread") for text in ("Apple", "Answer", "Both", "Both A and B", "Because", "A or B", "A good one")],
    ],
    "brackets": [
        ("Both are fine, but [[A]]", "first"),
        ("[[B]]", "second"),
        ("My verdict: [[ C ]].", "tie"),
        ("Neither. [[D]]", "both_bad"),
        ("At first [[A]] seems better. It is [[A]]", "first"),
        ("At first [[A]] seems better. No, [[B]]", "unread"),
        ("I would choose A.", "unread"),
        ("[A]", "unread"),
        ("[[E]]", "unread"),
        ("[[AB]]", "unread"),
    ],
    "arena": [
        ("[[A>>B]]", "first"),
        ("well [[A>B]]", "first"),
        ("[[A=B]]", "tie"),
        ("[[B=A]]", "tie"),
        ("[[B>A]]", "second"),
        ("[[B >> A]]", "second"),
        ("[[A<<B]]", "second"),
        ("[[B<A]]", "first"),
        ("[[A>B]], in other words [[A>>B]]", "first"),
        ("[[A>B]] or [[B>A]]", "unread"),
        ("[[A>A]]", "unread"),
        ("[[A]]", "unread"),
        ("A>>B", "unread"),
    ],
    "scores": [
        ("8 7", "first"),
        ("7, 8\nThe second is shorter.", "second"),
        ("**9/9**", "tie"),
        ("6.5 6", "first"),
        ("It follows: [[3, 4]]", "second"),
        ("[[3,4]] and once more [[3, 4]]", "second"),
        ("[[3, 4]] or [[4, 3]]", "unread"),
        ("11 7", "unread"),
        ("8 0", "unread"),
        ("-1 7", "unread"),
        ("8", "unread"),
        ("8 7 6", "unread"),
        ("The scores are 8 and 7", "unread"),
    ],
    "genrm": [
        (GENRM(5, 2, 1), "first"),
        (GENRM(2, 5, 6), "second"),
        (GENRM(3, 3, 3), "first"),
        (GENRM(3, 3, 4), "second"),
        ('{"score_1": 3, "score_2": 3}', "tie"),
        ('{"ranking": 2}', "first"),
        (f"I weighed {{both}}.\n```json\n{GENRM(4, 2, 2)}\n```\nDone.", "first"),
        (f'{{"rubric_evaluations": [], "overall": {GENRM(1, 4, 5)}}}', "second"),
        (f"{GENRM(5, 2, 1)} {GENRM(4, 2, 2)}", "first"),
        (f"{GENRM(5, 2, 1)} or {GENRM(2, 5, 6)}", "unread"),
        (GENRM(5, 2, 6), "unread"),
        (GENRM(6, 2, 1), "unread"),
        (GENRM(5, 0, 1), "unread"),
        (GENRM(5, 2, 7), "unread"),
        (GENRM('"5"', 2, 1), "unread"),
        (GENRM("NaN", 2, 1), "unread"),
        (GENRM("true", 2, 1), "unread"),
        ('{"score_1": 5, "ranking": 1}', "unread"),
        ('{"score_a": 5, "score_b": 2}', "unread"),
        ("[5, 2, 1]", "unread"),
        (GENRM(5, 2, 1)[:-1], "unread"),
        ("{" * 3000, "unread"),
        (GENRM("9" * 5000, 2, 1), "unread"),
    ],
}
"""Answers and their verdicts, by format."""
NOTHING = "", "  \n", "I can't help with that.", "<html><body>503 busy</body></html>", "[[", "A and B", "null", "\x00"


@pytest.mark.parametrize(("name", "text", "verdict"), [(n, *case) for n in READ for case in READ[n]], ids=repr)
def test_an_answer_is_read_if_it_says_one_thing(name, text, verdict):
    assert FORMATS[name].read(text) == verdict
    assert read_answer(name, text, cut=False) == verdict


@pytest.mark.parametrize("text", NOTHING, ids=repr)
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_read_into_what_is_no_answer(name, text):
    assert read_answer(name, text, cut=False) == "unread"


@pytest.mark.parametrize("name", FORMATS)
def test_a_thought_is_no_answer(name):
    says = next(text for text, verdict in READ[name] if verdict == "first")
    other = next(text for text, verdict in READ[name] if verdict == "second")
    for thought in (f"<think>Perhaps {other}?</think>", f"Perhaps {other}?\n</think>", "<think></think>"):
        assert read_answer(name, f"{thought}\n\n{says}", cut=False) == "first"
    for unfinished in (f"<think>Perhaps\n{says}", f"<think>done</think><think>{says}", "<think>no more</think>"):
        assert read_answer(name, unfinished, cut=False) == "unread"
    assert read_answer(name, says, cut=True) == read_answer(name, None, cut=False) == "unread"


def test_what_follows_a_thought():
    assert without_thought("a") == "a"
    assert without_thought("<think>a</think> b ") == without_thought("a</think>\nb") == "b"
    assert without_thought("<think>a") is without_thought("a</think><think>b") is None
