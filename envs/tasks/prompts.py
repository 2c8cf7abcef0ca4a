"""Prompts: read from lines of JSON, split into training and held-out ones, fitted into a limit of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.tasks.task import Task
from envs.tasks.tokenizers import Tokenizer, response_tokens
from preference_duel.json_text import read_json_lines, short
from preference_duel.keyed_random import hash_seed
from preference_duel.names import nearest
from preference_duel.types import Conversation

SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Line:
    """One prompt, its place "FILE:LINE" for messages, and its split if the line has one."""

    where: str
    prompt: str
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextLimits:
    """Limits of prompts and responses, in tokens: fields that the tasks of free text share.

    Raises:
        ValueError: if no response could satisfy them.
    """

    max_prompt_tokens: int = 64
    """The longest prompt, in tokens; raise it to what your policy was trained on."""
    max_new_tokens: int = 32
    """The response's limit, in tokens, its EOS included; raise it to what your policy was trained on."""
    min_new_tokens: int = 1
    """Tokens before EOS becomes legal, from 0 to max_new_tokens."""
    cut_long: bool = False
    """Drop the beginning (of a conversation, the oldest turns) of prompts that are too long, instead of stopping."""

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"max_prompt_tokens and max_new_tokens must be at least 1, "
                f"got {self.max_prompt_tokens} and {self.max_new_tokens}"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(f"min_new_tokens must lie in [0, {self.max_new_tokens}], got {self.min_new_tokens}")


def read_lines(path: str | Path) -> list[Line]:
    """Reads FILE.jsonl: {"prompt": text or messages, "split": "train" or "held_out"} on each line.

    Blank lines and other fields are passed over; "split" is on every line or on none.

    Raises:
        ValueError: with the file and the line that is wrong.
        OSError: if the file cannot be read.
    """
    return marked_lines(str(path), ((f"{path}:{number}", record) for number, record in read_json_lines(path)))


def marked_lines(path: str, records: Iterable[tuple[str, object]]) -> list[Line]:
    """Returns the lines that the records (place, {"prompt": ..., "split": ...}) of a file are.

    Raises:
        ValueError: with the place that is wrong.
    """
    lines = [_read_line(where, record) for where, record in records]
    if not lines:
        raise ValueError(f'{path}: has no prompts; write {{"prompt": "..."}} on each line')
    for line in lines:
        if (line.split is None) != (lines[0].split is None):
            raise ValueError(f"{line.where}: 'split' must be on every line or on none, and {lines[0].where} differs")
    return lines


def _read_line(where: str, record: object) -> Line:
    if not isinstance(record, dict):
        raise ValueError(f'{where}: must be {{"prompt": "..."}}, got {short(record)}')
    if "prompt" not in record:
        raise ValueError(f"{where}: has no field 'prompt'{nearest('prompt', record) or '.'} It has {sorted(record)}")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"{where}: split must be 'train' or 'held_out', got {short(split)}")
    return Line(where, read_prompt(where, record["prompt"]), split)


