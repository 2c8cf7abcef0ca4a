import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DebertaV2Config

import oracles.pairrm.checkpoint as checkpoints
from oracles.pairrm.oracle import PairEncoder, PairRM, PairRMOracle, load, save
from oracles.registry import make
from tests.paths import GOLDEN

PAIRRM = GOLDEN / "pairrm"
TRIPLES = json.loads((PAIRRM / "triples.json").read_text(encoding="utf-8"))["triples"]
TEXTS = tuple([triple[name] for triple in TRIPLES] for name in ("prompt", "a", "b"))
BACKBONE = str(PAIRRM / "backbone")
TOKENIZER = (PAIRRM / "PairRM" / "tokenizer.json").read_text(encoding="utf-8")


def hf_folder(folder: Path) -> Path:
    for name in ("tokenizer.json", "model.safetensors"):
        shutil.copy(PAIRRM / "PairRM" / name, folder)
    shutil.copy(PAIRRM / "PairRM-hf" / "config.json", folder)
    return folder


def edited(folder: Path, name: str = "config.json", **fields: object) -> Path:
    """Returns a copy of the llm-blender checkpoint with some fields of one JSON file changed."""
    shutil.copytree(PAIRRM / "PairRM", folder / "edited")
    path = folder / "edited" / name
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    return folder / "edited"


def test_hf_layout_keeps_the_separator_as_an_id(tmp_path):
    oracle = make("pairrm", checkpoint=str(hf_folder(tmp_path)))
    prompts, a, b = TEXTS
    for logits, field in ((oracle.logits(prompts, a, b), "logit_hf_ab"), (oracle.logits(prompts, b, a), "logit_hf_ba")):
        assert (logits - torch.tensor([triple[field] for triple in TRIPLES])).abs().max().item() <= 2e-4
    assert (oracle.encoder.source_limit, oracle.encoder.candidate_limit) == (1224, 412)


def test_another_checkpoint_brings_its_sizes_and_limits(tmp_path):
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "position_buckets": 16}
    config = load(PAIRRM / "PairRM", BACKBONE)[0].config.to_dict() | sizes | {"hidden_size": 48, "vocab_size": 600}
    network = PairRM(DebertaV2Config(**config), n_tasks=2).eval()
    written = PairRMOracle(network, PairEncoder(TOKENIZER, 20, 12))
    save(tmp_path, network, written.encoder)
    found = make("pairrm", checkpoint=str(tmp_path))
    assert torch.equal(found.logits(*TEXTS), written.logits(*TEXTS))
    assert (found.encoder.source_limit, found.encoder.candidate_limit) == (20, 12)
    assert max(len(found.encoder.encode(*texts).ids) for texts in zip(*TEXTS, strict=True)) == 44


def test_bin_files_are_read_without_running_their_code(tmp_path):
    folder = edited(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["pretrained_model.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(tensors, folder / "pytorch_model.bin")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb()))
    found, wanted = load(folder, BACKBONE)[0].state_dict(), load(PAIRRM / "PairRM", BACKBONE)[0].state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    torch.save({"head": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        load(folder, BACKBONE)
    assert not (tmp_path / "exploded").exists()


def test_wrong_tensors_are_named(tmp_path):
    folder = edited(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bias = tensors.pop("head_layer.4.bias")
    save_file(tensors | {"pooler.dense.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing \['head_layer.4.bias'\], unexpected \['pooler.dense.weight'\]"):
        load(folder, BACKBONE)
    save_file(tensors | {"head_layer.4.bias": torch.cat([bias, bias])}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"head_layer.4.bias must have shape \(1,\), the checkpoint has \(2,\)"):
        load(folder, BACKBONE)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ranker_type": "summareranker"}, "pairranker.*summareranker"),
        ({"model_type": "roberta"}, "DeBERTa-v2.*roberta"),
    ],
)
def test_another_ranker_is_refused(tmp_path, fields, named):
    with pytest.raises(ValueError, match=named):
        load(edited(tmp_path, **fields), BACKBONE)


def test_another_architecture_is_refused(tmp_path):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"DebertaV2PairRM.*LlamaForCausalLM"):
        load(tmp_path)
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"'deberta-v2'.*'bert'"):
        load(PAIRRM / "PairRM", str(tmp_path / "backbone"))


def test_an_unknown_backbone_is_an_error_that_says_what_to_pass(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"tiny-random/deberta-v3-A.*deberta-v3-large.*pass backbone=DIRECTORY"):
        load(PAIRRM / "PairRM")


def test_a_backbone_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match=r"hidden_size 1024 but the tensors have 32, num_hidden_layers 24 .* 2,"):
        load(PAIRRM / "PairRM", "microsoft/deberta-v3-large")


def test_backbones_are_found_beside_the_checkpoint_and_in_the_hub_cache(tmp_path, monkeypatch):
    folder = edited(tmp_path, model_name="sizes")
    shutil.copytree(BACKBONE, folder / "sizes")
    assert load(folder)[0].config.vocab_size == 565
    cached = tmp_path / "models--tiny-random--deberta-v3-A"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(BACKBONE, cached / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert load(PAIRRM / "PairRM")[0].config.num_attention_heads == 4


@pytest.mark.parametrize("name", sorted(checkpoints._SIZES))
def test_published_backbones_need_no_file(name):
    sizes, origin = checkpoints._backbone(name, None, PAIRRM, {})
    config = DebertaV2Config(**{field: value for field, value in sizes.items() if field != "model_type"})
    millions = {"xsmall": 22, "small": 44, "base": 86, "large": 304}[name.rsplit("-", 1)[1]]
    with torch.device("meta"):
        network = PairRM(config).pretrained_model
    own = sum(p.numel() for key, p in network.named_parameters() if "word_embeddings" not in key)
    assert own / 1e6 == pytest.approx(millions, rel=0.03)
    assert origin == name


def test_parts_that_contradict_each_other_are_refused(tmp_path):
    folder = hf_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"cand1_prefix_id": 561}))
    with pytest.raises(ValueError, match=r"cand1_prefix_id=561, tokenizer.json <\|candidate1\|>=562"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    name = "pretrained_model.embeddings.word_embeddings.weight"
    save_file(tensors | {name: tensors[name][:560].contiguous()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="ids up to 564, the embedding only 560 rows"):
        load(folder)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        load(tmp_path)
    folder = edited(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor pytorch_model.bin"):
        load(folder, BACKBONE)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json is missing"):
        load(folder, BACKBONE)


def test_a_checkpoint_out_of_reach_is_an_error_that_names_the_embedded_one(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"cannot fetch 'llm-blender/PairRM'(.|\n)*pass a directory(.|\n)*'embedded'"):
        make("pairrm", checkpoint="llm-blender/PairRM")
    with pytest.raises(FileNotFoundError, match=r"no directory './nowhere'.*'embedded'"):
        make("pairrm", checkpoint="./nowhere")


def test_only_the_needed_files_are_fetched(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, set(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert checkpoints.locate("llm-blender/PairRM", "main") == tmp_path
    files = {"config.json", "tokenizer.json", "model.safetensors"}
    name = ("llm-blender/PairRM", "main")
    assert asked == [(*name, files), (*name, files | {"pytorch_model.bin"})]


def test_saving_refuses_an_encoder_of_the_other_layout(tmp_path):
    with pytest.raises(ValueError, match="sep_to_space=True"):
        save(tmp_path, load(PAIRRM / "PairRM", BACKBONE)[0], PairEncoder(TOKENIZER, sep_to_space=False))
