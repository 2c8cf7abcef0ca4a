import itertools
import re

import numpy as np
import pytest

from envs.tasks.grammar import (
    CORPUS,
    DRAWS,
    STYLES,
    SUBJECTS,
    Style,
    on_topic,
    parse,
    prompts,
    pure_answers,
    sample_answer,
    sample_corpus,
    style_of,
    subject_of,
)
from envs.tasks.subjects import CLOSERS, OPENERS
from preference_duel.keyed_random import Key, Stream

KEY = Key(7, stream=Stream.INIT)


def answers(style: Style, about: bool, count: int = 400):
    rows = KEY.uniform(k=range(DRAWS), l=[[i] for i in range(count)]).tolist()
    asked = itertools.cycle(prompts("held_out"))
    return [(prompt, sample_answer(prompt, style, about, row)) for prompt, row in zip(asked, rows, strict=False)]


def test_splits_are_large_disjoint_and_cover_every_subject():
    train, held_out = prompts("train"), prompts("held_out")
    assert len(set(train)) == len(train) >= 200
    assert len(set(held_out)) == len(held_out) >= 160
    assert not set(train) & set(held_out)
    for split in (train, held_out):
        assert {subject_of(prompt).do for prompt in split} == {subject.do for subject in SUBJECTS}
    assert len({subject.topic for subject in SUBJECTS}) == 8
    assert len({subject_of(prompt).topic for prompt in held_out[:64]}) == 8, "a beginning must show every topic"


def test_no_two_subjects_share_a_piece_of_advice():
    actions = [advice.action for subject in SUBJECTS for advice in subject.advice]
    assert len(set(actions)) == len(actions) == 3 * len(SUBJECTS)
    assert all(3 <= len(action.split()) <= 5 for action in actions)


@pytest.mark.parametrize(("style", "features"), [("warm", (1, 0, 0)), ("concise", (0, 1, 0)), ("specific", (0, 0, 1))])
def test_a_pure_style_is_nothing_else(style, features):
    for prompt, answer in answers(style, about=True):
        parsed = parse(answer)
        assert parsed is not None, answer
        assert (parsed.warmth, parsed.brevity, parsed.specificity) == features, answer
        assert parsed.length == len(answer.split())
        assert parsed.subject == subject_of(prompt).do


@pytest.mark.parametrize("style", CORPUS)
@pytest.mark.parametrize("about", [True, False])
def test_every_answer_parses_to_what_it_was_made_from(style, about):
    for prompt, answer in answers(style, about):
        parsed = parse(answer)
        assert parsed is not None, answer
        assert on_topic(prompt, answer) == about
        assert (parsed.topic, parsed.subject) in {(subject.topic, subject.do) for subject in SUBJECTS}
        openings = sum(answer.startswith(opener) for opener in OPENERS) + sum(answer.endswith(end) for end in CLOSERS)
        assert parsed.warmth == openings / 2
        assert parsed.specificity == len(re.findall(r"\d+", answer)) / 2


def test_features_of_answers_read_by_hand():
    plain = parse("Rinse the rice, then simmer the rice.")
    assert plain is not None
    assert (plain.topic, plain.subject, plain.length, plain.warmth, plain.specificity) == (
        "cooking",
        "cook rice",
        7,
        0,
        0,
    )
    assert plain.brevity == pytest.approx(0.6)
    mixed = parse("So happy to help you! Rinse the rice 3 times, then rest the rice.")
    assert mixed is not None
    assert (mixed.length, mixed.warmth, mixed.specificity, mixed.brevity) == (14, 0.5, 0.5, 0)


@pytest.mark.parametrize(
    ("answer", "style"),
    [
        ("I am glad you asked! Rinse the rice. You will do great!", "warm"),
        ("Rinse the rice.", "concise"),
        ("Turn the compost every 8 days, then layer the compost every 10 cm.", "specific"),
        ("I am glad you asked! Rinse the rice.", "mixed"),
        ("Rice!", "not parsed"),
    ],
)
def test_styles_of_answers_read_by_hand(answer, style):
    assert style_of(answer) == style


def test_pure_answers_are_on_topic_and_of_their_style():
    for i, prompt in enumerate(prompts("held_out")[:20]):
        answers = pure_answers(prompt, KEY.at(i))
        assert [style_of(answer) for answer in answers] == list(STYLES)
        assert all(on_topic(prompt, answer) for answer in answers)


def test_space_around_an_answer_is_no_matter():
    assert parse(" Rinse the rice.\n") == parse("Rinse the rice.") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "Rinse the rice",
        "rinse the rice.",
        "Rinse the rice 7 times.",
        "Rinse the rice {} times.",
        "Rinse the rice 3 minutes.",
        "Rinse the rice, then rinse the rice.",
        "Rinse the rice, then rinse the rice 2 times.",
        "Rinse the rice, then knead the dough.",
        "Rinse the rice, then simmer the rice, then rest the rice.",
        "Rinse the rice. Rest the rice.",
        "You can do this! You can do this!",
        "So happy to help you!",
        "So happy to help you! You can do this!",
        "So happy to help you! So happy to help you! Rinse the rice.",
        "Rinse the rice. You can do this! You can do this!",
        "Help me. You can do this!",
        "What a lovely question",
        "The quick brown fox jumps over the lazy dog.",
        "\x00\ud83d",
    ],
)
def test_other_text_is_not_in_the_grammar(text):
    assert parse(text) is None


def test_shuffled_words_are_not_in_the_grammar():
    rng = np.random.default_rng(0)
    shuffled = [" ".join(rng.permutation(answer.split())) for _, answer in answers("specific", about=True)]
    assert sum(parse(text) is not None for text in shuffled) == 0


def test_an_unknown_prompt_is_named():
    with pytest.raises(ValueError, match="fly to Mars"):
        subject_of("How do I fly to Mars?")


def test_the_corpus_has_its_shares_and_depends_on_the_key_alone():
    corpus = sample_corpus(prompts("train"), 8000, KEY)
    assert corpus[:50] == sample_corpus(prompts("train"), 50, KEY)
    assert corpus[:50] != sample_corpus(prompts("train"), 50, KEY.at(1))
    assert np.mean([on_topic(*pair) for pair in corpus]) == pytest.approx(0.5, abs=0.02)
    parsed = [parse(answer) for _, answer in corpus]
    assert all(parsed)
    pure = [(p.warmth, p.brevity, p.specificity) for p in parsed if p is not None]
    for feature in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert np.mean([entry == feature for entry in pure]) == pytest.approx(0.25, abs=0.02)
