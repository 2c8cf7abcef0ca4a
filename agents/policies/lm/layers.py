"""Layers that move fewer bytes than those of transformers and peft, and compute the same."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """The norm of Llama's family, weight * x / rms(x), with one kernel on CUDA for all but the weight.

    Written out, as in transformers, it moves several times as much as it reads and writes. The two roundings are
    transformers': of the quotient, which is computed in float32, and of the product.

    Args:
        weight: [features].
        eps: added to the mean of squares.
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., features] of x [..., features]."""
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            return self.weight * nn.functional.rms_norm(x, x.shape[-1:], eps=self.eps)


def exchange_norms(model: nn.Module) -> None:
    """Puts `RMSNorm` in the place of a model's norms that compute the same on a processor, to the last bit.

    Norms that take more than their input, such as a gate, stay.
    """
    for name, part in [*model.named_modules()]:
        eps = getattr(part, "variance_epsilon", None)
        plain = set(dict(part.named_parameters())) == {"weight"} and len(signature(part.forward).parameters) == 1
        if eps is not None and plain and _same(part, eps):
            model.set_submodule(name, RMSNorm(part.get_parameter("weight"), eps))


@torch.no_grad()
def _same(norm: Any, eps: float) -> bool:
    """Returns whether a module computes what `RMSNorm` does, with weights of each dtype."""
    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(norm).to_empty(device="cpu")
    probe.weight.copy_(torch.randn(probe.weight.shape, generator=generator))
    x = torch.randn(4, len(probe.weight), generator=generator)
    for weights, inputs in ((torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16,) * 2):
        theirs = probe.to(weights)(x.to(inputs))
        ours = RMSNorm(probe.weight, eps)(x.to(inputs))
        if theirs.dtype != ours.dtype or not torch.equal(theirs, ours):
            return False
    return True


class AdaptedLinear(Linear):
    """Under autocast x W^T + s x A^T B^T by two products more than x W^T.

    peft's own layer casts x to float32, which autocast undoes, multiplies by s and adds: of an 8B model these move more
    bytes than the products of a pass. Without autocast it is peft's.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns [..., outputs] of x [..., inputs]."""
        if not torch.is_autocast_enabled(x.device.type) or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        plain, low = self.base_layer(x), self.lora_A[name](x)
        second: Any = self.lora_B[name].weight
        return torch.addmm(plain.flatten(0, -2), low.flatten(0, -2), second.T, alpha=self.scaling[name]).view_as(plain)
