"""The check that tensors of a loss belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def require_one_shape(**tensors: Tensor) -> None:
    """Raises ValueError with all shapes, by name, unless they are the same."""
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{_listed([*tensors])} must have one shape, got {_listed([str(shape) for shape in shapes])}")


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
