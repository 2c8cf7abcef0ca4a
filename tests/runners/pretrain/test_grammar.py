import itertools
import re

import numpy as np
import pytest

from preference_duel.keyed_random import Key, Stream
from runners.pretrain.grammar import (
    CORPUS,
    DRAWS,
    STYLES,
    SUBJECTS,
    Style,
    on_topic,
    parse,
    prompts,
    sample_answer,
    sample_corpus,
    subject_of,
)
from runners.pretrain.population import ANNOTATORS, NOT_IN_GRAMMAR, population_prob
from runners.pretrain.subjects import CLOSERS, OPENERS

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


def test_the_majority_is_cyclic_and_every_annotator_is_not():
    (prompt, _), *_ = answers("warm", about=True)
    row = KEY.uniform(k=range(DRAWS)).tolist()
    warm, concise, specific = (sample_answer(prompt, style, True, row) for style in STYLES)
    for first, second in ((warm, concise), (concise, specific), (specific, warm)):
        # two annotators see a gap of 3, one of -6: (2 / (1 + e^-3) + 1 / (1 + e^6)) / 3
        assert population_prob(prompt, first, second) == pytest.approx(0.635874, abs=1e-6)
        assert population_prob(prompt, second, first) == pytest.approx(1 - 0.635874, abs=1e-6)
    for annotator in ANNOTATORS:
        ab, bc, ac = (
            annotator.prob(prompt, *pair) for pair in ((warm, concise), (concise, specific), (warm, specific))
        )
        logit = [np.log(p / (1 - p)) for p in (ab, bc, ac)]
        assert logit[0] + logit[1] == pytest.approx(logit[2], abs=1e-9)


def test_the_population_is_antisymmetric_and_wants_answers_on_topic():
    about = answers("mixed", about=True) + answers("specific", about=True)
    beside = answers("warm", about=False) + answers("concise", about=False)
    for (prompt, good), (_, bad) in zip(about, beside, strict=True):
        prob = population_prob(prompt, bad, good)
        assert prob < 0.1
        assert prob + population_prob(prompt, good, bad) == pytest.approx(1, abs=1e-12)
        assert population_prob(prompt, good, good) == 0.5


def test_everyone_rejects_text_outside_the_grammar():
    for prompt, answer in answers("plain", about=False, count=50):
        assert population_prob(prompt, answer, "rinse rice") > 0.95
        assert all(annotator.reward(prompt, "rinse rice") == NOT_IN_GRAMMAR for annotator in ANNOTATORS)
