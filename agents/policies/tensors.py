"""A policy's tensors as a flat dict, for `Agent.state_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.policies.sharding import spread_like, whole

if TYPE_CHECKING:
    from torch import Tensor, nn


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the module's saved tensors by name; tied ones stand under their first name only."""
    named = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: whole(tensor.detach()) for name, tensor in named.items() if first[id(tensor)] == name}


def restore(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copies `tensors()` back in place.

    Raises:
        ValueError: naming the tensors that are missing, unknown or of another shape.
    """
    own = tensors(module)
    wrong = sorted(own.keys() ^ saved.keys()) or sorted(n for n, t in own.items() if t.shape != saved[n].shape)
    if wrong:
        raise ValueError(
            f"the saved state is of another policy: {len(wrong)} tensors are missing, unknown or of another shape "
            f"({', '.join(wrong[:3])}); build the same policy as the run that saved it"
        )
    there = module.state_dict()
    module.load_state_dict({name: spread_like(t, there[name]) for name, t in saved.items()}, strict=False)
