"""Pairs labelled by an oracle: preference lines, and the oracle's agreement with given verdicts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from envs.votes.options import ReadOptions
from envs.votes.statistics.judge_agreement import JudgeAgreement, judge_agreement
from envs.votes.table import Matrix
from oracles.base import require_answers
from preference_duel.chat import UnreadablePromptError
from preference_duel.json_text import read_json_lines
from preference_duel.protocols import BothOrdersOracle, DescribedOracle, Oracle
from preference_duel.types import Unanswered, messages_of
from runners.evaluation.asked_pairs import Question, Verdicts, drawn_questions, read_questions, read_verdicts
from runners.evaluation.entrants import read_entrants
from runners.evaluation.judges import judge_config, read_judge
from runners.run.build import choose_device
from runners.run.evaluator import choose
from runners.run.record import write_whole

CLOSE = 0.01
"""Half of the width that the agreement's interval would have after so many more verdicts."""


@dataclass(frozen=True)
class Options:
    """The command line of `runners.label`.

    Attributes:
        oracle: NAME[,FIELD=VALUE...].
        out: the file of preferences; the answers are kept beside it until it is written, in OUT.answers.
        policies: run directories, transformers directories or hub ids, or names of policies, whose responses are drawn.
        responses: file of prompts with responses; None: without.
        against: file of verdicts; None: without.
        json: file of the numbers of the agreement; None: without.
        reading: how the file of verdicts is read.
        task: name of the task; None: that of the runs.
        split: whose prompts the policies answer, train or held_out.
        prompts: at most.
        draws: responses of each policy for each prompt.
        batch_size: pairs that are asked at once; a kill loses no more than these.
        margin: the oracle's P within it of 1/2 is a tie.
        seed: random seed of the responses.
        device: where networks run.
    """

    oracle: str
    out: Path
    policies: tuple[str, ...] = ()
    responses: str | None = None
    against: str | None = None
    json: Path | None = None
    reading: ReadOptions = field(default_factory=ReadOptions)
    task: str | None = None
    split: str = "train"
    prompts: int = 100
    draws: int = 2
    batch_size: int = 32
    margin: float = 0.0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("prompts", "draws", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"--margin must lie in [0, 1/2), got {self.margin:g}")
        given = [bool(self.policies), self.responses is not None, self.against is not None]
        if sum(given) != 1:
            raise ValueError("name what to ask about in one way: policies, --responses FILE or --against FILE")
        if len(self.policies) == 1 and self.draws < 2:
            raise ValueError("one policy is compared with itself: --draws must be at least 2")
        if self.json is not None and self.against is None:
            raise ValueError("--json writes the agreement with verdicts: pass --against FILE")
        if self.oracle.split(",")[0].split("+")[0] == "human":
            raise ValueError("people are asked by python -m runners.collect, which keeps their pages open")
        self._require_places()

    def _require_places(self) -> None:
        if self.out.exists():
            raise FileExistsError(f"{self.out} exists and is never overwritten: choose another --out")
        for flag, path in (("--out", self.out), ("--json", self.json)):
            if path is not None and not path.parent.is_dir():
                raise FileNotFoundError(f"{flag} {path}: there is no directory {path.parent}; make it first")


