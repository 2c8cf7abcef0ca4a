"""Sharded tensors on the disk, by torch.distributed.checkpoint: each process writes and reads its own shards.

Files are safetensors, which hold numbers alone, with the places of their tensors in the whole ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import empty as empty_shards

from preference_duel import distributed

if TYPE_CHECKING:
    from concurrent.futures import Future

_FILE = 2**30
"""Bytes of tensors in a file, about: a file is put together in the host's memory."""


class Writing:
    """Shards that a thread writes while the run goes on.

    Args:
        future: is done when all processes have written theirs, and `finish` is over.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def wait(self) -> None:
        """Waits for the end.

        Raises:
            OSError: if a process could not write.
        """
        try:
            self._future.result()
        except CheckpointException as error:
            raise OSError(
                "; ".join(f"process {rank}: {failed[0]}" for rank, failed in error.failures.items())
            ) from error


def write(folder: Path, shards: Mapping[str, DTensor], finish: Callable[[], None]) -> Writing:
    """Starts to write shards, which are copied to the host first; every process must call it.

    Args:
        folder: new, seen by all processes.
        shards: by name; each process has its own.
        finish: called in the thread of the first process, once all have written.
    """
    sizes = [shard.nbytes / distributed.count() for shard in shards.values()]
    files = {name: 1 + int(end // _FILE) for name, end in zip(shards, accumulate(sizes), strict=True)}
    future = async_save(
        dict(shards),
        storage_writer=_Writer(folder, files, finish),
        # The writer is a stager too, which is taken if none is named.
        async_stager=DefaultStager(StagingOptions(False, False, False, False)),
        process_group=distributed.background(),
    )
    assert not isinstance(future, AsyncSaveResponse)
    return Writing(future)


def read(folder: Path, shapes: Mapping[str, Sequence[int]], sharded: bool) -> dict[str, Tensor]:
    """Returns the tensors of a folder, on the host.

    Args:
        folder: where any number of processes wrote.
        shapes: of the whole tensors by name.
        sharded: whether they are sharded over the processes, as many as there are now, all of which must call it; if
            not they are whole.

    Raises:
        ValueError: if something is missing.
        OSError: if something can't be read.
    """
    reader = HuggingFaceStorageReader(str(folder))
    there: dict[str, Any] = {**reader.read_metadata().state_dict_metadata}
    for name, shape in shapes.items():
        parts = [math.prod(part.sizes) for part in there[name].chunks] if name in there else []
        if sum(parts) != math.prod(shape):
            raise ValueError(f"{folder} holds {sum(parts)} of the {math.prod(shape)} numbers of {name}")
    mesh = init_device_mesh("cpu", (distributed.count(),)) if sharded else None
    state: dict[str, Any] = {
        name: torch.empty(*shape, dtype=there[name].properties.dtype)
        if mesh is None
        else empty_shards(*shape, dtype=there[name].properties.dtype, device_mesh=mesh, placements=[Shard(0)])
        for name, shape in shapes.items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*single process")  # which is meant
        try:
            load(state, storage_reader=reader, no_dist=mesh is None)
        except CheckpointException as error:
            raise OSError(f"{folder} can't be read: {error}") from error
    return state


class _Writer(HuggingFaceStorageWriter):
    def __init__(self, folder: Path, files: dict[str, int], finish: Callable[[], None]) -> None:
        super().__init__(str(folder), files, save_distributed=True)
        self._finish = finish

    def finish(self, metadata: Any, results: Any) -> None:
        super().finish(metadata, results)
        self._finish()