def read_prompt(where: str, value: object) -> str:
    """Returns a prompt: the text itself, or the conversation that a list of messages is.

    Args:
        where: its place, for messages.
        value: text, or messages {"role": ..., "content": ...} of which the last is the user's.

    Raises:
        ValueError: if it is neither, is blank, or is no Unicode text.
    """
    if isinstance(value, str):
        return _text(where, "prompt", value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: prompt must be text or a list of messages, got {short(value)}")
    turns = []
    for i, turn in enumerate(value):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not role or not isinstance(content, str):
            raise ValueError(f"{where}: message {i} must be {{'role': text, 'content': text}}, got {short(turn)}")
        turns.append({"role": role, "content": content if not content.strip() else _text(where, "message", content)})
    if turns[-1]["role"] != "user":
        raise ValueError(
            f"{where}: the last message must be the user's, got role {turns[-1]['role']!r}; the response comes after it"
        )
    _text(where, "the last message", turns[-1]["content"])
    return Conversation(turns)


def _text(where: str, what: str, text: str) -> str:
    if not text.strip():
        raise ValueError(f"{where}: {what} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {what} has half a surrogate pair, which is no text: {short(text)}") from error
    return text


def by_mark(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """Returns the lines marked "train" and those marked "held_out".

    Raises:
        ValueError: if one of the two is empty.
    """
    train, held_out = ([line for line in lines if line.split == split] for split in SPLITS)
    if not train or not held_out:
        raise ValueError(f"{lines[0].where}...: no line is marked {'held_out' if train else 'train'!r}; mark some")
    return train, held_out


def by_share(lines: Sequence[Line], share: float, seed: int) -> tuple[list[Line], list[Line]]:
    """Returns training and held-out lines: which texts are held out depends on text and seed, not on order.

    At least one text is held out, and at least one is not. If the share is 0 or there is one text, both are all.

    Args:
        lines: of both splits; equal prompts stay together.
        share: of the distinct prompts, in [0, 1).
        seed: random seed of the choice.

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out_share must lie in [0, 1), got {share:g}")
    texts = sorted({str(line.prompt) for line in lines}, key=lambda text: hash_seed("held_out", seed, text))
    if share == 0 or len(texts) == 1:
        return list(lines), list(lines)
    chosen = set(texts[: min(max(round(share * len(texts)), 1), len(texts) - 1)])
    train, held_out = ([line for line in lines if (line.prompt in chosen) is side] for side in (False, True))
    return train, held_out


def text_task(
    name: str, train: Sequence[Line], held_out: Sequence[Line], tokenizer: Tokenizer, limits: TextLimits
) -> Task:
    """Returns a task of free text.

    Raises:
        ValueError: if prompts are too long and may not be cut, or have no tokens in this vocabulary.
    """
    lengths = {line.prompt: _length(line, tokenizer) for line in (*train, *held_out)}
    long = [prompt for prompt, length in lengths.items() if length > limits.max_prompt_tokens]
    if long and not limits.cut_long:
        longest = max(long, key=lengths.__getitem__)
        where = next(line.where for line in (*train, *held_out) if line.prompt == longest)
        raise ValueError(
            f"{len(long)} of {len(lengths)} prompts are longer than max_prompt_tokens={limits.max_prompt_tokens}; the "
            f"longest has {lengths[longest]} ({where}). Raise max_prompt_tokens, or set cut_long to drop their "
            f"beginnings"
        )
    short = {prompt: cut(prompt, tokenizer, limits.max_prompt_tokens) for prompt in long}
    prompts, evaluation = (tuple(short.get(line.prompt, line.prompt) for line in lines) for lines in (train, held_out))
    return Task(
        name=name,
        prompts=prompts,
        held_out=evaluation,
        tokenizer=tokenizer,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_new_tokens=limits.max_new_tokens,
        min_new_tokens=limits.min_new_tokens,
        response_tokens=response_tokens(tokenizer),
        cut=len(long),
        places={short.get(line.prompt, line.prompt): line.where for line in (*held_out, *train)},
    )


def cut(prompt: str, tokenizer: Tokenizer, limit: int) -> str:
    """Returns the end of a prompt that fits: of a conversation the oldest turns go first, its system message last.

    Raises:
        ValueError: if nothing readable fits.
    """
    if not isinstance(prompt, Conversation):
        return _longest_end(prompt, str, tokenizer, limit)
    system = prompt.messages[:1] if prompt.messages[0]["role"] == "system" else ()
    turns = list(prompt.messages[len(system) :])
    while len(turns) > 1 and (
        turns[0]["role"] != "user" or len(tokenizer.encode(Conversation((*system, *turns)))) > limit
    ):
        turns = turns[1:]

    def write(text: str) -> str:
        return Conversation((*system, *turns[:-1], {**turns[-1], "content": text}))

    return _longest_end(turns[-1]["content"], write, tokenizer, limit)


def _longest_end(text: str, write: Callable[[str], str], tokenizer: Tokenizer, limit: int) -> str:
    """Returns `write` of the longest end of `text` whose tokens fit, by doubling and then halving its length."""

    def fits(size: int) -> bool:
        return len(tokenizer.encode(write(text[-size:]))) <= limit

    low, high = 0, 1
    while high <= len(text) and fits(high):
        low, high = high, 2 * high
    high = min(high, len(text) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if not low or not text[-low:].strip():
        raise ValueError(f"max_prompt_tokens={limit} leaves nothing of the prompt {short(text)}; raise it")
    return write(text[-low:])


def _length(line: Line, tokenizer: Tokenizer) -> int:
    try:
        length = len(tokenizer.encode(line.prompt))
    except ValueError as error:
        raise ValueError(f"{line.where}: {error}") from error
    if not length:
        raise ValueError(f"{line.where}: no token of this vocabulary stands for the prompt {short(line.prompt)}")
    return length
