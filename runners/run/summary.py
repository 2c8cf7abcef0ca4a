"""The summary printed at the end of a run: gains, example responses, files."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from oracles import payoff
from preference_duel.protocols import Policy, attended
from runners.run.build import Experiment
from runners.run.checkpoint import steps
from runners.run.config import RunConfig
from runners.run.evaluator import Evaluation, distribution
from runners.run.progress import evaluation_line
from runners.run.ranks import NullRecord
from runners.run.record import Record

EXAMPLES = 3
STYLE_PROMPTS = 32
"""Held-out prompts of the game among styles, three questions each."""


def summary(experiment: Experiment, record: Record | NullRecord, run: RunConfig) -> str:
    """Returns the summary for people, as lines of text."""
    evaluation, directory = experiment.evaluation, record.directory
    lines = [""]
    evaluations = [line for line in record.metrics() if "eval/win_rate_vs_ref" in line]
    if evaluations:
        how = "exact" if evaluation.finite else f"{run.eval_pairs} pairs each"
        prompts = f"{len(evaluation.prompts)} {'held-out ' if evaluation.task.has_held_out else ''}prompts"
        lines.append(f"Against the starting policy, on {prompts}, {how}, 95 % interval:")
        lines += [
            f"  {when} step {line['step']:>{len(str(run.steps))}}: {evaluation_line(line)}"
            for when, line in (("before,", evaluations[0]), ("after, ", evaluations[-1]))
        ]
        lines += [*_adversary(evaluation, experiment.agent.policy, directory), ""]
        lines += styles_of(evaluation, experiment.agent.policy)
    if experiment.arena.unread_share:
        share = experiment.arena.unread_share
        lines += [f"Unread:   {share:.1%} of the pairs asked about, from which nothing was learned", ""]
    lines += _examples(evaluation, experiment.agent.policy)
    last = directory / f"step-{steps(directory)[-1]}"
    lines += [
        f"Files:    {directory}  (metrics.jsonl, duels.jsonl, config.json)",
        f"Policy:   {last / 'policy'}",
        f"Curves:   tensorboard --logdir {directory}",
        f"Picture:  python -m runners.plot {directory}",
        f"Judge it: python -m runners.evaluate {directory}",
    ]
    return "\n".join(lines)


def _adversary(evaluation: Evaluation, policy: Policy, directory: Path) -> list[str]:
    """Returns what a pool of the start's responses gains against the policy, with the largest gain."""
    found = evaluation.measured  # by the last evaluation, unless the run was finished before
    if found is None and not evaluation.finite:
        found = evaluation.pool_bound(evaluation.draw(policy))
    if found is None:
        return []
    bound, example = found.bound, found.example
    better, beaten = _short(example.better), _short(example.response)
    return [
        f"Exploitability: at least {bound.value:.3f} [{bound.low:.3f}, {bound.high:.3f}], by the best of "
        f"{evaluation.pool} responses of the start on {found.prompts} of the prompts:",
        f"  {better!r} beats {beaten!r} ({example.win_rate:.2f}), asked {_short(example.prompt)!r}",
        f"  More adversaries: python -m runners.exploit {directory}",
    ]


def styles_of(evaluation: Evaluation, policy: Policy) -> list[str]:
    """Returns the share of each style before and after, and the game among the pure styles; [] if the task has none."""
    styles = evaluation.task.styles
    if styles is None or attended(evaluation.oracle) is not None:  # people are asked no more at the end of a run
        return []
    drawn = evaluation.drawn or evaluation.draw(policy)
    before, after = (Counter(styles.of(y.text) for row in rows for y in row) for rows in (evaluation.references, drawn))
    prompts = evaluation.prompts[:STYLE_PROMPTS]
    examples = [styles.examples(prompt, evaluation.key.at(3 + b)) for b, prompt in enumerate(prompts)]
    answers = payoff(evaluation.oracle, prompts, examples, partial=True)  # [b, 3, 3], NaN if unread
    game = answers.double().nanmean(0).tolist()
    others = sorted((before.keys() | after.keys()) - set(styles.names))
    lines = ["Styles:      before  after     P(row beats column), one answer on topic in each style"]
    lines[0] += f" to {len(prompts)} prompts"
    lines.append(" " * 30 + "".join(f"{name:>10}" for name in styles.names))
    for i, name in enumerate([*styles.names, *others]):
        chances = "".join(f"{_chance(prob):>10}" for prob in game[i]) if i < len(game) else ""
        lines.append(
            f"  {name:<11} {before[name] / before.total():5.2f}  {after[name] / after.total():5.2f}    {chances}"
        )
    return [*(line.rstrip() for line in lines), ""]


def _chance(prob: float) -> str:
    return "unread" if math.isnan(prob) else f"{prob:.2f}"


def _short(text: str) -> str:
    return textwrap.shorten(text, 80, placeholder=" ...")


def _examples(evaluation: Evaluation, policy: Policy) -> list[str]:
    """Returns some held-out prompts with what is answered before and after, from the same random numbers."""
    every = max(1, len(evaluation.prompts) // EXAMPLES)
    prompts = evaluation.prompts[::every][:EXAMPLES]
    lines = []
    answers = _favourites if evaluation.finite else _draws
    before, after = (answers(evaluation, who, prompts) for who in (evaluation.reference, policy))
    for prompt, old, new in zip(prompts, before, after, strict=True):
        lines += [_paragraph("prompt", prompt), _paragraph("before", old), _paragraph("after", new), ""]
    return lines


def _draws(evaluation: Evaluation, policy: Policy, prompts: Sequence[str]) -> list[str]:
    with torch.no_grad():
        return [row[0].text for row in policy.draw(prompts, 1, evaluation.key)[0]]


def _favourites(evaluation: Evaluation, policy: Policy, prompts: Sequence[str]) -> list[str]:
    texts, rows = evaluation.task.response_texts, []
    for probs in distribution(policy, evaluation.task, prompts):
        best = probs.topk(min(EXAMPLES, len(texts)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        rows.append("  ".join(f"{texts[i]} ({prob:.3f})" for prob, i in pairs))
    return rows


def _paragraph(label: str, text: str) -> str:
    short = textwrap.shorten(text, 400, placeholder=" ...") if len(text) > 400 else text
    return textwrap.fill(short, 100, initial_indent=f"  {label}:".ljust(11), subsequent_indent=" " * 11)
