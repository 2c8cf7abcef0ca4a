"""Data parallelism over processes: each does its share of the heavy work, and all hold every result.

All of them hold the same numbers at the same line, so that nothing but speed depends on how many there are. One that is
started by itself is alone, and everything here costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

Item = TypeVar("Item")

_ENDINGS: list[Callable[[], None]] = []
_BACKGROUND: list[ProcessGroup] = []
_MESSAGE = 2**28
"""Bytes that small tensors fill together before they are summed over processes: they are copied for that."""
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def count() -> int:
    """Returns how many processes share the work."""
    return torch.distributed.get_world_size() if _is_joined() and not _ALONE.get() else 1


def rank() -> int:
    """Returns the index of this process, from 0; process 0 writes files."""
    return torch.distributed.get_rank() if _is_joined() else 0


def _is_joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Makes this process do all the work inside the block, as if there were no other."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def share(total: int) -> range:
    """Returns the indices, among `total`, of this process' share."""
    return range(rank(), total, count()) if count() > 1 else range(total)


def exchange(mine: Sequence[Item], total: int) -> list[Item]:
    """Returns all of `total` things in order, of which this process has those of its `share`."""
    if count() == 1:
        return list(mine)
    parts: list[Any] = [None] * count()
    torch.distributed.all_gather_object(parts, list(mine))
    result: list[Any] = [None] * total
    for i, part in enumerate(parts):
        result[i :: count()] = part
    return result


def add(tensor: Tensor) -> Tensor:
    """Returns the sum over processes, in place."""
    if count() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def add_each(tensors: Sequence[Tensor]) -> None:
    """Replaces each of some tensors of one type by its sum over processes: small ones by messages of several."""
    bucket: list[Tensor] = []
    for tensor in tensors if count() > 1 else ():
        if bucket and sum(one.nbytes for one in bucket) + tensor.nbytes > _MESSAGE:
            _add_together(bucket)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _add_together(bucket)


def _add_together(tensors: Sequence[Tensor]) -> None:
    if len(tensors) == 1 and tensors[0].is_contiguous():
        add(tensors[0])
        return
    sums = add(torch.cat([tensor.flatten() for tensor in tensors])).split([tensor.numel() for tensor in tensors])
    for tensor, one in zip(tensors, sums, strict=True):
        tensor.copy_(one.view_as(tensor))


def largest(tensor: Tensor) -> Tensor:
    """Returns the largest over processes, elementwise, in place."""
    if count() > 1:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor


def agreed(value: Item) -> Item:
    """Returns what the first process has."""
    if count() == 1:
        return value
    values: list[Any] = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def background() -> ProcessGroup:
    """Returns a second group of all processes, on their hosts, for a thread beside the one that learns.

    In one group the messages of two threads would be taken for each other's. Every process must ask for it.
    """
    if not _BACKGROUND:
        group = torch.distributed.new_group(backend="gloo")
        assert isinstance(group, torch.distributed.ProcessGroup)
        _BACKGROUND.append(group)
    return _BACKGROUND[0]


def before_parting(end: Callable[[], None]) -> None:
    """Has something called before the processes part, of a library that talks to the others on its own."""
    _ENDINGS.append(end)


@contextmanager
def together(device: str) -> Iterator[None]:
    """Joins the processes that torchrun, or another launcher with its environment variables, started with this one.

    Args:
        device: "cpu" or "cuda"; each process takes the GPU of its local rank.

    Raises:
        ValueError: if there are fewer GPUs than processes of this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; start fewer "
                f"(torchrun --nproc-per-node), or take --run.device cpu"
            )
        torch.cuda.set_device(local)
    # Its functions hold the group of the time of their import as a default: a library that imports it later would keep
    # the group alive until the interpreter ends, where its threads abort the process.
    import_module("torch.distributed.nn")

    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        while _ENDINGS:
            _ENDINGS.pop()()
        _BACKGROUND.clear()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
