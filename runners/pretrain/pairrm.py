"""Makes the embedded PairRM: a small DeBERTa-v3 trained on single votes of a population of annotators."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from envs.tasks.grammar import SUBJECTS, parse, prompts, sample_corpus, subject_of
from oracles.pairrm.oracle import PairEncoder, PairRM
from preference_duel.keyed_random import Key, Stream, hash_seed
from runners.fitting.supervised import descend
from runners.pretrain.population import population_prob
from runners.pretrain.questions import Mix, Question, sample_questions
from runners.pretrain.settings import PairRMTraining

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
_SUBJECT = {subject.do: i for i, subject in enumerate(SUBJECTS)}


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
        initializer_range=training.initializer_range,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, "pairrm"))
        return PairRM(config, drop_out=0.0)


def train_pairrm(training: PairRMTraining, encoder: PairEncoder, seed: int) -> PairRM:
    """Returns the network after both of its lessons: what a text says, and what people prefer."""
    network = build_network(training, encoder.vocab_size, seed)
    teach_reading(network, training, encoder, seed)
    teach_preferences(network, training, encoder, seed)
    return network


def teach_reading(network: PairRM, training: PairRMTraining, encoder: PairEncoder, seed: int) -> None:
    """Trains the backbone to say at each prefix what its text is about, and at a response's how both are written.

    This stands for the pretraining that a large PairRM's backbone brings along: from random weights, votes alone
    teach a small network what is on topic, or that a style's worth depends on the other one, only after very many
    of them. The two probes are thrown away.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_seed(seed, "probes"))
        about, manner = nn.Linear(training.hidden, len(SUBJECTS)), nn.Linear(training.hidden, 1 + 2 * 3)
    backbone, key = network.pretrained_model, _key(seed, "reading")

    def loss_at(step: int) -> Tensor:
        asked = sample_questions(prompts("train"), Mix(), training.batch, key.at(step))
        ids, mask, positions = encoder.batch([encoder.encode(*question) for question in asked])
        hidden = backbone(ids, attention_mask=mask).last_hidden_state
        states = hidden[torch.arange(len(ids))[:, None], positions]  # [N, 3, d]
        subjects, manners = _reading(asked)
        naming = cross_entropy(about(states).flatten(0, 1), subjects.flatten())
        return naming + binary_cross_entropy_with_logits(manner(states[:, 1:]), manners)

    descend(nn.ModuleList([backbone, about, manner]), loss_at, training.reading_steps, training.learning_rate)


def teach_preferences(network: PairRM, training: PairRMTraining, encoder: PairEncoder, seed: int) -> None:
    """Trains the whole network by -log sigmoid(+-M) on single votes, as in Jiang et al. 2023, section 3.2.

    Each vote is one annotator's; which answer comes first is chance.
    """
    mix, key = Mix(training.on_topic, training.broken), _key(seed, "votes")

    def loss_at(step: int) -> Tensor:
        asked = sample_questions(prompts("train"), mix, training.batch, key.at(step))
        ids, mask, positions = encoder.batch([encoder.encode(*question) for question in asked])
        return binary_cross_entropy_with_logits(network(ids, mask, positions), _votes(asked, key.at(step)))

    descend(network, loss_at, training.steps, training.learning_rate)


def _reading(asked: list[Question]) -> tuple[Tensor, Tensor]:
    """Returns the subject of each text [N, 3], and for each response its match and both styles [N, 2, 7], in [0, 1]."""
    subjects, manners = [], []
    for prompt, *answers in asked:
        parsed = [answer for answer in map(parse, answers) if answer is not None]
        names = [subject_of(prompt).do, *(answer.subject for answer in parsed)]
        styles = [[answer.warmth, answer.brevity, answer.specificity] for answer in parsed]
        subjects.append([_SUBJECT[name] for name in names])
        matches = [float(name == names[0]) for name in names[1:]]
        manners.append([[matches[0], *styles[0], *styles[1]], [matches[1], *styles[1], *styles[0]]])
    return torch.tensor(subjects), torch.tensor(manners)


def _votes(asked: list[Question], key: Key) -> Tensor:
    draws = key.uniform(k=2**16, l=range(len(asked)))
    return torch.tensor([float(draw < population_prob(*pair)) for draw, pair in zip(draws, asked, strict=True)])


def _key(seed: int, purpose: str) -> Key:
    return Key(hash_seed(seed, purpose), stream=Stream.INIT)
