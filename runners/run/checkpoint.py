"""Checkpoints: `step-N/` holds the policy for other tools, and the training state that a resumed run needs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preference_duel.protocols import Policy

STEP = re.compile(r"step-(\d+)")
MARK = "$"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates."""

    step: int
    agent: dict[str, Any]
    arena: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint, policy: Policy, keep: int) -> Path:
    """Writes `directory/step-N` so that it is there as a whole or not at all, then drops the oldest ones.

    Everything is written and synced under another name first; one rename makes it count.

    Args:
        directory: the run directory.
        checkpoint: the training state.
        policy: written by its own `save` into `step-N/policy`.
        keep: checkpoints that stay, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: if it can't be written, a full disk for one; earlier checkpoints are untouched.
        ValueError: if the agent's state holds what can't be written.
    """
    final, partial = directory / f"step-{checkpoint.step}", directory / f".step-{checkpoint.step}.partial"
    _remove(partial)
    try:
        _write(partial, checkpoint, policy)
    except Exception as error:
        _remove(partial)
        if not (isinstance(error, OSError | SafetensorError) or "os error" in str(error)):  # Rust's plain Exception
            raise
        there = steps(directory)
        kept = f"step-{there[-1]} is kept" if there else "there is no earlier one"
        raise OSError(
            f"can't save {final}: {error}; {kept}. Make room, then go on with --resume {directory}"
        ) from error
    _remove(final)
    os.rename(partial, final)
    _sync(directory)
    for step in steps(directory)[:-keep]:
        _remove(directory / f"step-{step}")
    return final


def steps(directory: Path) -> list[int]:
    """Returns the steps of the checkpoints in a run directory, ascending."""
    found = (STEP.fullmatch(path.name) for path in directory.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def load(directory: Path, step: int | None = None) -> Checkpoint | None:
    """Returns the last checkpoint of a run directory, or that of a step, tensors on the CPU; None where there is none.

    Raises:
        ValueError: if its files are damaged.
    """
    there = [one for one in steps(directory) if step is None or one == step]
    if not there:
        return None
    folder = directory / f"step-{there[-1]}"
    try:
        content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state = unpack(content["agent"], load_file(folder / "state.safetensors"))
        return Checkpoint(int(content["step"]), state, content["arena"])
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
        tensors[name] = value.detach().cpu().contiguous()
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


def _write(folder: Path, checkpoint: Checkpoint, policy: Policy) -> None:
    (folder / "policy").mkdir(parents=True)
    policy.save(folder / "policy")
    tensors: dict[str, Tensor] = {}
    agent = pack(checkpoint.agent, tensors, "agent")
    save_file(_unshared(tensors), folder / "state.safetensors")
    state = {"step": checkpoint.step, "arena": checkpoint.arena, "agent": agent}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


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
