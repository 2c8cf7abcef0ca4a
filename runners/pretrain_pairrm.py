"""Makes the embedded PairRM: a small DeBERTa-v3 trained on single votes of a population of annotators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from oracles.annotators import population_prob
from oracles.base import Oracle
from oracles.grammar import DRAWS, STYLES, draw_style, on_topic, parse, prompts, sample_answer, sample_corpus
from oracles.keyed import Key, Stream, hash_seed
from oracles.pairrm import PairEncoder, PairRM
from runners.descent import descend

SPECIAL = (
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "[MASK]",
    "<|source|>",
    "<|candidate1|>",
    "<|candidate2|>",
    "<|candidate|>",
)
SOURCE_LIMIT, CANDIDATE_LIMIT = 40, 60
Question = tuple[str, str, str]
_ROW = DRAWS + 6


@dataclass(frozen=True)
class PairRMTraining:
    """How the embedded PairRM is made."""

    steps: int = 3000
    """Steps of AdamW; above 0."""
    batch: int = 128
    """Votes per step, all of them new."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    hidden: int = 96
    """Width."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 2
    """Attention heads."""
    on_topic: float = 0.65
    """Chance that an answer of a training pair is about what was asked."""
    broken: float = 0.1
    """Chance that an answer of a training pair is damaged, so that text outside the grammar is known to lose."""
    samples: int = 4000
    """Held-out pairs that measure the result."""


def build_encoder(seed: int) -> PairEncoder:
    """Returns the encoder, over a Unigram tokenizer with the special tokens of DeBERTa-v3.

    Its pieces are the corpus' words and the printable ASCII characters; what is made of neither is [UNK]. (Training
    a Unigram model does not give the same pieces twice.)
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    corpus = sample_corpus(prompts("train"), 20_000, _key(seed, "pairrm tokenizer"))
    counts = Counter(piece for pair in corpus for text in pair for piece, _ in words.pre_tokenize_str(text))
    total, rare = sum(counts.values()), -20.0
    pieces = {name: 0.0 for name in SPECIAL[:4]}
    pieces |= {piece: math.log(count / total) for piece, count in sorted(counts.items())}
    pieces |= {character: rare for character in ["▁", *map(chr, range(33, 127))] if character not in pieces}
    backend = Tokenizer(models.Unigram(list(pieces.items()), unk_id=3, byte_fallback=False))
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])  # pyright: ignore[reportAttributeAccessIssue] - properties in tokenizers' stubs
    backend.pre_tokenizer = words  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens([*SPECIAL[:3], AddedToken("[UNK]", normalized=True), "[MASK]"])
    backend.add_tokens(list(SPECIAL[5:]))
    return PairEncoder(backend.to_str(pretty=True), SOURCE_LIMIT, CANDIDATE_LIMIT)


