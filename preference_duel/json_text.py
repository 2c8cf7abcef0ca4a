"""JSON of files, whole or by line, with the place of every fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def parse_json(raw: bytes, path: str | Path, line: int = 1) -> Any:
    """Returns the JSON value of some bytes, UTF-8 with or without a byte order mark.

    Args:
        raw: the bytes.
        path: of their file, for the messages.
        line: number of their first line in the file.

    Raises:
        ValueError: "FILE:LINE: ..." if they are not UTF-8 or no JSON.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        place = f"{path}:{line + raw.count(10, 0, error.start)}"
        raise ValueError(f"{place}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"{path}:{line - 1 + error.lineno}"
        raise ValueError(f"{place}: broken JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(f"{path}:{line}: broken JSON: nested too deeply") from error


def read_json_lines(path: str | Path, unfinished: bool = False) -> Iterator[tuple[int, Any]]:
    """Yields the number and the value of each line of a file that is not blank.

    Args:
        path: the file.
        unfinished: leave out what follows the last newline, which a writer that was killed may have cut off.

    Raises:
        ValueError: as `parse_json`.
        OSError: if the file cannot be read.
    """
    lines = Path(path).read_bytes().split(b"\n")
    for number, raw in enumerate(lines[:-1] if unfinished else lines, start=1):
        if raw.removeprefix(b"\xef\xbb\xbf").strip():
            yield number, parse_json(raw, path, number)


def short(value: object, most: int = 80) -> str:
    """Returns a value for a message, at most so many characters of it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
