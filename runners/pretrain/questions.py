"""Questions for a judge of the embedded text, and how well it answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.tasks.grammar import DRAWS, STYLES, draw_style, on_topic, parse, prompts, sample_answer
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.protocols import Oracle
from runners.pretrain.population import population_prob

Question = tuple[str, str, str]
MOST_FAULTS = 4
_ROW = 3 + DRAWS + 1 + 3 * MOST_FAULTS + 2 + DRAWS


@dataclass(frozen=True)
class Mix:
    """Pairs of answers to ask about; styles come in the corpus' shares.

    Attributes:
        on_topic: the chance that an answer is about what was asked.
        broken: the chance that it is damaged, by one to `MOST_FAULTS` faults.
    """

    on_topic: float = 0.5
    broken: float = 0.0


def sample_questions(asked: Sequence[str], mix: Mix, count: int, key: Key) -> list[Question]:
    """Returns `count` prompts with two answers each, in the shares that `mix` says."""
    uniforms = key.uniform(k=range(1 + 2 * _ROW), l=[[i] for i in range(count)]).tolist()
    questions = []
    for first, *rest in uniforms:
        prompt = asked[int(first * len(asked))]
        questions.append((prompt, *(_answer(prompt, mix, rest[i : i + _ROW]) for i in (0, _ROW))))
    return questions


def damage(answer: str, other: str, uniforms: Sequence[float]) -> str:
    """Returns an answer with one fault: a word lost, doubled, moved or strange, no end, no start, another's end."""
    words, donor = answer.split(), other.split()
    i, j = int(uniforms[1] * len(words)), int(uniforms[2] * len(donor))
    faults = [
        words[:i] + words[i + 1 :],
        words[:i] + words[i : i + 1] + words[i:],
        words[:i] + words[i + 1 :] + words[i : i + 1],
        words[:i] + donor[j : j + 1] + words[i + 1 :],
        words[:i],
        words[i:],
        words[:i] + donor[j:],
    ]
    return " ".join(faults[int(uniforms[0] * len(faults))])


def measure_judge(oracle: Oracle, samples: int, seed: int) -> dict[str, float]:
    """Returns what the model card states, all on held-out prompts and against `population_prob`.

    Returns:
        `vote_accuracy`: mean chance that a new vote agrees with the oracle's favourite, over pairs of answers from
        the corpus; `best_accuracy`: that of the population's own favourite; `mean_error` in P on the same pairs;
        `cyclic_share`: triads of one on-topic answer per pure style in which warm beats concise, concise specific
        and specific warm; `off_topic_loses` and `broken_loses`: shares of pairs in which an off-topic (damaged)
        answer has P < 1/2 against an on-topic (whole) one.
    """
    held_out, key = prompts("held_out"), _key(seed, "held-out votes")
    asked = sample_questions(held_out, Mix(), samples, key)
    truth = torch.tensor([population_prob(*question) for question in asked], dtype=torch.float64)
    prob = _ask(oracle, asked)
    about = torch.tensor([[on_topic(x, a), on_topic(x, b)] for x, a, b in asked])
    mixed = about[:, 0] != about[:, 1]
    damaged = sample_questions(held_out, Mix(on_topic=1.0, broken=0.5), samples, key.at(1))
    faulty = [(x, a, b) for x, a, b in damaged if parse(a) is not None and parse(b) is None]
    return {
        "vote_accuracy": torch.where(prob > 0.5, truth, 1 - truth).mean().item(),
        "best_accuracy": torch.maximum(truth, 1 - truth).mean().item(),
        "mean_error": (prob - truth).abs().mean().item(),
        "cyclic_share": cyclic_share(oracle, samples, key.at(2)),
        "off_topic_loses": ((prob > 0.5) == about[:, 0])[mixed].double().mean().item(),
        "broken_loses": (_ask(oracle, faulty) > 0.5).double().mean().item(),
    }


def cyclic_share(oracle: Oracle, count: int, key: Key) -> float:
    """Returns the share of triads, one on-topic answer for each pure style, that cycle as the population does."""
    held_out = prompts("held_out")
    uniforms = key.uniform(k=range(DRAWS), l=[[i] for i in range(count * len(STYLES))]).tolist()
    triads = []
    for i in range(count):
        rows = uniforms[len(STYLES) * i : len(STYLES) * (i + 1)]
        prompt = held_out[i % len(held_out)]
        answers = [sample_answer(prompt, style, True, row) for style, row in zip(STYLES, rows, strict=True)]
        triads += [(prompt, answers[j], answers[(j + 1) % len(STYLES)]) for j in range(len(STYLES))]
    return (_ask(oracle, triads).reshape(count, len(STYLES)) > 0.5).all(1).double().mean().item()


def _ask(oracle: Oracle, questions: Sequence[Question]) -> Tensor:
    return oracle.prob(*(list(column) for column in zip(*questions, strict=True))).double()


def _answer(prompt: str, mix: Mix, row: Sequence[float]) -> str:
    style, topic, damaged, *draws = row
    answer = sample_answer(prompt, draw_style(style), topic < mix.on_topic, draws[:DRAWS])
    if damaged >= mix.broken:
        return answer
    count, *faults = draws[DRAWS : DRAWS + 1 + 3 * MOST_FAULTS]
    donor_style, donor_topic, *donor_draws = draws[DRAWS + 1 + 3 * MOST_FAULTS :]
    donor = sample_answer(prompt, draw_style(donor_style), donor_topic < 0.5, donor_draws)
    for i in range(1 + int(count * MOST_FAULTS)):
        answer = damage(answer or donor, donor, faults[3 * i : 3 * i + 3])
    return answer


def _key(seed: int, purpose: str) -> Key:
    return Key(hash_seed(seed, purpose), stream=Stream.INIT)
