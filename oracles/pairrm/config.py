"""Settings of PairRM as an oracle; importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from oracles.pairrm.oracle import PairRMOracle

Order = Literal["both", "one"]
EMBEDDED = "embedded"
"""The tiny checkpoint that is shipped with the package."""


@dataclass(frozen=True)
class PairRMConfig:
    """A PairRM (Jiang et al. 2023, arXiv:2306.02561): the embedded tiny one, a directory, or a hub id."""

    checkpoint: str = EMBEDDED
    """"embedded", a directory, or a hub id such as llm-blender/PairRM or llm-blender/PairRM-hf."""
    backbone: str | None = None
    """Source of the backbone's sizes if config.json lacks them: a directory, or a DeBERTa-v3 name on the hub."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    order: Order = "both"
    """"both" averages the two orders; "one" reads each pair in one order drawn by its hash, at half the cost."""
    temperature: float = 1.0
    """T > 0 in sigmoid(margin / T); 1 is the scale of the training loss, 0.5 what llm-blender's `compare` gives."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the network; "auto": float16 on CUDA (within 2e-2 in logit), float32 on the CPU."""
    token_budget: int = 8192
    """Most ids in one forward pass, padding included, >= 1."""
    square_budget: int | None = None
    """Most ids times length in one forward pass (attention is dense), >= 1; None: 2**20 on the CPU, 2**23 on CUDA."""
    cache_size: int = 2**18
    """Most answers to remember, >= 0."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> PairRMOracle:
        """Returns the oracle; `prompts` and `responses` of a finite task are not needed."""
        del prompts, responses
        from oracles.pairrm.oracle import DTYPES, PairRMOracle, load, locate

        network, encoder = load(locate(self.checkpoint, self.revision), self.backbone)
        name = self.dtype if self.dtype != "auto" else "float16" if device.startswith("cuda") else "float32"
        network = network.to(device=device, dtype=DTYPES[name]).requires_grad_(False)
        return PairRMOracle(network, encoder, self)
