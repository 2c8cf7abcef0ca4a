"""Tasks of free text: the embedded prompts, and those of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.tasks.prompts import Line, TextLimits, by_mark, by_share, read_lines, read_prompt, text_task
from envs.tasks.task import Task
from envs.tasks.tokenizers import FileTokenizer, Tokenizer
from preference_duel.names import nearest

CHAT = Path(__file__).parents[1] / "data" / "chat"


@dataclass(frozen=True, kw_only=True)
class ChatConfig(TextLimits):
    """The embedded text: short questions written by the project's own grammar."""

    max_prompt_tokens: int = 24
    """The longest prompt, in tokens; the longest of the embedded ones has 11."""
    max_new_tokens: int = 28
    """The response's limit, in tokens, its EOS included; the corpus's longest answer has 24."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Reads the embedded prompts."""
        lines = read_lines(CHAT / "prompts.jsonl")
        train, held_out = by_mark(lines)
        return text_task("chat", train, held_out, tokenizer or chat_tokenizer(), self)


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
        table = load_split(self.path, self.subset, split)
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


def chat_tokenizer() -> FileTokenizer:
    """Returns the vocabulary of the embedded text."""
    return FileTokenizer(CHAT / "tokenizer.json", eos="<eos>", pad="<pad>")


def load_split(path: str, subset: str | None, split: str) -> Any:
    """Returns a split of a dataset: of a directory if `path` is one, else of the hub.

    Raises:
        ValueError: if there is no such split or configuration.
        ConnectionError: if the hub cannot be reached or has no such dataset.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    saved = [name for name in ("dataset_dict.json", "state.json") if (Path(path) / name).is_file()]
    if saved:
        tables = datasets.load_from_disk(path)
        if not isinstance(tables, datasets.DatasetDict):
            return tables
        if split not in tables:
            hint = nearest(split, map(str, tables)) or "."
            raise ValueError(f"hf:{path} has no split '{split}'{hint} It has {', '.join(map(str, tables))}.")
        return tables[split]
    try:
        return datasets.load_dataset(path, subset, split=split)
    except OSError as error:
        raise ConnectionError(
            f"could not load hf:{path}: {error}. A local directory needs no network (hf:DIR with JSON, CSV or Parquet "
            f"files), nor do FILE.jsonl and the embedded task 'chat'"
        ) from error
    except (ValueError, DatasetsError) as error:
        cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
        raise ValueError(f"hf:{path}: {str(error).splitlines()[0]}{cause}") from error
