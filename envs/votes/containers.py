"""Records of data files: lines of JSON, a JSON array, CSV, Parquet, gzipped or not, and local dataset directories."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from preference_duel.json_text import parse_json
from preference_duel.names import nearest

BATCH = 20_000
"""Records that are parsed at once."""
SEPARATORS = ",\t;"
OTHER = {
    b"PK\x03\x04": "a zip archive or a workbook",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "a SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"version https://git-lfs": "a pointer of Git LFS, whose data was not downloaded",
}
"""First bytes of what can't be read."""


class BrokenDatasetError(ValueError):
    """A dataset whose files `datasets` can't make one table of."""


@dataclass(frozen=True)
class Broken:
    """Takes the place of a record that can't be parsed; the message says why."""

    message: str


@dataclass(frozen=True)
class Batch:
    """Records that follow each other in a file.

    Attributes:
        source: the file and what stands between its name and a record's number.
        numbers: of each record, its line (from 1, the first of several) or its row (from 0).
        records: JSON values, or `Broken`.
    """

    source: str
    numbers: Sequence[int]
    records: Sequence[Any]

    def place(self, i: int) -> str:
        """Returns "FILE:LINE" or "FILE row N"."""
        return f"{self.source}{self.numbers[i]}"


def read_batches(path: str, split: str | None = None) -> Iterator[Batch]:
    """Yields the records of a file, of a local dataset directory, or of a dataset of the hub.

    Args:
        path: the file, whose container its first bytes tell; a directory of such files or one that
            `Dataset.save_to_disk` wrote ("hf:DIR" says the same); or "hf:ID".
        split: of a directory or a dataset; None: its only one, or "train".

    Raises:
        ValueError: if the whole cannot be read, with the file and the line or row where that shows; a record that
            alone is broken comes as `Broken`.
        OSError: if a file cannot be opened, or the hub cannot be reached.
    """
    name = path.removeprefix("hf:")
    if Path(name).is_dir():
        yield from _directory(name, split)
    elif path.startswith("hf:"):
        yield from _table(name, load_split(name, None, split or "train"))
    elif split is not None:
        raise ValueError(f"{path} is one file, which has no split '{split}'; leave data.split out")
    else:
        yield from _file(path)


def _file(path: str) -> Iterator[Batch]:
    with open(path, "rb") as file:
        if file.peek(2)[:2] != b"\x1f\x8b":
            yield from _plain(path, file)
            return
        try:
            with gzip.open(file) as unpacked:
                yield from _plain(path, io.BufferedReader(unpacked))  # pyright: ignore[reportArgumentType] - is raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: is a gzip file that is cut or damaged: {error}") from error


def _plain(path: str, file: io.BufferedReader) -> Iterator[Batch]:
    start = file.peek(64)[:64]
    for first_bytes, kind in OTHER.items():
        if start.startswith(first_bytes):
            raise ValueError(f"{path}: is {kind}; make it JSON lines, a JSON array, CSV or Parquet, gzipped or not")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PAR1"):
        yield from _parquet(path, file)
    elif text.startswith(b"["):
        yield from _array(path, file)
    elif text.startswith(b"{") or not text:
        yield from _lines(path, file)
    else:
        yield from _csv(path, file)


def _batched(source: str, records: Iterable[tuple[int, Any]]) -> Iterator[Batch]:
    rest = iter(records)
    while part := list(islice(rest, BATCH)):
        numbers, values = zip(*part, strict=True)
        yield Batch(source, numbers, values)


def _lines(path: str, file: BinaryIO) -> Iterator[Batch]:
    lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip(b"\xef\xbb\xbf \t\r\n"))
    while part := list(islice(lines, BATCH)):
        numbers, raw = zip(*part, strict=True)
        try:
            values = json.loads(b"[" + b",".join(raw).removeprefix(b"\xef\xbb\xbf") + b"]")
        except (ValueError, RecursionError):
            values = []
        if len(values) != len(raw):
            values = [_json(line, path, number) for number, line in part]
            if numbers[0] == 1 and isinstance(values[0], Broken) and _spans_lines(raw, lines):
                raise ValueError(
                    f"{path}: is one JSON object over several lines; make it a JSON array of records, or write one "
                    f"record a line"
                )
        yield Batch(f"{path}:", numbers, values)


def _json(raw: bytes, path: str, number: int) -> Any:
    try:
        return parse_json(raw, path, number)
    except ValueError as error:
        return Broken(str(error).removeprefix(f"{path}:{number}: "))


def _spans_lines(read: Sequence[bytes], rest: Iterable[tuple[int, bytes]]) -> bool:
    try:
        json.loads(b"".join([*read, *(line for _, line in rest)]))
    except (ValueError, RecursionError):
        return False
    return True


def _array(path: str, file: BinaryIO) -> Iterator[Batch]:
    raw = file.read()
    try:
        values = parse_json(raw, path)
    except ValueError:
        first, _, rest = raw.partition(b"\n")
        if rest.strip() and not isinstance(_json(first, path, 1), Broken):  # lines of lists are no array
            yield from _lines(path, io.BytesIO(raw))
            return
        raise
    yield from _batched(f"{path} row ", enumerate(values))


