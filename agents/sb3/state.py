"""The state of a torch optimiser with strings for keys, as `Agent.state_dict` wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns what an optimiser keeps for each parameter, by the parameter's number."""
    state = optimiser.state_dict()["state"]
    return {str(i): dict(values) for i, values in state.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continues from `optimiser_state()`."""
    numbered = {int(i): {k: _own(v) for k, v in values.items()} for i, values in state.items()}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": numbered})


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
