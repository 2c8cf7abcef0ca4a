"""Checkpoints: `step-N/` holds the policy for other tools, and the training state that a resumed run needs.

Sharded tensors are written by all processes, in the background, to `step-N/shards/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.policies.sharding import is_shard
from preference_duel.protocols import Policy

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Wait = Callable[[], None]
"""Waits until a checkpoint is on the disk, and raises OSError if it can't be written."""
STEP = re.compile(r"step-(\d+)")
MARK = "$"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates."""

    step: int
    agent: dict[str, Any]
    arena: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint, policy: Policy, keep: int) -> Wait | None:
    """Writes `directory/step-N` so that it is there as a whole or not at all, then drops the oldest ones.

    Everything is written and synced under another name first; one rename makes it count.

    Args:
        directory: the run directory.
        checkpoint: the training state.
        policy: written by its own `save` into `step-N/policy`.
        keep: checkpoints that stay, at least 1.

    Returns:
        Waits for what is still being written, if tensors are sharded: the other processes must call `take_part`, and
        all must wait before the next. None: the checkpoint is there.

    Raises:
        OSError: if it can't be written, a full disk for one; earlier checkpoints are untouched.
        ValueError: if the agent's state holds what can't be written.
    """
    final, partial = directory / f"step-{checkpoint.step}", _partial(directory, checkpoint.step)

    def commit() -> None:
        for path in sorted(partial.rglob("*"), reverse=True):
            _sync(path)
        _sync(partial)
        _remove(final)
        os.rename(partial, final)
        _sync(directory)
        _drop(directory, keep)

    _remove(partial)
    try:
        shards = _write(partial, checkpoint, policy)
        if shards:
            return _started(directory, checkpoint.step, shards, commit, lambda: _remove(partial))
        commit()
    except Exception as error:
        _remove(partial)
        if not (isinstance(error, OSError | SafetensorError) or "os error" in str(error)):  # Rust's plain Exception
            raise
        raise _unsaved(directory, checkpoint.step, error) from error
    return None


def take_part(directory: Path, checkpoint: Checkpoint, policy: Policy) -> Wait | None:
    """Does the share of a process that is not the first in `save`: gathers the policy, and writes its own shards."""
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder))
    tensors: dict[str, Tensor] = {}
    pack(checkpoint.agent, tensors, "agent")
    shards = {name: tensor for name, tensor in tensors.items() if is_shard(tensor)}
    return _started(directory, checkpoint.step, shards, lambda: None, lambda: None) if shards else None


def steps(directory: Path) -> list[int]:
    """Returns the steps of the checkpoints in a run directory, ascending."""
    found = (STEP.fullmatch(path.name) for path in directory.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def load(directory: Path, step: int | None = None, sharded: bool = False) -> Checkpoint | None:
    """Returns the last checkpoint of a run directory, or that of a step, tensors on the CPU; None where there is none.

    Args:
        directory: the run directory.
        step: None: the last.
        sharded: whether tensors that were saved in shards are sharded over the processes, all of which must call it;
            if not they are whole.

    Raises:
        ValueError: if its files are damaged.
    """
    there = [one for one in steps(directory) if step is None or one == step]
    if not there:
        return None
    folder = directory / f"step-{there[-1]}"
    try:
        content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
        if "shards" in content:
            from agents.policies import shard_files

            tensors |= shard_files.read(folder / "shards", content["shards"], sharded)
        return Checkpoint(int(content["step"]), unpack(content["agent"], tensors), content["arena"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        earlier = f"; remove the folder to go on from step-{there[-2]}" if len(there) > 1 else ""
        raise ValueError(f"{folder} is damaged ({error}){earlier}") from error


def clean(directory: Path) -> None:
    """Removes what a run that was killed while saving left behind."""
    for path in directory.glob(".step-*"):
        _remove(path)


def pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Returns a state as JSON, its tensors moved to `tensors` under their path.

    Raises:
        ValueError: naming the place of a value that is no tensor, number, string, None, list, tuple or dict.
    """
    if isinstance(value, Tensor):
        name = path
        while name in tensors:
            name += "'"
        tensors[name] = value.detach() if is_shard(value) else value.detach().cpu().contiguous()
        return {f"{MARK}tensor": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(MARK) for key in value):
            return {key: pack(item, tensors, f"{path}.{key}") for key, item in value.items()}
        items = [[pack(key, tensors, path), pack(item, tensors, f"{path}.{key}")] for key, item in value.items()]
        return {f"{MARK}items": items}
    if isinstance(value, tuple):
        return {f"{MARK}tuple": [pack(item, tensors, f"{path}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [pack(item, tensors, f"{path}.{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"state_dict() holds a {type(value).__name__} at '{path}'; expected tensors, numbers, strings, None, and "
        f"lists, tuples and dicts of them"
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the state that `pack` wrote."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if f"{MARK}tensor" in value:
        return tensors[value[f"{MARK}tensor"]]
    if f"{MARK}items" in value:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value[f"{MARK}items"]}
    if f"{MARK}tuple" in value:
        return tuple(unpack(item, tensors) for item in value[f"{MARK}tuple"])
    return {key: unpack(item, tensors) for key, item in value.items()}


def _write(folder: Path, checkpoint: Checkpoint, policy: Policy) -> dict[str, DTensor]:
    """Writes all but what is sharded, which is returned."""
    (folder / "policy").mkdir(parents=True)
    policy.save(folder / "policy")
    tensors: dict[str, Tensor] = {}
    agent = pack(checkpoint.agent, tensors, "agent")
    shards = {name: tensor for name, tensor in tensors.items() if is_shard(tensor)}
    save_file(_unshared({name: tensors[name] for name in tensors if name not in shards}), folder / "state.safetensors")
    state = {"step": checkpoint.step, "arena": checkpoint.arena, "agent": agent}
    if shards:
        state["shards"] = {name: list(tensor.shape) for name, tensor in shards.items()}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    return shards


def _started(
    directory: Path, step: int, shards: Mapping[str, DTensor], finish: Callable[[], None], failed: Callable[[], None]
) -> Wait:
    """Starts to write shards; `finish` is called by the first process, in the background, when all have written."""
    from agents.policies import shard_files  # torch.distributed.checkpoint takes a second

    writing = shard_files.write(_partial(directory, step) / "shards", shards, finish)

    def wait() -> None:
        try:
            writing.wait()
        except OSError as error:
            failed()
            raise _unsaved(directory, step, error) from error

    return wait


def _drop(directory: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints; one that can't be removed is told, for the new one is there."""
    for step in steps(directory)[:-keep]:
        try:
            _remove(directory / f"step-{step}")
        except OSError as error:
            warnings.warn(f"can't remove {directory}/step-{step}, which is no longer needed: {error}", stacklevel=2)


def _unsaved(directory: Path, step: int, error: Exception) -> OSError:
    """Returns the error that a checkpoint could not be written, with the one that is kept."""
    there = steps(directory)
    kept = f"step-{there[-1]} is kept" if there else "there is no earlier one"
    final = directory / f"step-{step}"
    return OSError(f"can't save {final}: {error}; {kept}. Make room, then go on with --resume {directory}")


def _partial(directory: Path, step: int) -> Path:
    return directory / f".step-{step}.partial"


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors, those that share memory with an earlier one copied: safetensors refuses to write them."""
    taken, own = set(), {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if address in taken else tensor
        taken.add(address)
    return own


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Removes a folder; while that lasts, its name says that it is no checkpoint."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".{folder.name.removeprefix('.')}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)
