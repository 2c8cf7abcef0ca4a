"""The run directory: what was run, every scalar, some duels to read, and checkpoints."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

from preference_duel import distributed
from preference_duel.json_text import read_json_lines
from preference_duel.protocols import Policy
from preference_duel.types import Duel
from runners.run import checkpoint
from runners.run.checkpoint import Checkpoint
from runners.run.config import Settings
from runners.run.config_file import read_config
from runners.run.event_file import PATTERN, EventFile
from runners.run.outside import changes, fingerprints

PACKAGES = "preference-duel", "torch", "transformers", "tokenizers", "safetensors", "numpy", "tensorboard"


def default_directory(settings: Settings) -> Path:
    """Returns runs/TASK-AGENT-ORACLE-seedN-TIME, with a number behind it where that is taken."""
    parts = [re.sub(r"\W+", "_", Path(settings.names[part]).stem) for part in ("task", "agent", "oracle")]
    name = "-".join([*parts, f"seed{settings.run.seed}", datetime.now().strftime("%Y%m%d-%H%M%S")])
    candidates = (Path("runs") / (name + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for path in candidates if not path.exists())


def require_new(directory: Path) -> None:
    """Raises if there is anything where a run is to be written.

    Raises:
        FileExistsError: saying how to go on.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"{directory} exists and is never overwritten: choose another --run.dir, or go on with --resume {directory}"
        )


def title(directory: Path) -> str:
    """Returns which run is in a directory: its parts, seed and start, wherever it was moved."""
    config = read_config(directory)
    parts = " ".join(str(name) for name in config["names"].values())
    return f"the run {parts}, seed {config['run']['seed']}, started {config['started']}"


