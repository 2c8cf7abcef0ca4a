"""A policy's tensors as a flat dict, for `Agent.state_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.policies.sharding import spread_like

if TYPE_CHECKING:
    from torch import Tensor, nn


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the module's saved tensors by name, sharded ones as such; tied ones stand under their first name only."""
    return {name: tensor.detach() for name, tensor in distinct(module).items()}


def restore(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies `tensors()` back in place.

    Raises:
        ValueError: naming the tensors that are missing, unknown or of another shape.
    """
    own = distinct(module)
    wrong = sorted(own.keys() ^ state.keys()) or sorted(n for n, t in own.items() if t.shape != state[n].shape)
    if wrong:
        raise ValueError(
            f"the saved state is of another policy: {len(wrong)} tensors are missing, unknown or of another shape "
            f"({', '.join(wrong[:3])}); build the same policy as the run that saved it"
        )
    module.load_state_dict({name: spread_like(tensor, own[name]) for name, tensor in state.items()}, strict=False)


def distinct(module: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of `state_dict()` themselves by name; tied ones stand under their first name only."""
    named = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}
