"""Loading of networks and tokenizers from a directory or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from preference_duel.adapter_folder import require_no_adapter
from preference_duel.chat import UnreadablePromptError
from preference_duel.json_text import short
from preference_duel.types import messages_of


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Source, precision and batches of a network that reads texts; the base of an oracle's own fields."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run; read it first."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the weights; "auto": as it was saved on CUDA, float32 on the CPU."""
    token_budget: int = 8192
    """Most ids in one forward pass, padding included, >= 1."""
    square_budget: int = 2**23
    """Most ids times length in one forward pass, >= 1."""
    cache_size: int = 2**18
    """Most answers to remember, >= 0."""


def find_source(model: str, advice: str, owner: bool = False) -> str:
    """Returns the path of a directory, or the hub id itself.

    Args:
        model: directory or hub id.
        advice: what else to pass, the end of the message.
        owner: whether a hub id must read OWNER/NAME.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the directory holds adapters without their model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        require_no_adapter(folder)
        return str(folder)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+" if owner else r"[\w-][\w.-]*(/[\w.-]+)?", model):
        raise FileNotFoundError(f"no directory '{model}', and it is no hub id; {advice}")
    return model


def load_network(
    kind: str,
    what: str,
    model: str,
    config: NetworkConfig,
    device: str,
    advice: str,
    check: Callable[[Any], None] = lambda settings: None,
) -> tuple[Any, Any]:
    """Returns a whole network on the device, and its tokenizer.

    Args:
        kind: class of transformers that builds it, such as "AutoModelForCausalLM".
        what: the model, for the messages.
        model: directory or hub id.
        config: revision, precision, and whether its code may run.
        device: where the network goes.
        advice: what else to pass, the end of the messages.
        check: raises ValueError if the model's own configuration does not fit.

    Raises:
        ValueError: if the model does not fit, or tensors are missing.
        OSError: if it cannot be found or fetched.
    """
    import transformers

    source = find_source(model, advice)
    where: dict[str, Any] = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    dtype = config.dtype if config.dtype != "auto" or torch.device(device).type == "cuda" else "float32"
    try:
        settings = transformers.AutoConfig.from_pretrained(source, **where)
        check(settings)
        network, info = getattr(transformers, kind).from_pretrained(
            source, config=settings, dtype=dtype, output_loading_info=True, **where
        )
        tokenizer = load_tokenizer(source, **where)
    except (OSError, ValueError) as error:
        error_kind = OSError if isinstance(error, OSError) else ValueError
        raise error_kind(f"cannot load the {what} '{model}': {error}; {advice}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"'{model}' is no whole {what}, it lacks the tensors {missing[:3]}{more}; {advice}")
    return network.to(device), tokenizer


def require_readable(what: str, encode: Callable[[str], object], prompts: Iterable[str]) -> None:
    """Raises if a model's chat template refuses prompts; one prompt of each sequence of roles is tried.

    Args:
        what: the model, for the message.
        encode: encodes a question with this prompt.
        prompts: those that it will be asked about.

    Raises:
        UnreadablePromptError: with the first such prompt and the template's own message.
    """
    tried: dict[tuple[str, ...], str] = {}
    for prompt in prompts:
        tried.setdefault(tuple(turn["role"] for turn in messages_of(prompt)), prompt)
    for prompt in tried.values():
        try:
            encode(prompt)
        except ValueError as error:
            message = f"the {what} cannot read the prompt {short(str(prompt))}: {error}"
            raise UnreadablePromptError(prompt, message) from error


def load_tokenizer(source: str, revision: str = "main", trust_remote_code: bool = False) -> Any:
    """Returns the tokenizer, from its tokenizer.json if there is one.

    transformers 5 rebuilds the pipeline of some tokenizer classes (DeBERTa-v2 among them) and then gives other ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils.hub import cached_file

    path = cached_file(source, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None or trust_remote_code:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    return PreTrainedTokenizerFast.from_pretrained(source, revision=revision)
