"""A linear layer with low-rank adapters that moves fewer bytes than peft's."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor


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
