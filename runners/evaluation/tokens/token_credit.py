"""Credits tau log pi/ref of the tokens of sampled responses, printed and as a page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from agents.policies.tabular import TabularPolicy
from agents.policies.token_policy import TokenPolicy
from envs.games import soft_values
from envs.tasks.tokenizers import Tokenizer
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.types import Completion
from runners.evaluation.comparison import Comparison, policies
from runners.run.record import write_whole

END = "<end>"
"""Stands for a last token without text."""
PART = "…"
"""Stands for a token that begins a character of several bytes, which its last token shows."""
RGB = {"more": (0, 130, 60), "less": (200, 40, 30)}
"""Colours of tokens that became likelier and less likely."""


def sampled_credits(comparison: Comparison) -> list[list[dict[str, Any]]]:
    """Returns for each run the credits of one sample of its policy to each of the first prompts.

    A sample has "prompt", "tokens" as pairs of text and tau log pi/ref of the token, and "credit", their sum.

    Raises:
        ValueError: if a policy has no tokens.
    """
    options, found = comparison.options, []
    prompts = comparison.prompts[: options.tokens]
    for run, tau in zip(comparison.runs, comparison.taus, strict=True):
        policy, start = policies(run)[options.policy], run.experiment.reference
        with torch.no_grad():
            drawn, weight = policy.draw(prompts, 1, Key(comparison.seed))
        chosen = weight.argmax(1).tolist() if policy.exact else [0] * len(prompts)  # an exact one lists them all
        responses = [row[i] for row, i in zip(drawn, chosen, strict=True)]
        found.append(token_credits(policy, start, prompts, responses, tau, comparison.task.tokenizer))
    return found


@torch.no_grad()
def token_credits(
    policy: Policy,
    start: Policy,
    prompts: Sequence[str],
    responses: Sequence[Completion],
    tau: float,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Returns tau log pi/ref of each token of a response to each prompt, see `sampled_credits`.

    Args:
        policy: pi, a table or a language model.
        start: ref, of the same kind.
        prompts: B prompts.
        responses: one to each.
        tau: KL coefficient.
        tokenizer: the task's, in which tables write; a language model has its own.

    Raises:
        ValueError: if the policy has no tokens, or the start could not have sampled one.
    """
    if isinstance(policy, TabularPolicy):
        listed = policy.cells.responses
        ref, probs = start.distribution(prompts, listed), policy.distribution(prompts, listed)
        credit = soft_values([response.ids for response in listed], ref, tau * (probs / ref).log(), tau).diff()
        columns = [policy.cells.column(response.text) for response in responses]
        values, ids = credit[range(len(columns)), columns], [listed[column].ids for column in columns]
    elif isinstance(policy, TokenPolicy) and isinstance(start, TokenPolicy):
        rows = [[response] for response in responses]
        ratio = policy.token_logprob(prompts, rows)[0] - start.token_logprob(prompts, rows)[0]
        values, ids = tau * ratio[:, 0].double().cpu(), [policy.tokens_of(response) for response in responses]
        tokenizer = getattr(policy, "tokenizer", tokenizer)
    else:
        raise ValueError(f"--tokens reads tables and language models; {type(policy).__name__} tells no tokens")
    if not values.isfinite().all():
        raise ValueError(
            "a credit is not finite: the start gives a sampled token probability 0; credits need policies that sample "
            "with top_p=1 and top_k=0"
        )
    found = []
    for prompt, tokens, row in zip(prompts, ids, values.tolist(), strict=True):
        pieces = list(zip(_pieces(tokenizer, tokens), row[: len(tokens)], strict=True))
        found.append({"prompt": prompt, "tokens": pieces, "credit": sum(row[: len(tokens)])})
    return found


def show_credits(content: Mapping[str, Any], console: Console) -> None:
    """Prints each response with the credit after each token, coloured on a terminal."""
    for run, samples in zip(content["runs"], content["tokens"], strict=True):
        console.print(f"{run['label']}: tau log pi/ref of each token, tau {run['tau']:g}\n")
        most = _most(samples)
        for sample in samples:
            line = Text(f"  {sample['credit']:+.3f}  {sample['prompt']!r}:")
            for piece, value, colour in _spans(sample, most):
                line.append(f" {piece.strip() or repr(piece)}", style=f"black on {colour}").append(f" {value:+.3f}")
            console.print(line)
        console.print()


def write_credits(content: Mapping[str, Any], path: Path) -> Path:
    """Writes a page on which each token's background is its credit; returns its path."""
    from jinja2 import Environment  # not for --help

    template = Environment(autoescape=True).from_string(
        (files("runners.evaluation.tokens") / "tokens.html").read_text(encoding="utf-8")
    )
    runs = [
        {**run, "samples": [{**sample, "spans": list(_spans(sample, _most(samples)))} for sample in samples]}
        for run, samples in zip(content["runs"], content["tokens"], strict=True)
    ]
    write_whole(path, template.render(runs=runs))
    return path


def _spans(sample: Mapping[str, Any], most: float) -> Iterator[tuple[str, float, str]]:
    """Yields each token as it is shown, its credit and its colour #rrggbb: white at 0, green above, red below."""
    last = len(sample["tokens"]) - 1
    for i, (piece, value) in enumerate(sample["tokens"]):
        full, share = RGB["more" if value > 0 else "less"], abs(value) / most
        yield (
            piece or (END if i == last else PART),
            value,
            "#" + "".join(f"{round(255 + share * (channel - 255)):02x}" for channel in full),
        )


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Returns what each token adds to the text; nothing of an EOS, or of a part of a character."""
    texts = [tokenizer.decode(tokens[:t]).rstrip("\ufffd") for t in range(len(tokens) + 1)]
    return [after[len(before) :] for before, after in itertools.pairwise(texts)]


def _most(samples: Sequence[Mapping[str, Any]]) -> float:
    return max((abs(value) for sample in samples for _, value in sample["tokens"]), default=0.0) or 1.0
