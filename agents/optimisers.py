"""How an agent's loss moves its policy's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from agents.lbfgs import minimise, squares_curvature

OptimiserName = Literal["rmsprop", "adamw", "sgd", "lbfgs"]

_UNUSED: dict[str, tuple[str, ...]] = {
    "sgd": ("smoothing",),
    "lbfgs": ("learning_rate", "momentum", "smoothing", "weight_decay", "warmup", "max_grad_norm", "epochs"),
}


class OptimiserSettings(Protocol):
    """The fields of an agent's configuration that this module reads."""

    @property
    def optimiser(self) -> OptimiserName:
        """Which method."""
        ...

    @property
    def learning_rate(self) -> float | None:
        """Step size of the method; None: the policy's own."""
        ...

    @property
    def momentum(self) -> float:
        """Decay of the mean gradient: `momentum` of rmsprop and sgd, beta1 of adamw."""
        ...

    @property
    def smoothing(self) -> float:
        """Decay of the mean squared gradient: alpha of rmsprop, beta2 of adamw."""
        ...

    @property
    def weight_decay(self) -> float:
        """Decoupled for adamw, added to the gradient for rmsprop and sgd."""
        ...

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises linearly from 0."""
        ...

    @property
    def max_grad_norm(self) -> float | None:
        """Gradients of a larger norm are scaled down to it; None: never."""
        ...


def require_settings(config: Any) -> None:
    """Raises where a configuration's optimiser settings are out of range or would be ignored.

    Args:
        config: a frozen dataclass with the fields of `OptimiserSettings`.

    Raises:
        ValueError: naming the field.
    """
    if config.optimiser not in get_args(OptimiserName):
        raise ValueError(f"optimiser must be one of {get_args(OptimiserName)}, got {config.optimiser!r}")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _UNUSED.get(config.optimiser, ()) and value != field.default:
            raise ValueError(f"optimiser='{config.optimiser}' makes no use of {field.name}, got {value}; leave it out")
    for name in ("momentum", "smoothing"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}")
    if config.learning_rate is not None and not config.learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, or None for the policy's own, got {config.learning_rate}")
    if config.weight_decay < 0 or config.warmup < 0:
        raise ValueError(f"weight_decay and warmup must be at least 0, got {config.weight_decay} and {config.warmup}")
    if config.max_grad_norm is not None and not config.max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be positive, or None for no limit, got {config.max_grad_norm}")


class Optimiser:
    """Takes steps down a loss; "lbfgs" moves to its minimum instead.

    Args:
        parameters: what is moved; those that require no gradient are left out.
        settings: which method, and its settings.
        learning_rate: where the settings name none.

    Raises:
        ValueError: if nothing is left to move.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimiserSettings, learning_rate: float) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._parameters:
            raise ValueError("the policy has no parameter that requires a gradient; was a frozen copy passed?")
        self._settings = settings
        self._rate = learning_rate if settings.learning_rate is None else settings.learning_rate
        self._method = _method(self._parameters, settings, self._rate)
        self._steps = 0

    def step(
        self, loss: Callable[[], Tensor], terms: Callable[[], Iterable[Tensor]] | None = None
    ) -> tuple[float, float]:
        """Moves the parameters once.

        Args:
            loss: computes the scalar loss, adds its gradients to the parameters' and returns it without a graph.
            terms: of a sum of squares, parts of the vector that is squared (constants left out), with their graphs;
                "lbfgs" learns the curvature from them.

        Returns:
            The loss before the step, and the gradient's norm: before the step and before clipping, or, of "lbfgs",
            what remains at the solution (in variables of curvature 1 where there are `terms`).
        """

        def evaluate() -> Tensor:
            for parameter in self._parameters:
                parameter.grad = None
            return loss()

        self._steps += 1
        if self._method is None:
            curvature = None if terms is None else squares_curvature(terms(), self._parameters)
            return minimise(evaluate, self._parameters, curvature)
        before, settings = evaluate(), self._settings
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, settings.max_grad_norm, norm)
        if settings.warmup:
            for group in self._method.param_groups:
                group["lr"] = self._rate * min(1.0, self._steps / settings.warmup)
        self._method.step()
        return before.item(), norm.item()

    def state_dict(self) -> dict[str, Any]:
        """Returns the step count and the method's tensors by parameter number."""
        if self._method is None:
            return {"steps": self._steps}
        state = self._method.state_dict()["state"]
        tensors = {str(i): {k: v for k, v in values.items() if v is not None} for i, values in state.items()}
        return {"steps": self._steps, "tensors": {i: values for i, values in tensors.items() if values}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._steps = int(state["steps"])
        if self._method is not None:
            tensors = state.get("tensors", {})
            numbered = {int(i): {k: torch.clone(v) for k, v in values.items()} for i, values in tensors.items()}
            self._method.load_state_dict({**self._method.state_dict(), "state": numbered})


def _method(parameters: list[nn.Parameter], settings: OptimiserSettings, lr: float) -> torch.optim.Optimizer | None:
    momentum, decay = settings.momentum, settings.weight_decay
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr, betas=(momentum, settings.smoothing), weight_decay=decay)
    if settings.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, alpha=settings.smoothing, momentum=momentum, weight_decay=decay)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=decay)
    return None
