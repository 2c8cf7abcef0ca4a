"""The embedded models: training, figures on held-out prompts, and cards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from envs.tasks.grammar import prompts
from oracles.pairrm.oracle import PairRMConfig, save
from runners.pretrain.pairrm import build_encoder, train_pairrm
from runners.pretrain.policy import (
    MAX_NEW_TOKENS,
    build_tokenizer,
    longest,
    measure_policy,
    save_policy,
    train_policy,
)
from runners.pretrain.questions import measure_judge
from runners.pretrain.settings import PretrainConfig

POLICY_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
---
# tiny: the policy that every default run starts from

A Llama of {parameters:,} parameters that answers short questions about everyday life ("How do I cook rice?") in the
grammar of `envs/tasks/grammar.py`.
It was trained by maximum likelihood on answers in every style of which half are about
something else than the question: so there is something to learn from preferences. It knows nothing beyond that grammar.

Made by `{command}` (seed {seed}), from random weights and a corpus that the grammar writes; no other data.
{steps} steps of {batch} new pairs of prompt and answer, AdamW with peak learning rate {learning_rate}.
Stored in float16; the figures below are of the stored weights.

| on the {held_out} held-out prompts | |
|---|---|
| perplexity of the corpus' answers, per token | {perplexity:.3f} |
| sampled answers that parse under the grammar | {parse_share:.1%} |
| sampled answers that are about what was asked | {on_topic_share:.1%} |
| tokens of a sampled answer, with `<eos>` | {mean_tokens:.1f} |

Sampled: {samples} answers at temperature 1, at most {max_new_tokens} tokens.
Text: `<user>PROMPT<assistant>ANSWER<eos>`. Tokens: a byte-level BPE of {vocabulary}, with `<pad>` 0, `<eos>` 1,
`<user>` 2, `<assistant>` 3. A prompt has at most {prompt_tokens} tokens with `<user>` and `<assistant>`, an answer of
the grammar at most {answer_tokens} with `<eos>`.
"""

PAIRRM_CARD = """\
---
license: apache-2.0
language: en
---
# pairrm-tiny: the judge of every default run

A PairRM of {parameters:,} parameters: a DeBERTa-v3 cross-encoder in the layout of llm-blender/PairRM (Jiang et al.
2023, arXiv:2306.02561), read by the same code. It judges answers in the grammar of `envs/tasks/grammar.py` alone.

Made by `{command}` (seed {seed}), from random weights; no other data.
First its backbone learned to say what prompt and responses are about and how they are written, on {readings:,} pairs; a
large one brings as much along from its own pretraining. Then it was trained with -log sigmoid(+-M) on {votes:,} single
votes about different pairs, each by one of the three kinds of annotators of `runners/pretrain/population.py`:
one prefers warm
to concise to specific answers, one concise to specific to warm, one specific to warm to concise. Each is consistent;
the majority is cyclic (0.636 round the cycle). All want an answer to be about what was asked.
Stored in float16; the figures below are of the stored weights.

| on the held-out prompts, P = sigmoid((M(a, b) - M(b, a)) / 2) | |
|---|---|
| agreement with new votes on pairs from the corpus | {vote_accuracy:.1%} |
| the best that any judge can reach there | {best_accuracy:.1%} |
| mean absolute error of P against the population's | {mean_error:.3f} |
| triads of on-topic answers, one per style, that cycle as the population's | {cyclic_share:.1%} |
| pairs in which an off-topic answer has P < 1/2 against an on-topic one | {off_topic_loses:.1%} |
| pairs in which a damaged answer has P < 1/2 against a whole one | {broken_loses:.1%} |

Limits: {source_limit} ids for the prompt's part, {candidate_limit} for a response's beside a full prompt; its
tokenizer has {vocabulary} pieces.
"""


def make_policy(config: PretrainConfig, command: str) -> dict[str, float]:
    """Trains and writes the policy with tokenizer, prompts and card; returns the card's figures."""
    training, tokenizer = config.policy, build_tokenizer(config.policy.vocabulary, config.seed)
    print(f"tiny: {training.steps} steps of {training.batch} answers", flush=True)
    model = train_policy(training, tokenizer, config.seed)
    folder = save_policy(model, tokenizer, config.out)
    figures = measure_policy(model.float(), tokenizer, training.samples, config.seed)
    prompt_tokens, answer_tokens = longest(tokenizer)
    card = POLICY_CARD.format(
        command=command,
        seed=config.seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        held_out=len(prompts("held_out")),
        max_new_tokens=MAX_NEW_TOKENS,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        **(asdict(training) | {"vocabulary": len(tokenizer)} | figures),
    )
    _write_card(folder, card)
    return figures


def make_pairrm(config: PretrainConfig, command: str) -> dict[str, float]:
    """Trains and writes the judge with its card; returns the card's figures."""
    training, encoder = config.pairrm, build_encoder(config.seed)
    print(f"pairrm-tiny: {training.steps} steps of {training.batch} votes", flush=True)
    network = train_pairrm(training, encoder, config.seed)
    folder = config.out / "oracles" / "checkpoints" / "pairrm-tiny"
    save(folder, network.half(), encoder)
    oracle = PairRMConfig(checkpoint=str(folder)).build()
    figures = measure_judge(oracle, training.samples, config.seed)
    card = PAIRRM_CARD.format(
        command=command,
        seed=config.seed,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        readings=training.reading_steps * training.batch,
        votes=training.steps * training.batch,
        source_limit=encoder.source_limit,
        candidate_limit=encoder.candidate_limit,
        vocabulary=encoder.vocab_size,
        **figures,
    )
    _write_card(folder, card)
    return figures


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card[card.index("\n# ") + 1 :], flush=True)
