"""Optimisers of an agent's loss: steps of torch's methods, or L-BFGS to the minimum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from agents.optim.lbfgs import minimise, squares_curvature
from agents.policies.sharding import spread_like, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

Method = Literal["rmsprop", "adamw", "sgd", "lbfgs"]

_UNUSED: dict[str, tuple[str, ...]] = {
    "sgd": ("smoothing",),
    "lbfgs": ("learning_rate", "momentum", "smoothing", "weight_decay", "warmup", "decay", "max_grad_norm"),
}


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser of a policy."""

    method: Method = "rmsprop"
    """rmsprop, adamw, sgd, or lbfgs: the inner problem of each duel solved to high accuracy."""

    learning_rate: float | None = None
    """Step size, > 0; None: the policy's own, 2e-4 of networks and 0.03 of tables (tuned with SPPO on the task chat and
    on cyclic games). 7B models are published with 5e-7."""

    momentum: float = 0.0
    """Decay of the mean gradient, in [0, 1): momentum of rmsprop and sgd, beta1 of adamw. Above 0 the last iterate of
    self-play on a cycle need not converge."""

    smoothing: float = 0.99
    """Decay of the mean squared gradient, in [0, 1): alpha of rmsprop, beta2 of adamw."""

    weight_decay: float = 0.0
    """Pull of the weights towards 0, >= 0: decoupled in adamw, added to the gradient in rmsprop and sgd."""

    warmup: int = 10
    """Steps over which the learning rate rises linearly, >= 0: the first steps of rmsprop are up to ten times too
    long. The SPPO paper takes a tenth of all."""

    decay: float | None = None
    """Steps after which the learning rate is half of what it was, > 0: it falls as 1/(1 + steps/decay); None: it
    stays."""

    max_grad_norm: float | None = 1.0
    """Gradients of a larger norm are scaled down to it, > 0; None: never."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range or would be ignored."""
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}, got {self.method!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _UNUSED.get(self.method, ()) and value != field.default:
                raise ValueError(f"method='{self.method}' makes no use of {field.name}, got {value}; leave it out")
        for name in ("momentum", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name, least in {"weight_decay": 0, "warmup": 0}.items():
            if getattr(self, name) is not None and not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "decay", "max_grad_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, or None, got {getattr(self, name)}")


class Optimiser:
    """Takes steps down a loss; "lbfgs" moves to its minimum instead.

    Args:
        parameters: those that require no gradient are left out.
        config: method and its settings.
        learning_rate: used if the settings name none.
        clip: scales the gradient down to a norm and returns the norm before, or returns None to have the norm over all
            parameters clipped (see `Policy.clip_gradient`).

    Raises:
        ValueError: if nothing is left to move.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimiserConfig,
        learning_rate: float,
        clip: Callable[[float], Tensor | None] = lambda limit: None,
    ) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._parameters:
            raise ValueError("the policy has no parameter that requires a gradient; was a frozen copy passed?")
        self.config, self._clip = config, clip
        self._peak = learning_rate if config.learning_rate is None else config.learning_rate
        self._method = _method(self._parameters, config, self._peak)
        self._steps = 0

    @property
    def learning_rate(self) -> float:
        """The step size of the last step."""
        rise = min(1.0, self._steps / self.config.warmup) if self.config.warmup else 1.0
        fall = 1.0 if self.config.decay is None else 1 + self._steps / self.config.decay
        return self._peak * rise / fall

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
        before, limit = evaluate(), self.config.max_grad_norm
        norm = self._clip(math.inf if limit is None else limit)
        if norm is None:
            norm = whole(torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
            if limit is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        for group in self._method.param_groups:
            group["lr"] = self.learning_rate
        self._method.step()
        return before.item(), norm.item()

    def state_dict(self) -> dict[str, Any]:
        """Returns the step count and the method's tensors by parameter number, sharded as the parameters are."""
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
            numbered = {
                int(i): {k: spread_like(torch.clone(v), self._parameters[int(i)]) for k, v in values.items()}
                for i, values in tensors.items()
            }
            self._method.load_state_dict({**self._method.state_dict(), "state": numbered})


def _method(parameters: list[nn.Parameter], config: OptimiserConfig, lr: float) -> torch.optim.Optimizer | None:
    momentum, decay = config.momentum, config.weight_decay
    if config.method == "adamw":
        return torch.optim.AdamW(parameters, lr, betas=(momentum, config.smoothing), weight_decay=decay)
    if config.method == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, alpha=config.smoothing, momentum=momentum, weight_decay=decay)
    if config.method == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=decay)
    return None
