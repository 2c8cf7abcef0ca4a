"""Copies of a model's weights for passes without gradients, none larger than those passes need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LARGE = 10**9
"""Parameters from which copies that share no memory rest on the host."""
Copies = dict[int, nn.Parameter]
"""Parameters of a copy of a model by the id of the one that each stands for: the memory of `copy.deepcopy`."""


def rounded(model: nn.Module) -> set[int]:
    """Returns the ids of parameters of linear layers alone.

    bfloat16 autocast rounds them whenever they are read, so that a bfloat16 copy gives the same bits. Tied to an
    embedding they are not among them: its output is not rounded.
    """
    linear: set[int] = set()
    others: set[int] = set()
    for part in model.modules():
        (linear if type(part) is nn.Linear else others).update(map(id, part.parameters(recurse=False)))
    return linear - others


def snapshot(model: nn.Module, earlier: nn.Module | None, autocast: bool) -> Copies:
    """Returns the weights as passes read them, rounded under autocast; those that an earlier copy holds are shared."""
    short = rounded(model) if autocast else set()
    known = [None] * len(list(model.parameters())) if earlier is None else list(earlier.parameters())
    copies: Copies = {}
    for parameter, before in zip(model.parameters(), known, strict=True):
        dtype = torch.bfloat16 if id(parameter) in short else parameter.dtype
        found = parameter.detach().to(dtype, copy=True)
        if before is not None and before.device == found.device and _equal(before, found):
            found = before.detach()
        copies[id(parameter)] = nn.Parameter(found, requires_grad=False)
    return copies


def on_the_host(model: nn.Module) -> Copies:
    """Returns the weights in the host's memory."""
    return {id(p): nn.Parameter(p.detach().cpu(), requires_grad=False) for p in model.parameters()}


def differ(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Returns whether a frozen module would change if it loaded this state."""
    own = module.named_parameters()
    return any(not _equal(p, state[name].to(p.device, p.dtype)) for name, p in own if name in state)


def separate(model: nn.Module, rests: bool) -> None:
    """Has the weights of a frozen model in memory of their own, in the host's if it rests."""
    copies = on_the_host(model) if rests else {id(p): nn.Parameter(p.detach().clone()) for p in model.parameters()}
    for parameter in model.parameters():
        torch.utils.swap_tensors(parameter, copies[id(parameter)].requires_grad_(False))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@contextmanager
def visiting(model: Any, device: torch.device, autocast: bool) -> Iterator[None]:
    """Has the weights of a model that rests on the host on a device inside the block, rounded under autocast."""
    short = rounded(model) if autocast else set()
    parameters = list(model.parameters())
    guests = [_visitor(p, device, torch.bfloat16 if id(p) in short else p.dtype) for p in parameters]
    for parameter, guest in zip(parameters, guests, strict=True):
        torch.utils.swap_tensors(parameter, guest)
    try:
        yield
    finally:
        for parameter, guest in zip(parameters, guests, strict=True):
            torch.utils.swap_tensors(parameter, guest)


def _visitor(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(dtype).to(device), requires_grad=False)
