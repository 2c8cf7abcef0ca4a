"""Trainable oracles: Bradley-Terry reward, general preference model and PairRM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.policies.lm.loading import quiet
from agents.policies.lm_config import TINY
from envs.offline import Preference
from oracles import Oracle
from oracles.bradley_terry import RewardOracle
from oracles.gpm import gpm_logits, gpm_oracle
from oracles.pairrm.config import EMBEDDED, PairRMConfig
from oracles.pairrm.oracle import PairRMOracle, load, locate, save
from oracles.readers.classifier import ReaderConfig, RewardModel
from oracles.readers.loading import load_tokenizer
from preference_duel.keyed_random import Key, hash_seed


class TrainableOracle(Protocol):
    """An oracle whose network is trained."""

    @property
    def oracle(self) -> Oracle:
        """The oracle of the network's current weights."""
        ...

    @property
    def network(self) -> nn.Module:
        """The trained network."""
        ...

    def logits(self, asked: Sequence[Preference], key: Key) -> Tensor:
        """Returns [N] logits that the first response wins, differentiable; the key seeds what is random."""
        ...

    def save(self, folder: Path) -> str:
        """Writes a checkpoint; returns the arguments of `runners.duel` that load it."""
        ...


@dataclass
class ReadsAlone:
    """Reads each response alone and compares rewards and embeddings.

    Attributes:
        model: network and tokenizer.
        oracle: of the same network, `bt` with one label and `gpm` with more.
    """

    model: RewardModel
    oracle: Oracle = field(init=False)

    def __post_init__(self) -> None:
        self.network: nn.Module = self.model.network
        self.name = "bt" if self.model.network.config.num_labels == 1 else "gpm"
        self.oracle = RewardOracle(self.model) if self.name == "bt" else gpm_oracle(self.model)

    def logits(self, asked: Sequence[Preference], key: Key) -> Tensor:
        """Returns [N] logits, from one reading of each different response to a prompt; nothing is random."""
        del key
        return gpm_logits(*self.rows(asked)).flatten()

    def rows(self, asked: Sequence[Preference]) -> tuple[Tensor, Tensor]:
        """Returns [N, 1, F] reward and embedding of the first responses and of the second ones, differentiable."""
        texts = [(one.prompt, one.first) for one in asked] + [(one.prompt, one.second) for one in asked]
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows = self.model.logits([self.model.encode(*text) for text in places])[:, None]
        first, second = rows[[places[text] for text in texts]].split(len(asked))
        return first, second

    def save(self, folder: Path) -> str:
        """Writes a transformers sequence classifier."""
        self.model.save(folder)
        return f"--oracle {self.name} --oracle.model {folder}"


@dataclass
class ReadsPairs:
    """Reads both responses at once, in a random order for each comparison."""

    oracle: PairRMOracle

    def __post_init__(self) -> None:
        self.network: nn.Module = self.oracle.network.requires_grad_(True)

    def logits(self, asked: Sequence[Preference], key: Key) -> Tensor:
        """Returns [N] logits of -log sigmoid(+-M) (Jiang et al. 2023, arXiv:2306.02561, Section 3.2)."""
        turned = key.uniform(k=np.arange(len(asked))) < 0.5
        encode, network = self.oracle.encoder.encode, self.oracle.network
        pairs = [
            encode(one.prompt, one.second, one.first) if turn else encode(one.prompt, one.first, one.second)
            for one, turn in zip(asked, turned, strict=True)
        ]
        inputs = (tensor.to(network.device) for tensor in self.oracle.encoder.batch(pairs))
        return network(*inputs) * torch.where(torch.from_numpy(turned), -1.0, 1.0).to(network.device)

    def save(self, folder: Path) -> str:
        """Writes a checkpoint in the layout of llm-blender/PairRM."""
        save(folder, self.oracle.network, self.oracle.encoder)
        return f"--oracle pairrm --oracle.checkpoint {folder}"


def trainable_oracle(
    kind: str, base: str | None, planes: int, device: str, seed: int, prompts: Sequence[str] = ()
) -> TrainableOracle:
    """Builds a trainable oracle.

    Args:
        kind: "bt", "gpm" or "pairrm".
        base: where its weights start, a directory or hub id; None: what is shipped.
        planes: k of a gpm.
        device: where it runs.
        seed: names a new head's weights.
        prompts: those that it will read.

    Raises:
        OSError: if the base cannot be found or fetched.
        ValueError: if it is of another kind, or its chat template refuses a prompt.
    """
    if kind == "pairrm":
        network, encoder = load(locate(base or EMBEDDED))
        encoder.sep_to_space = True  # of the layout that is written
        return ReadsPairs(PairRMOracle(network.to(device), encoder, PairRMConfig(cache_size=0)))
    network = _classifier(base or str(TINY), 1 if kind == "bt" else 1 + 2 * planes, hash_seed(seed, "head"))
    model = RewardModel(network.to(device), load_tokenizer(base or str(TINY)), ReaderConfig(cache_size=0))
    model.require_readable(prompts)
    return ReadsAlone(model)


def _classifier(source: str, labels: int, seed: int) -> Any:
    """Returns a network with a new head on the layers of any transformers model.

    Raises:
        ValueError: if some of its layers are missing too.
    """
    from transformers import AutoModelForSequenceClassification

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=labels,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head of another size is made anew
            output_loading_info=True,
        )
    network, info = loaded
    layers = f"{network.base_model_prefix}."
    lost = sorted(name for name in info["missing_keys"] if name.startswith(layers) and "pooler" not in name)
    if lost:
        raise ValueError(
            f"'{source}' lacks {len(lost)} tensors of {type(network).__name__} ({', '.join(lost[:3])}, ...); take a "
            f"whole transformers encoder or decoder"
        )
    return network