def _csv(path: str, file: BinaryIO) -> Iterator[Batch]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield from _batched(f"{path}:", _csv_records(path, file))
    finally:
        csv.field_size_limit(limit)


def _csv_records(path: str, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    lines = _decoded(path, file)
    header, first = next((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    separator = max(SEPARATORS, key=first.count)
    try:
        (names,) = csv.reader([first], delimiter=separator, strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}:{header}: is neither JSON nor Parquet, and no header of CSV: {error}") from error
    if len(set(names)) != len(names):
        raise ValueError(f"{path}:{header}: the header names a column twice: {', '.join(names)}")
    width = len(names)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number = header + rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, Broken(f"broken CSV: {error}")
            continue
        if len(cells) == width:
            yield number, dict(zip(names, cells, strict=True))
        elif cells:
            yield number, Broken(f"must have {width} cells as the header has, got {len(cells)}")


def _decoded(path: str, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8"
            ) from error


def _parquet(path: str, file: BinaryIO) -> Iterator[Batch]:
    import pyarrow
    from pyarrow import parquet

    start = 0
    try:
        for part in parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read())).iter_batches(BATCH):
            columns = [column.to_pylist() for column in part.columns]
            records = [dict(zip(part.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]
            yield Batch(f"{path} row ", range(start, start + len(records)), records)
            start += len(records)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: broken Parquet after row {start}: {str(error).splitlines()[0]}") from error


def _directory(folder: str, split: str | None) -> Iterator[Batch]:
    """Yields a split; the files of a directory are found by `datasets` and read here, which can tell the line."""
    if any((Path(folder) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        yield from _table(folder, _saved(folder, split))
        return
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        builder = datasets.load_dataset_builder(folder)
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(f"{folder}: no dataset is found in it: {str(error).splitlines()[0]}") from error
    files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
    chosen = choose_split(folder, list(files), split)
    default = type(builder.config)()
    settled = all(
        getattr(builder.config, name) == value
        for name, value in vars(default).items()
        if name not in ("name", "version", "data_dir", "data_files", "description")
    )
    kinds = {kind.__name__ for kind in type(builder).__mro__}
    if not settled or not kinds & {"Json", "Csv", "Parquet"}:
        yield from _table(folder, load_split(folder, None, chosen))
        return
    for path in files[chosen]:
        yield from _file(path)


def choose_split(folder: str, names: Sequence[str], split: str | None) -> str:
    """Returns the split that is meant: the one that is named, the only one, or "train".

    Raises:
        ValueError: naming the splits.
    """
    wanted = split or (names[0] if len(names) == 1 else "train")
    if wanted not in names:
        advice = "" if split else "; name one with data.split"
        raise ValueError(f"{folder}: has no split '{wanted}'{advice}. It has {', '.join(names)}.")
    return wanted


def _saved(folder: str, split: str | None) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        tables = datasets.load_from_disk(folder)
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(f"{folder}: is damaged: {str(error).splitlines()[0]}") from error
    if isinstance(tables, datasets.DatasetDict):
        return tables[choose_split(folder, list(map(str, tables)), split)]
    if split is not None:
        raise ValueError(f"{folder}: is one table, which has no split '{split}'; leave data.split out")
    return tables


def _table(name: str, table: Any) -> Iterator[Batch]:
    yield from _batched(f"{name} row ", enumerate(table))


def _cache_of(folder: str) -> str:
    """A cache for these very files; that of `datasets` gives edited files, and namesakes elsewhere, old rows."""
    from datasets.config import HF_DATASETS_CACHE

    files = sorted(file for file in Path(folder).resolve().rglob("*") if file.is_file())
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return str(Path(HF_DATASETS_CACHE) / sha256(repr(state).encode()).hexdigest()[:16])


def load_split(path: str, subset: str | None, split: str) -> Any:
    """Returns a split of a dataset: of a directory if `path` is one, else of the hub.

    Raises:
        BrokenDatasetError: if its files are damaged or differ in their columns.
        ValueError: if there is no such split or configuration.
        ConnectionError: if the hub cannot be reached or has no such dataset.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetsError

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
        cache = _cache_of(path) if Path(path).is_dir() else None
        return datasets.load_dataset(path, subset, split=split, cache_dir=cache)
    except OSError as error:
        raise ConnectionError(
            f"could not load hf:{path}: {error}. A local directory needs no network (hf:DIR with JSON, CSV or Parquet "
            f"files), nor do FILE.jsonl and the embedded task 'chat'"
        ) from error
    except DatasetGenerationError as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise BrokenDatasetError(f"hf:{path}: {text[:300]}") from error
    except (ValueError, DatasetsError) as error:
        cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
        raise ValueError(f"hf:{path}: {str(error).splitlines()[0]}{cause}") from error
