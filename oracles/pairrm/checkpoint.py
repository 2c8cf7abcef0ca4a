"""Finds, reads and writes PairRM checkpoints, in the layouts of llm-blender/PairRM and PairRM-hf."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oracles.pairrm.config import EMBEDDED
from oracles.pairrm.encoding import CANDIDATE_LIMIT, FIRST, SECOND, SOURCE, SOURCE_LIMIT, UNUSED, PairEncoder
from oracles.pairrm.network import PairRM
from oracles.readers.loading import find_source

if TYPE_CHECKING:
    from transformers import DebertaV2Config

_EMBEDDED_FOLDER = Path(__file__).parents[1] / "checkpoints" / "pairrm-tiny"
_EXPECTED = "a DeBERTa-v2 PairRM (llm-blender: ranker_type 'pairranker'; PairRM-hf: architecture 'DebertaV2PairRM')"
_V3 = {
    "position_buckets": 256,
    "relative_attention": True,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-7,
}
_SIZES = {
    "microsoft/deberta-v3-xsmall": (384, 12, 6, 1536),
    "microsoft/deberta-v3-small": (768, 6, 12, 3072),
    "microsoft/deberta-v3-base": (768, 12, 12, 3072),
    "microsoft/deberta-v3-large": (1024, 24, 16, 4096),
}
_SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_PREFIX_FIELDS = {
    "source_prefix_id": SOURCE,
    "cand1_prefix_id": FIRST,
    "cand2_prefix_id": SECOND,
    "cand_prefix_id": UNUSED,
}


def locate(checkpoint: str, revision: str | None = None) -> Path:
    """Returns the folder of a checkpoint: the embedded one, a directory, or a snapshot from the Hugging Face hub.

    Args:
        checkpoint: "embedded", a directory, or a hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        OSError: if the folder does not exist or the hub cannot be reached.
    """
    if checkpoint == EMBEDDED:
        if not _EMBEDDED_FOLDER.is_dir():
            raise FileNotFoundError(f"the embedded checkpoint is missing at {_EMBEDDED_FOLDER}; reinstall the package")
        return _EMBEDDED_FOLDER
    advice = f"pass a directory that holds the checkpoint, or '{EMBEDDED}' for the tiny one shipped with the package"
    folder = Path(find_source(checkpoint, advice, owner=True))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        files = ["config.json", "tokenizer.json", "model.safetensors"]
        folder = Path(snapshot_download(checkpoint, revision=revision, allow_patterns=files))
        if not (folder / files[-1]).exists():
            folder = Path(
                snapshot_download(checkpoint, revision=revision, allow_patterns=[*files, "pytorch_model.bin"])
            )
    except OSError as error:
        raise OSError(f"cannot fetch '{checkpoint}' from the Hugging Face hub ({error}); {advice}") from error
    return folder


def load(folder: Path, backbone: str | None = None) -> tuple[PairRM, PairEncoder]:
    """Reads a checkpoint of either layout.

    Args:
        folder: holds config.json, tokenizer.json and model.safetensors or pytorch_model.bin.
        backbone: directory, hub id in the local cache or DeBERTa-v3 name; None: what the checkpoint says.

    Returns:
        The network in float32 on the CPU, in eval mode, and its encoder.

    Raises:
        ValueError: if it is no PairRM, or its parts contradict each other.
        FileNotFoundError: if a file is missing.
    """
    config = _read_json(folder / "config.json")
    is_ranker = "ranker_type" in config
    _require_pairrm(config, folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        raise FileNotFoundError(f"{tokenizer} is missing; PairRM needs the ids of that very file")
    encoder = PairEncoder(
        tokenizer.read_text(encoding="utf-8"),
        config.get("source_maxlength") or SOURCE_LIMIT,
        config.get("candidate_maxlength") or CANDIDATE_LIMIT,
        sep_to_space=is_ranker,
    )
    for field, name in _PREFIX_FIELDS.items():
        if field in config and config[field] != encoder.prefix_ids.get(name, config[field]):
            raise ValueError(
                f"config.json says {field}={config[field]}, tokenizer.json {name}={encoder.prefix_ids[name]}"
            )
    tensors = _read_tensors(folder)
    sizes, origin = _backbone(config["model_name"] if is_ranker else None, backbone, folder, config)
    network = _assemble(_sized(sizes, origin, tensors), config, tensors)
    rows = network.config.vocab_size
    if rows < encoder.vocab_size:
        raise ValueError(f"tokenizer.json has ids up to {encoder.vocab_size - 1}, the embedding only {rows} rows")
    return network.eval(), encoder


def save(folder: Path, network: PairRM, encoder: PairEncoder) -> None:
    """Writes a checkpoint in the layout of llm-blender/PairRM, with the backbone's sizes beside it.

    Args:
        folder: is made if missing; `load` reads it without further arguments.
        network: any device and dtype; written as it is.
        encoder: gives tokenizer and limits; it must replace [SEP] by a space, as this layout does.
    """
    from safetensors.torch import save_file

    if not encoder.sep_to_space:
        raise ValueError("this layout replaces [SEP] by a space; build the encoder with sep_to_space=True")
    backbone = folder / "backbone"
    backbone.mkdir(parents=True, exist_ok=True)
    sizes = network.config.to_dict() | {"model_type": "deberta-v2"}
    ranker = {
        "ranker_type": "pairranker",
        "model_type": "deberta",
        "model_name": backbone.name,
        "source_maxlength": encoder.source_limit,
        "candidate_maxlength": encoder.candidate_limit,
        "n_tasks": network.head_layer[-1].out_features,
        "drop_out": network.drop_out,
    }
    _write_json(backbone / "config.json", sizes)
    _write_json(folder / "config.json", ranker)
    (folder / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; is {path.parent} a checkpoint?")
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_pairrm(config: Mapping[str, Any], folder: Path) -> None:
    """Raises unless config.json is that of a PairRM over DeBERTa-v2."""
    if "ranker_type" in config:
        came = f"ranker_type '{config['ranker_type']}' over model_type '{config.get('model_type')}'"
        right = config["ranker_type"] == "pairranker" and config.get("model_type") == "deberta"
    else:
        came = f"architectures {config.get('architectures')}, model_type '{config.get('model_type')}'"
        right = "DebertaV2PairRM" in (config.get("architectures") or ()) and config.get("model_type") == "deberta-v2"
    if not right:
        raise ValueError(f"expected {_EXPECTED}, {folder}/config.json says {came}")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the checkpoint's tensors in float32, without the position_ids of old versions."""
    if (folder / "model.safetensors").exists():
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").exists():
        tensors = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        raise FileNotFoundError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    return {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(".position_ids")}


