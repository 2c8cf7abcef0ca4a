import itertools

import numpy as np
import pytest

from envs.tasks.grammar import DRAWS, STYLES, Style, prompts, sample_answer
from preference_duel.keyed_random import Key, Stream
from runners.pretrain.population import ANNOTATORS, NOT_IN_GRAMMAR, population_prob

KEY = Key(7, stream=Stream.INIT)


def answers(style: Style, about: bool, count: int = 400):
    rows = KEY.uniform(k=range(DRAWS), l=[[i] for i in range(count)]).tolist()
    asked = itertools.cycle(prompts("held_out"))
    return [(prompt, sample_answer(prompt, style, about, row)) for prompt, row in zip(asked, rows, strict=False)]


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