def changed_files(directory: Path, settings: Settings) -> list[str]:
    """Returns a line for each file outside of a run directory that has changed since the run began.

    Runs that were made before fingerprints were kept have none to compare.

    Args:
        directory: the run directory.
        settings: what `read_settings` returned.
    """
    return changes(settings, read_config(directory).get("files", {}))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a .jsonl file; a last line that was cut off by a kill is left out.

    Raises:
        ValueError: with the number of a broken line that is not the last.
    """
    return [line for _, line in read_json_lines(path, unfinished=True)] if path.exists() else []


class Record:
    """Writes one run directory; what was logged is in its files when a call returns.

    Attributes:
        directory: where it writes.
        saved: the step of the last checkpoint; None where there is none.

    Args:
        directory: made if it is not there; empty for a new run.
        settings: what is run.
        arguments: the command line.
        device: where networks run.
        threads: CPU threads of torch.
    """

    def __init__(
        self, directory: Path, settings: Settings, arguments: Sequence[str], device: str, threads: int
    ) -> None:
        self.directory, self.keep = directory, settings.run.keep
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = lock(directory)
        checkpoint.clean(directory)
        self.saved = max(checkpoint.steps(directory), default=None)
        self._wait: checkpoint.Wait | None = None
        config = {**settings.to_json(), **_circumstances(arguments, device, threads)}
        if not (directory / "config.json").exists():
            config["files"] = fingerprints(settings)
        else:
            before = read_config(directory)
            resumed = [*before.get("resumed", []), _circumstances(arguments, device, threads)]
            config = before | {"run": config["run"], "resumed": resumed}
        write_whole(directory / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        self._cut_back(-1 if self.saved is None else self.saved)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by tag to metrics.jsonl and to TensorBoard.

        Raises:
            ValueError: if a value is not finite: what follows could not be trusted.
        """
        for tag, value in scalars.items():
            if not math.isfinite(value):
                raise ValueError(f"{tag} is {value} at step {step}; the run stops, its last checkpoint is kept")
        line = {"step": step, "wall_time": time.time(), **{tag: float(value) for tag, value in scalars.items()}}
        _append(self._metrics, [line])
        self._chart(line)

    def duels(self, step: int, duel: Duel, prompts: int) -> None:
        """Writes one asked pair of each of the first prompts to duels.jsonl, the file that people read."""
        _append(self._duels, list(_asked_pairs(step, duel, prompts)))

    def distributions(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a policy's distributions, which small finite tasks alone have, to distributions.jsonl."""
        lines = [{"step": step, **row} for row in rows]
        if lines:
            with FileIO(self.directory / "distributions.jsonl", "a") as file:
                _append(file, lines)
                os.fsync(file.fileno())

    def save(self, state: Checkpoint, policy: Policy) -> None:
        """Writes a checkpoint, the shards of one in the background; see `checkpoint.save`."""
        self.settle()
        for file in (self._metrics, self._duels):
            os.fsync(file.fileno())
        self._wait = checkpoint.save(self.directory, state, policy, self.keep)
        self.saved = state.step

    def settle(self) -> None:
        """Waits until the last checkpoint is on the disk.

        Raises:
            OSError: if it can't be written.
        """
        if self._wait is not None:
            wait, self._wait = self._wait, None
            started, self.saved = self.saved, max(checkpoint.steps(self.directory), default=None)
            wait()
            self.saved = started

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        return read_lines(self.directory / "metrics.jsonl")

    def close(self) -> None:
        """Closes the files, when the last checkpoint is on the disk."""
        try:
            self.settle()
        finally:
            self._close()

    def _close(self) -> None:
        self._events.close()
        self._metrics.close()
        self._duels.close()
        os.close(self._lock)

    def _cut_back(self, step: int) -> None:
        """Keeps what was logged up to a step; TensorBoard's files are written anew, at the original times."""
        for name in ("metrics.jsonl", "duels.jsonl", "distributions.jsonl"):
            path = self.directory / name
            if name == "distributions.jsonl" and not path.exists():
                continue
            kept = [line for line in read_lines(path) if line["step"] <= step]
            write_whole(path, "".join(_line(line) for line in kept))
        for path in self.directory.glob(PATTERN):
            path.unlink()
        self._metrics = FileIO(self.directory / "metrics.jsonl", "a")
        self._duels = FileIO(self.directory / "duels.jsonl", "a")
        self._events = EventFile(self.directory)
        for line in self.metrics():
            self._chart(line)

    def _chart(self, line: Mapping[str, Any]) -> None:
        scalars = {tag: value for tag, value in line.items() if tag not in ("step", "wall_time")}
        self._events.scalars(line["step"], line["wall_time"], scalars)


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is there as a whole or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _append(file: FileIO, lines: Iterable[Mapping[str, Any]]) -> None:
    data = memoryview("".join(map(_line, lines)).encode())
    while data:
        try:
            data = data[file.write(data) :]
        except OSError as error:
            raise OSError(f"can't write {file.name}: {error}; the last checkpoint is kept") from error


def _asked_pairs(step: int, duel: Duel, prompts: int) -> Iterable[dict[str, Any]]:
    for b, prompt in enumerate(duel.prompts[:prompts]):
        if duel.feedback == "thumb":
            yield {"step": step, "prompt": prompt, "response": duel.left[b][0].text, "label": float(duel.prob[b, 0, 0])}
            continue
        pairs = [(k, l, duel.left[b][k].text, duel.right[b][l].text) for k, l in duel.asked[b].nonzero().tolist()]
        telling = [pair for pair in pairs if pair[2] != pair[3]] or pairs
        for k, l, left, right in telling[:1]:
            yield {"step": step, "prompt": prompt, "left": left, "right": right, "prob": float(duel.prob[b, k, l])}


def _circumstances(arguments: Sequence[str], device: str, threads: int) -> dict[str, Any]:
    """Returns what else a run's numbers may depend on."""
    return {
        "command": ["python", "-m", "runners.duel", *arguments],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device,
        "processes": distributed.count(),
        "threads": threads,
        "git_commit": git_commit(),
        "versions": versions(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Returns the commit of the checkout that these modules come from, "+" behind it where it was changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or no commit yet
        return None
    return commit + ("+" if changes else "")


def lock(directory: Path) -> int:
    """Returns a descriptor of the directory that no other process holds; the system frees it when this one ends.

    Raises:
        OSError: if another run writes there.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"{directory} is being written by another run; wait for its end, or stop it") from error
    return descriptor
