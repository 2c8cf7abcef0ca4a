"""Models whose parameters are sharded over processes by torch's `fully_shard` (FSDP2)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from preference_duel import distributed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from agents.policies.lm.scoring import Root


def shard(root: Root, mesh: DeviceMesh | None = None) -> None:
    """Shards the root of a transformers model over all processes, in place; a layer is gathered when it is needed.

    Gradients are summed over processes.

    Args:
        root: on a device, or on "meta", without memory.
        mesh: the processes; None: all of them, on the model's device.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    blocks = set(root.model._no_split_modules or ())
    mesh = mesh or init_device_mesh(root.model.device.type, (distributed.count(),))
    for part in root.modules():
        if type(part).__name__ in blocks:
            fully_shard(part, mesh=mesh)
    fully_shard(root, mesh=mesh)
    assert isinstance(root, FSDPModule)
    for part in _parts(root):
        part.set_force_sum_reduction_for_comms(True)
        part.set_gradient_divide_factor(1.0)


@contextmanager
def gathered(root: Root) -> Iterator[None]:
    """Gathers all parameters inside the block, for passes that processes make in different numbers."""
    parts = _parts(root)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not root, recurse=False)


def twin(root: Root, adapt: Callable[[Any], None], shared: Collection[Tensor]) -> Root:
    """Returns a copy of a sharded root, sharded likewise; each process copies its own shards.

    Args:
        root: sharded.
        adapt: puts adapters into a new model, where this one has them.
        shared: parameters that the copy holds too.
    """
    from agents.policies.lm.scoring import Root

    model, kept = root.model, set(map(id, shared))
    named = model.state_dict(keep_vars=True)

    def copy(tensor: Tensor) -> Tensor:
        new = tensor.detach().clone()
        return torch.nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else new

    copies = {id(tensor): tensor if id(tensor) in kept else copy(tensor) for tensor in named.values()}
    with torch.device("meta"):
        other = type(model)(model.config)
        adapt(other)
    other.tie_weights()
    for name, buffer in model.named_buffers():  # some are not saved, such as the frequencies of rotary positions
        owner, _, last = name.rpartition(".")
        setattr(other.get_submodule(owner), last, buffer.clone())
    copied = Root(other.eval())
    shard(copied, next(parameter.device_mesh for parameter in root.parameters() if is_shard(parameter)))
    other.load_state_dict({name: copies[id(tensor)] for name, tensor in named.items()}, assign=True)
    return copied


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that may be sharded as a whole one; every process must call it."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def saved(tensor: Tensor) -> Tensor:
    """Returns a tensor for a file; a sharded one whole and on the host, so that a device holds one at a time.

    Every process must call it.
    """
    return tensor.full_tensor().cpu() if is_shard(tensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Returns a tensor, whole in all processes or sharded on their hosts, sharded as another one is."""
    if not is_shard(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if is_shard(tensor):
        assert tensor.placements == like.placements
        own = tensor.to_local().to(like.device)
        return DTensor.from_local(own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def is_sharded(root: Root) -> bool:
    """Returns whether `shard` was applied."""
    return _is_module(root)


def is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    """Returns whether a tensor is sharded, and this process has its part."""
    spread = sys.modules.get("torch.distributed.tensor")
    return spread is not None and isinstance(tensor, spread.DTensor)


def _parts(root: Root) -> list[FSDPModule]:
    return [part for part in root.modules() if _is_module(part)]


def _is_module(module: object) -> TypeGuard[FSDPModule]:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not loaded: none exists; loading it takes most of a second
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)