def _backbone(
    model_name: str | None, explicit: str | None, folder: Path, config: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns the backbone's configuration and its source."""
    if explicit is None and model_name is None:
        return dict(config), f"{folder}/config.json"
    name = explicit or model_name
    assert name is not None
    for directory in (folder / name, Path(name).expanduser()):
        if (directory / "config.json").exists():
            return _read_json(directory / "config.json"), f"{directory}/config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return _read_json(Path(cached)), cached
    if name in _SIZES:
        return {"model_type": "deberta-v2", **_V3, **dict(zip(_SIZE_FIELDS, _SIZES[name], strict=True))}, name
    raise ValueError(
        f"the sizes of the backbone '{name}' are unknown: it is no directory with a config.json, not in the hub cache "
        f"and none of {', '.join(_SIZES)}; pass backbone=DIRECTORY with its config.json"
    )


def _sized(sizes: Mapping[str, Any], origin: str, tensors: Mapping[str, Tensor]) -> DebertaV2Config:
    """Returns the backbone's configuration, checked against the tensors; the vocabulary is theirs."""
    from transformers import DebertaV2Config

    if sizes.get("model_type") != "deberta-v2":
        raise ValueError(f"expected a backbone of model_type 'deberta-v2', {origin} says '{sizes.get('model_type')}'")
    config = DebertaV2Config(**{name: value for name, value in sizes.items() if name != "model_type"})
    actual = _sizes_of(tensors)
    expected = {name: getattr(config, name) for name in _SIZE_FIELDS if name in actual}
    if config.relative_attention:
        span = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
        buckets = getattr(config, "position_buckets", -1)
        expected["relative_positions"] = 2 * (buckets if buckets > 0 else span)
    wrong = {name: (value, actual[name]) for name, value in expected.items() if actual.get(name, value) != value}
    if wrong:
        listed = ", ".join(f"{name} {size} but the tensors have {has}" for name, (size, has) in wrong.items())
        raise ValueError(f"the backbone of {origin} does not fit the checkpoint: {listed}; pass the right backbone=")
    config.vocab_size = actual.get("vocab_size", config.vocab_size)
    return config


def _sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns the sizes in the tensors' shapes; those of missing tensors are left out."""
    encoder = "pretrained_model.encoder"
    sources = {
        "vocab_size": ("pretrained_model.embeddings.word_embeddings.weight", 0),
        "hidden_size": ("pretrained_model.embeddings.word_embeddings.weight", 1),
        "intermediate_size": (f"{encoder}.layer.0.intermediate.dense.weight", 0),
        "relative_positions": (f"{encoder}.rel_embeddings.weight", 0),
    }
    sizes = {name: tensors[key].shape[axis] for name, (key, axis) in sources.items() if key in tensors}
    layers = {match[1] for name in tensors if (match := re.match(re.escape(encoder) + r"\.layer\.(\d+)\.", name))}
    return sizes | ({"num_hidden_layers": len(layers)} if layers else {})


def _assemble(config: DebertaV2Config, fields: Mapping[str, Any], tensors: dict[str, Tensor]) -> PairRM:
    """Returns the network filled with the tensors, without initialising it first."""
    with torch.device("meta"):
        network = PairRM(config, fields.get("n_tasks", 1), fields.get("drop_out", 0.05))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing, unexpected = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unexpected:
        raise ValueError(f"the checkpoint's tensors do not fit: missing {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"tensor {name} must have shape {shape}, the checkpoint has {tuple(tensors[name].shape)}")
    network.load_state_dict(tensors, assign=True)
    positions = torch.arange(config.max_position_embeddings)[None]
    network.pretrained_model.embeddings.position_ids = nn.Buffer(positions, persistent=False)
    return network