def build_network(training: PairRMTraining, vocabulary: int, seed: int) -> PairRM:
    """Returns the untrained network."""
    from transformers import DebertaV2Config

    version_3: dict[str, Any] = {"position_buckets": 32, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    config = DebertaV2Config(
        **version_3,
        vocab_size=vocabulary,
        hidden_size=training.hidden,
        num_hidden_layers=training.layers,
        num_attention_heads=training.heads,
        intermediate_size=2 * training.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=SOURCE_LIMIT + 2 * CANDIDATE_LIMIT,
        relative_attention=True,
        max_relative_positions=-1,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(hash_seed(seed, "pairrm"))
        return PairRM(config, drop_out=0.0)


def train_pairrm(training: PairRMTraining, encoder: PairEncoder, seed: int) -> PairRM:
    """Returns the network after -log sigmoid(+-M) on single votes, as in Jiang et al. 2023, section 3.2.

    Each vote is one annotator's; which answer comes first is chance.
    """
    network = build_network(training, encoder.vocab_size, seed)
    key = _key(seed, "votes")

    def loss_at(step: int) -> Tensor:
        asked = sample_questions(prompts("train"), training, training.batch, key.at(step))
        votes = key.at(step).uniform(k=2**16, l=range(len(asked)))
        won = torch.tensor([vote < population_prob(*question) for vote, question in zip(votes, asked, strict=True)])
        ids, mask, positions = encoder.batch([encoder.encode(*question) for question in asked])
        return binary_cross_entropy_with_logits(network(ids, mask, positions), won.float())

    descend(network, loss_at, training.steps, training.learning_rate)
    return network


def sample_questions(asked: Sequence[str], training: PairRMTraining, count: int, key: Key) -> list[Question]:
    """Returns `count` prompts with two answers each, in the shares that `training` says."""
    uniforms = key.uniform(k=range(1 + 2 * _ROW), l=[[i] for i in range(count)]).tolist()
    questions = []
    for first, *rest in uniforms:
        prompt = asked[int(first * len(asked))]
        questions.append((prompt, *(_answer(prompt, training, rest[i : i + _ROW]) for i in (0, _ROW))))
    return questions


def damage(answer: str, other: str, uniforms: Sequence[float]) -> str:
    """Returns an answer with one fault: a word lost, doubled, moved or strange, no end, or another answer's end."""
    words, donor = answer.split(), other.split()
    i, j = int(uniforms[1] * len(words)), int(uniforms[2] * len(donor))
    faults = [
        words[:i] + words[i + 1 :],
        words[:i] + words[i : i + 1] + words[i:],
        words[:i] + words[i + 1 :] + words[i : i + 1],
        words[:i] + donor[j : j + 1] + words[i + 1 :],
        words[:i],
        words[:i] + donor[j:],
    ]
    return " ".join(faults[int(uniforms[0] * len(faults))])


def measure_pairrm(oracle: Oracle, training: PairRMTraining, seed: int) -> dict[str, float]:
    """Returns what the model card states, all on held-out prompts and against `population_prob`.

    Returns:
        `vote_accuracy`: mean chance that a new vote agrees with the oracle's favourite, over pairs of answers from
        the corpus; `best_accuracy`: that of the population's own favourite; `mean_error` in P on the same pairs;
        `cyclic_share`: triads of one on-topic answer per pure style in which warm beats concise, concise specific
        and specific warm; `off_topic_loses` and `broken_loses`: shares of pairs in which an off-topic (damaged)
        answer has P < 1/2 against an on-topic (whole) one.
    """
    held_out = prompts("held_out")
    key = _key(seed, "held-out votes")
    natural = replace(training, on_topic=0.5, broken=0.0)
    asked = sample_questions(held_out, natural, training.samples, key)
    truth = torch.tensor([population_prob(*question) for question in asked], dtype=torch.float64)
    prob = _ask(oracle, asked)
    mixed = [on_topic(x, a) != on_topic(x, b) for x, a, b in asked]
    right = torch.tensor([on_topic(x, a) for x, a, _ in asked]) == (prob > 0.5)
    broken = sample_questions(held_out, replace(training, on_topic=1.0, broken=0.5), training.samples, key.at(1))
    faulty = [(x, a, b) for x, a, b in broken if parse(a) is not None and parse(b) is None]
    return {
        "vote_accuracy": torch.where(prob > 0.5, truth, 1 - truth).mean().item(),
        "best_accuracy": torch.maximum(truth, 1 - truth).mean().item(),
        "mean_error": (prob - truth).abs().mean().item(),
        "cyclic_share": cyclic_share(oracle, training.samples, key.at(2)),
        "off_topic_loses": right[torch.tensor(mixed)].double().mean().item(),
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


def _answer(prompt: str, training: PairRMTraining, row: Sequence[float]) -> str:
    style, topic, fault, *rest = row
    answer = sample_answer(prompt, draw_style(style), topic < training.on_topic, rest[:DRAWS])
    if fault >= training.broken:
        return answer
    other = sample_answer(prompt, draw_style(rest[-1]), rest[-2] < 0.5, rest[:DRAWS][::-1])
    return damage(answer, other, rest[DRAWS:])


def _key(seed: int, purpose: str) -> Key:
    return Key(hash_seed(seed, purpose), stream=Stream.INIT)
