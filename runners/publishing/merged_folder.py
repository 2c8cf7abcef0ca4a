"""Merges of models that were trained from one start: task arithmetic and TIES, from folders into a folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from agents.policies.lm_config import TINY
from preference_duel.adapter_folder import require_no_adapter
from runners.run.checkpoint import steps

DENSITY = 0.2
"""Share of a change that TIES keeps (the paper's 20 %)."""
METHODS = "arithmetic", "ties"
_STATES = ".bin", ".pt", ".pth"
"""Ends of the names of other weights and of optimisers' states, which a merge has none of."""


def task_arithmetic(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Returns sum_i w_i (theta_i - theta_0) (Ilharco et al. 2022, arXiv:2212.04089)."""
    return torch.stack([weight * change for weight, change in zip(weights, changes, strict=True)]).sum(0)


def ties(changes: Sequence[Tensor], weights: Sequence[float], density: float = DENSITY) -> Tensor:
    """Returns the merge of changes by trimming them, electing a sign, and averaging those that have it.

    Yadav et al. 2023, arXiv:2306.01708. Each change keeps its largest entries; an entry's sign is that of the weighted
    sum of what is left, and its value the weighted mean of the changes with this sign: where supports are disjoint,
    the sum. The paper trims a model's change as a whole, here each tensor by itself, as layers differ in scale and a
    large model is read tensor by tensor.

    Args:
        changes: theta_i - theta_0 of one tensor.
        weights: of the changes, at least 0.
        density: share of the entries that each change keeps, in (0, 1].
    """
    trimmed = torch.stack([_largest(change, density) for change in changes])
    weight = torch.tensor(weights, dtype=trimmed.dtype).view(-1, *[1] * (trimmed.ndim - 1))
    sign = (weight * trimmed).sum(0).sign()
    agrees = (trimmed.sign() == sign) & (trimmed != 0)
    total = (weight * agrees).sum(0)
    return (weight * trimmed * agrees).sum(0) / total.masked_fill(total == 0, 1)


def merge(
    models: Sequence[Path],
    base: str,
    out: Path,
    method: str = "arithmetic",
    weights: Sequence[float] | None = None,
    density: float | None = None,
) -> Path:
    """Writes theta_0 and the merge of the models' changes from it as a transformers folder; returns its path.

    Args:
        models: run directories, whose last saved policies are taken, or transformers folders.
        base: transformers folder of theta_0, or "tiny".
        out: new folder; configuration, tokenizer and precision are the first model's.
        method: arithmetic or ties.
        weights: one for each model; None: alike, with sum 1.
        density: share of a change that ties keeps; None: `DENSITY`.

    Raises:
        ValueError: if a setting is out of range or would be ignored, or a folder holds no model of the base's shapes.
        OSError: if a folder can't be read or written.
    """
    shares = [1 / len(models)] * len(models) if weights is None else list(weights)
    if len(shares) != len(models):
        raise ValueError(f"--weights needs one for each of {len(models)} models, got {len(shares)}")
    _require_method(method, shares, density)
    if out.exists():
        raise ValueError(f"{out} is there already; name a new folder with --out, or remove it")
    start = _Folder(TINY if base == "tiny" else Path(base))
    folders = [_Folder(_policy_of(model)) for model in models]
    for folder in folders:
        folder.require_like(start)
    merged = {}
    for name in start.places:
        first, tensors = start.tensor(name).float(), [folder.tensor(name) for folder in folders]
        changes = [tensor.float() - first for tensor in tensors]
        change = ties(changes, shares, density or DENSITY) if method == "ties" else task_arithmetic(changes, shares)
        merged[name] = (first + change).to(tensors[0].dtype)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in folders[0].directory.iterdir():
        if (
            path.is_file()
            and ".safetensors" not in path.name
            and path.suffix not in _STATES
            and path.name != "README.md"
        ):
            shutil.copy(path, partial / path.name)
    save_file(merged, partial / "model.safetensors", {"format": "pt"})
    partial.rename(out)
    return out


def _require_method(method: str, shares: Sequence[float], density: float | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if method == "arithmetic" and density is not None:
        raise ValueError(f"--density is of --method ties, and arithmetic keeps everything; got {density:g}")
    if method == "ties" and (min(shares) < 0 or sum(shares) == 0):
        raise ValueError(f"--method ties needs --weights of at least 0, not all 0, got {shares}")
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"--density must lie in (0, 1], got {density:g}")


class _Folder:
    """The tensors of a transformers folder, each read when it is asked for.

    Attributes:
        directory: of the model.
        places: name of a tensor -> its file.
    """

    def __init__(self, directory: Path) -> None:
        require_no_adapter(directory)
        files = sorted(directory.glob("*.safetensors"))
        if not files or not (directory / "config.json").is_file():
            raise ValueError(
                f"{directory} is no transformers folder with config.json and .safetensors; pass a run directory or a "
                f"folder that save_pretrained wrote"
            )
        self.directory = directory
        self.places: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    self.places[name] = file
                    self._shapes[name] = tuple(tensors.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor on the CPU."""
        with safe_open(self.places[name], "pt") as tensors:
            return tensors.get_tensor(name)

    def require_like(self, base: _Folder) -> None:
        """Raises ValueError with the first tensor that the base lacks, or has of another shape, or alone."""
        for name in sorted(self._shapes.keys() | base._shapes.keys()):
            mine, its = self._shapes.get(name, "none"), base._shapes.get(name, "none")
            if mine != its:
                raise ValueError(
                    f"{self.directory} was not trained from {base.directory}: tensor {name} has shape {mine}, "
                    f"that of the base {its}; merge models of one --base, all written by save_pretrained"
                )


def _policy_of(model: Path) -> Path:
    """Returns the last saved policy if a folder is a run's, else the folder."""
    there = steps(model) if model.is_dir() else []
    return model / f"step-{there[-1]}" / "policy" if there else model


def _largest(change: Tensor, density: float) -> Tensor:
    """Returns a change whose entries are 0 but for the largest share of them."""
    flat = change.flatten()
    kept = flat.abs().topk(max(1, math.ceil(density * len(flat)))).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(change)
