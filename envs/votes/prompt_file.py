"""Tasks whose prompts a file or a dataset gives: of prompts alone, or of preferences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envs.tasks.prompts import SPLITS, Line, TextLimits, by_mark, by_share, marked_lines, read_prompt, text_task
from envs.tasks.task import Task
from envs.tasks.text import chat_tokenizer
from envs.tasks.tokenizers import Tokenizer
from envs.votes.containers import Broken, BrokenDatasetError, load_split, read_batches
from envs.votes.formats import FORMATS, detect, given_fields
from envs.votes.options import ReadOptions
from envs.votes.preferences import load_prompts
from envs.votes.rows import Reading
from preference_duel.names import nearest


@dataclass(frozen=True, kw_only=True)
class PromptFileConfig(TextLimits):
    """A file of prompts."""

    path: str
    """Records with a prompt, text or a list of messages, in JSON lines, CSV or Parquet, gzipped or not; with a field
    split, "train" or "held_out", in each or none. Or preferences, whose prompts are taken (docs/data.md)."""
    held_out: str | None = None
    """The file of the evaluation prompts; none: the lines marked "held_out", or a share of the file."""
    held_out_share: float = 0.1
    """Share of the distinct prompts kept for evaluation, in [0, 1), if nothing else marks them; 0: train and evaluate
    on all."""
    split_seed: int = 0
    """Random seed of the held-out share: the same prompts whatever their order."""
    format: str | None = None
    """The file's format, if it holds preferences; None: told by its fields."""
    fields: str | None = None
    """What a file of another layout calls the prompt, and the system text: "prompt=history,system=rules"."""
    strict: bool = False
    """Stop at a row of preferences that can't be used; otherwise it is skipped, counted and named."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Reads the file.

        Raises:
            ValueError: with the file and the line that is wrong.
            OSError: if the file cannot be read.
        """
        options = ReadOptions(format=self.format, fields=self.fields, strict=self.strict)
        lines, reading = prompt_lines(self.path, options)
        if self.held_out is not None:
            if lines[0].split is not None:
                raise ValueError(f"{self.path} marks its held-out prompts itself; leave held_out out, or the marks")
            train, held_out = lines, prompt_lines(self.held_out, options)[0]
        elif lines[0].split is not None:
            train, held_out = by_mark(lines)
        else:
            train, held_out = by_share(lines, self.held_out_share, self.split_seed)
        task = text_task(self.path, train, held_out, tokenizer or chat_tokenizer(), self)
        return task if reading is None else replace(task, reading=str(reading))


@dataclass(frozen=True, kw_only=True)
class HubConfig(TextLimits):
    """Prompts of a dataset: a hub id, or a local directory, which needs no network."""

    path: str
    """Hub id, or a directory of JSON, CSV or Parquet files, or one that `Dataset.save_to_disk` wrote."""
    column: str = "prompt"
    """The column that holds the prompts: text, or lists of messages that end with the user's."""
    split: str = "train"
    """The split to train on; "train[:1000]" takes its first thousand (of save_to_disk, whole splits only)."""
    held_out: str | None = None
    """The split to evaluate on; none: a share of `split`."""
    subset: str | None = None
    """The dataset's configuration, if it has several."""
    held_out_share: float = 0.1
    """Share of the distinct prompts kept for evaluation if `held_out` is none, in [0, 1); 0: evaluate on all."""
    split_seed: int = 0
    """Random seed of the held-out share: the same prompts whatever their order."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Loads the dataset.

        Raises:
            ValueError: if a split, the column or a row is not what it should be.
            ConnectionError: if the hub cannot be reached; names the ways that need no network.
        """
        lines = self._lines(self.split)
        if self.held_out is None:
            train, held_out = by_share(lines, self.held_out_share, self.split_seed)
        else:
            train, held_out = lines, self._lines(self.held_out)
        return text_task(f"hf:{self.path}", train, held_out, tokenizer or chat_tokenizer(), self)

    def _lines(self, split: str) -> list[Line]:
        try:
            table = load_split(self.path, self.subset, split)
        except BrokenDatasetError:
            if self.subset is not None or "[" in split or not Path(self.path).is_dir():
                raise
            # the files one by one: read, if they only differ in their columns, or named with their line
            return [self._line(place, record) for place, record in _records(self.path, split)]
        where = f"hf:{self.path}[{split}]"
        if self.column not in table.column_names:
            hint = nearest(self.column, table.column_names) or "."
            raise ValueError(f"{where} has no column '{self.column}'{hint} It has {', '.join(table.column_names)}.")
        lines = []
        for i, value in enumerate(table[self.column]):
            row = f"{where} row {i}"
            lines.append(Line(row, read_prompt(row, value)))
        if not lines:
            raise ValueError(f"{where} has no rows")
        return lines

    def _line(self, place: str, record: Any) -> Line:
        if not isinstance(record, Mapping) or self.column not in record:
            fields = ", ".join(record) if isinstance(record, Mapping) else "no fields"
            raise ValueError(f"{place}: has no column '{self.column}'. It has {fields}.")
        return Line(place, read_prompt(place, record[self.column]))


def prompt_lines(path: str, options: ReadOptions) -> tuple[list[Line], Reading | None]:
    """Reads the prompts of a file.

    Returns:
        The lines, and a report of the rows if the file holds preferences; of a file of prompts every row is used.

    Raises:
        ValueError: with the place that is wrong.
        OSError: if the file cannot be read.
    """
    if not _holds_prompts(path, options):
        prompts, reading = load_prompts(path, options)
        marked = {split for _, _, split in prompts if isinstance(split, str)} == set(SPLITS)
        return [Line(place, prompt, str(split) if marked else None) for place, prompt, split in prompts], reading
    return marked_lines(path, _records(path)), None


def _holds_prompts(path: str, options: ReadOptions) -> bool:
    """Returns whether a file holds prompts alone, or something that the reader of such a file shall refuse."""
    if options.fields is not None or options.format not in (None, "prompts"):
        return False
    for batch in read_batches(path):
        given = given_fields(batch.records)
        try:
            return not given or detect(given, pairs=False).name == "prompts"
        except ValueError:
            return not any(set(one.needs) & set(given) for one in FORMATS.values())
    return True


def _records(path: str, split: str | None = None) -> Iterator[tuple[str, Any]]:
    for batch in read_batches(path, split):
        for i, record in enumerate(batch.records):
            if isinstance(record, Broken):
                raise ValueError(f"{batch.place(i)}: {record.message}")
            yield batch.place(i), record