def label(options: Options) -> int:
    """Asks the oracle about all pairs, writes its labels, and prints its agreement with verdicts; returns 0."""
    verdicts = None if options.against is None else read_verdicts(options.against, options.reading)
    oracle, questions, equal = _questions(options, verdicts)
    distinct = list({question.key: question for question in questions}.values())
    if not distinct:
        raise ValueError("both responses of every pair are the same, so that there is nothing to ask")
    print(f"judge:  {oracle.description if isinstance(oracle, DescribedOracle) else options.oracle}")
    with Answers(options.out, options.oracle, distinct) as answers:
        known = len(answers.prob)
        print(f"pairs:  {len(questions):,}, {len(distinct):,} of them different; {known:,} answered before", flush=True)
        if equal:
            print(f"equal:  {equal:,} more pairs of equal texts, which are not asked about")
        answers.ask(oracle, distinct, options.batch_size)
        counts: Mapping[str, int] = getattr(oracle, "verdicts", {})
        if counts:
            print("answers: " + ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items()))
        unread = answers.unread()
        if unread:
            share = len(unread) / len(distinct)
            print(f"unread: {len(unread):,} ({share:.1%}) of the pairs; they are in no label and in no figure")
        if len(unread) == len(distinct):
            raise Unanswered("none of the judge's answers could be read: change its question, format or token budget")
        if verdicts is not None:
            found = _agreement(verdicts, answers.prob, unread, options.margin)
            orderless = oracle.antisymmetric and not isinstance(oracle, BothOrdersOracle)
            print(*sentences(found, orderless), verdicts.reading, sep="\n")
            if options.json is not None:
                numbers = {"oracle": options.oracle, "against": options.against, **found.as_dict()}
                numbers["unread"] = len(unread)
                write_whole(options.json, json.dumps(numbers, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
                print(f"numbers: {options.json}")
        read = [question for question in questions if question.key not in unread]
        rows = [_row(question, answers.prob[question.key], options.oracle) for question in read]
        write_whole(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        answers.path.unlink()
    print(f"labels: {options.out}, {len(rows):,} lines")
    return 0


def _questions(options: Options, verdicts: Verdicts | None) -> tuple[Oracle, list[Question], int]:
    """Returns the oracle, the questions, and how many pairs have equal texts."""
    device = choose_device(options.device)
    if options.policies:
        judge_config(options.oracle)  # an unknown field is cheaper to learn before the policies are loaded
        entrants = read_entrants(options.policies, options.task, device, least=1)
        task = entrants[0].task
        oracle = read_judge(options.oracle, task, device).oracle
        prompts = choose(task.prompts if options.split == "train" else task.held_out, options.prompts)
        return oracle, *drawn_questions(entrants, prompts, options.draws, options.seed)
    _, config = judge_config(options.oracle)
    questions, equal = (
        (list(verdicts.questions), 0) if verdicts is not None else read_questions(options.responses or "")
    )
    prompts = list(dict.fromkeys(question.prompt for question in questions))
    named = verdicts is not None and verdicts.named
    texts = sorted({text for question in questions for text in question.texts}) if named else None
    try:
        return config.build(prompts=prompts, responses=texts, device=device), questions, equal
    except UnreadablePromptError as error:
        place = next(question.place for question in questions if question.prompt == error.prompt)
        raise error.at(place) from error


class Answers:
    """The answers that an oracle gave, in a file that survives a kill; one process writes it.

    Args:
        out: the file that is made of them; they are kept in OUT.answers.
        oracle: its name with fields.
        questions: all of them.

    Attributes:
        path: the file of answers.
        prob: by question, P(first beats second) with the first shown first, and P(second beats first) with the second
            shown first; NaN if unread, null in the file.

    Raises:
        ValueError: if the file holds the answers to other questions, or of another oracle.
        OSError: if another process writes it.
    """

    def __init__(self, out: Path, oracle: str, questions: Sequence[Question]) -> None:
        self.path = out.with_name(f"{out.name}.answers")
        self.prob: dict[str, tuple[float, float]] = {}
        digest = hashlib.sha256("".join(question.key for question in questions).encode()).hexdigest()[:12]
        about = {"oracle": oracle, "questions": digest}
        self._file = FileIO(self.path, "a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(about)
        except BlockingIOError as error:
            self._file.close()
            raise OSError(f"{self.path} is being written by another process; wait for its end, or stop it") from error
        except ValueError:
            self._file.close()
            raise

    def _read(self, about: Mapping[str, str]) -> None:
        lines = [line for _, line in read_json_lines(self.path, unfinished=True)]
        if lines and lines[0] != about:
            raise ValueError(
                f"{self.path} holds answers of another command ({lines[0].get('oracle')}): pass the same oracle, "
                f"policies, files and seed to go on, or delete it to begin anew"
            )
        for line in lines[1:]:
            forward, backward = (math.nan if line[way] is None else line[way] for way in ("forward", "backward"))
            self.prob[line["question"]] = forward, backward
        size = self.path.read_bytes().rfind(b"\n") + 1
        os.truncate(self.path, size)
        if not lines:
            self._append([about])

    def ask(self, oracle: Oracle, questions: Sequence[Question], batch_size: int) -> None:
        """Asks about the questions that have no answer yet, in both orders unless the order can't matter."""
        open_ones = [question for question in questions if question.key not in self.prob]
        for start in range(0, len(open_ones), batch_size):
            part = open_ones[start : start + batch_size]
            forward, backward = (order.tolist() for order in _both_orders(oracle, part))
            new = {question.key: (p, q) for question, p, q in zip(part, forward, backward, strict=True)}
            self._append(
                [{"question": key, "forward": _or_null(p), "backward": _or_null(q)} for key, (p, q) in new.items()]
            )
            self.prob |= new

    def unread(self) -> set[str]:
        """Returns the questions that were left unread in either order."""
        return {key for key, (forward, backward) in self.prob.items() if math.isnan(forward) or math.isnan(backward)}

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        data = memoryview("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        while data:
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _both_orders(oracle: Oracle, questions: Sequence[Question]) -> tuple[Matrix, Matrix]:
    """Returns [N] P(first wins) with the first shown first, and [N] P(second wins) with the second shown first."""
    prompts = [question.prompt for question in questions]
    first, second = ([question.texts[i] for question in questions] for i in range(2))
    if isinstance(oracle, BothOrdersOracle):
        both = oracle.both_orders(prompts, first, second)
    else:
        forward = oracle.prob(prompts, first, second)
        both = forward, 1 - forward if oracle.antisymmetric else oracle.prob(prompts, second, first)
    for prob in both:
        require_answers(oracle, prob, (len(questions),), partial=True)
    return both[0].double().numpy(), both[1].double().numpy()


def _row(question: Question, prob: tuple[float, float], oracle: str) -> dict[str, Any]:
    """Returns a preference line: P, averaged over both orders, as the first one's share; a coin chooses the first."""
    messages = messages_of(question.prompt)
    several = len(messages) > 1 or messages[0]["role"] != "user"
    row: dict[str, Any] = {"prompt": messages if several else str(question.prompt)}
    share = (prob[0] + 1 - prob[1]) / 2
    texts, items = question.texts, question.items
    if int(question.key, 16) % 2:
        share, texts, items = 1 - share, texts[::-1], items and items[::-1]
    row |= {"first": texts[0], "second": texts[1], "outcome": share}
    if items is not None and items[0] != items[1]:
        row |= {"first_item": items[0], "second_item": items[1]}
    return row | {"annotator": oracle}


def _or_null(prob: float) -> float | None:
    return None if math.isnan(prob) else prob


def _agreement(
    verdicts: Verdicts, prob: Mapping[str, tuple[float, float]], unread: set[str], margin: float
) -> JudgeAgreement:
    """Returns the agreement on the questions that were read."""
    read = np.array([question.key not in unread for question in verdicts.questions])
    forward, backward = np.array([prob[question.key] for question in verdicts.questions])[read].T
    place, counted = np.cumsum(read) - 1, read[verdicts.question]
    return judge_agreement(forward, backward, place[verdicts.question[counted]], verdicts.outcome[counted], margin)


def sentences(found: JudgeAgreement, orderless: bool) -> list[str]:
    """Returns the agreement in words and a table of the reliability."""
    ties = 1 - found.decided / found.verdicts
    lines = [
        f"The judge agrees with {found.accuracy:.1%} [{found.low:.1%}, {found.high:.1%}] of {found.decided:,} decided "
        f"verdicts on {found.questions:,} pairs; {ties:.1%} of the verdicts and {found.judge_ties:.1%} of the judge's "
        f"answers are ties.",
        f"Krippendorff's alpha of judge and verdicts: {_number(found.alpha)} (loss, tie, win; 0 is chance).",
    ]
    more = found.decided * (((found.high - found.low) / 2 / CLOSE) ** 2 - 1)
    if more > 0:
        lines.append(
            f"About {100 * math.ceil(more / 100):,} more decided verdicts of this kind would tell the agreement within "
            f"{100 * CLOSE:.0f} point."
        )
    if not math.isnan(found.among):
        lines.append(
            f"Among the verdicts themselves: two decided ones on a pair agree in {found.among:.1%}, alpha "
            f"{_number(found.among_alpha)}."
        )
    lines.append(f"Brier score {found.brier:.3f} (always 1/2: 0.250). Reliability of the judge's confidence:")
    lines.append("  confidence   verdicts   mean   agrees")
    lines += [
        f"  {part.low:.1f} to {part.high:.1f}   {part.verdicts:8,}   {part.confidence:.3f}  {part.agrees:.3f}"
        for part in found.bins
        if part.verdicts
    ]
    if orderless:
        return [*lines, "Order: no effect, by construction of the judge."]
    return [
        *lines,
        f"Order: the response shown first wins {found.first_wins:.1%} [{found.first_low:.1%}, {found.first_high:.1%}]; "
        f"in {found.flips:.1%} of the pairs the order decides which one the judge prefers.",
    ]


def _number(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.2f}"
