"""Folders that hold adapters without the model that they adapt."""

from __future__ import annotations

from pathlib import Path

from preference_duel.json_text import parse_json


def require_no_adapter(folder: Path) -> None:
    """Raises if a folder holds PEFT adapters alone, and says how to merge them into a whole model.

    Args:
        folder: of a transformers model.

    Raises:
        ValueError: with the base model that the adapters name.
    """
    if (folder / "config.json").exists() or not (folder / "adapter_config.json").exists():
        return
    try:
        named = folder / "adapter_config.json"
        base = parse_json(named.read_bytes(), named)["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    raise ValueError(
        f"'{folder}' holds adapters alone (adapter_config.json without config.json), not the model that they adapt, "
        f"{base or 'which they do not name'}; merge them once and pass the new folder: "
        f"peft.AutoPeftModelForCausalLM.from_pretrained('{folder}').merge_and_unload().save_pretrained(NEW), and copy "
        f"the tokenizer's files"
    )
