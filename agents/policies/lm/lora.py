"""Low-rank adapters: small matrices are trained, and all copies of a model share the other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.policies.lm_config import LoRAConfig

_MARK = "lora_"
"""In the name of every tensor of an adapter, by peft's convention."""


def add_adapters(model: Any, config: LoRAConfig, seed: int) -> None:
    """Puts adapters into a model, which leaves its outputs unchanged; only they are trained, in float32.

    Args:
        model: a transformers model.
        config: settings, of rank 1 at least.
        seed: random seed of their first factors; the second ones are 0.

    Raises:
        ValueError: if no layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from agents.policies.lm.adapted_linear import AdaptedLinear

    targets = config.targets if config.targets == "all-linear" else config.targets.split(",")
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0)  # pyright: ignore[reportArgumentType] - a scale may be any number
    settings._register_custom_module({nn.Linear: AdaptedLinear})  # experimental in peft, and its only way
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(settings, model)
        except ValueError as error:
            linear = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
            raise ValueError(
                f"no layer is called {config.targets!r} (lora.targets); the linear layers are "
                f"{', '.join(sorted(linear))}"
            ) from error
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(hasattr(layer, "base_layer") for layer in ends):
        model.config.get_text_config(decoder=True).tie_word_embeddings = False  # merged, they are two matrices
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_MARK in name)
        if _MARK in name:
            parameter.data = parameter.data.float()


def shared(model: nn.Module) -> list[Tensor]:
    """Returns the tensors of a model with adapters that never change."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [tensor for name, tensor in named if _MARK not in name]


def only_adapters(_: nn.Module, state: dict[str, Any], prefix: str, __: Mapping[str, Any]) -> None:
    """Removes all but adapters from the `state_dict()` of the module that it is hooked to."""
    for name in [name for name in state if name.startswith(prefix) and _MARK not in name]:
        del state[name]


def accept_adapters(_: nn.Module, missing: Any) -> None:
    """Lets `load_state_dict()` of the module that it is hooked to accept adapters alone."""
    missing.missing_keys[:] = [name for name in missing.missing_keys if _MARK in name]


@torch.no_grad()
def merged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields a model's tensors by their names without adapters, each adapter's product added when it is its turn."""
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {f"{name}.weight": x for name, x in model.named_modules() if isinstance(x, LoraLayer)}
    for name, tensor in model.state_dict().items():
        plain = name.replace(".base_layer", "")
        if _MARK in name:
            continue
        if plain in layers:
            yield plain, (tensor.float() + layers[plain].get_delta_weight("default")).to(tensor.dtype)
        else:
            yield plain, tensor
