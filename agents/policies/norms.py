"""The norm of language models, which moves fewer bytes than that of transformers and computes the same."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
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
