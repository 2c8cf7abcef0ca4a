"""Loads a causal language model and its tokenizer from a transformers directory or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

_ADVICE = (
    "Pass a directory that holds config.json, model.safetensors and tokenizer.json, or --policy tiny for the model "
    "that is shipped with the package"
)


class ModelTokenizer:
    """A transformers tokenizer as `envs.tasks.tokenizers.Tokenizer`, with the prompts that its model expects.

    Args:
        backend: the transformers tokenizer.

    Raises:
        ValueError: if it has no EOS token, without which no response could end.
    """

    def __init__(self, backend: Any) -> None:
        vocabulary = backend.get_vocab()
        if backend.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of {backend.name_or_path} has no EOS token, so no response could end; "
                f"set eos_token in its tokenizer_config.json"
            )
        self.backend = backend
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.eos_id: int = backend.eos_token_id
        self.pad_id: int | None = None if backend.pad_token_id == self.eos_id else backend.pad_token_id
        unused = set(range(self.vocab_size)) - set(vocabulary.values())
        marks = {i for i, token in backend.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(unused | marks | set(backend.all_special_ids))
        self._marks = [token for token, i in vocabulary.items() if i in self.special_ids]
        self._prompts: dict[Any, tuple[int, ...]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: it never changes, and copies of a policy share it."""
        return self

    def same_as(self, other: ModelTokenizer) -> bool:
        """Returns whether every id stands for the same in both."""
        return self is other or (self.eos_id == other.eos_id and self.backend.get_vocab() == other.backend.get_vocab())

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added; `<eos>` typed by a person is mere text."""
        return self.backend(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids, without special tokens."""
        return self.backend.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def prompt(self, prompt: str) -> tuple[int, ...]:
        """Returns the ids that stand before a response: by the chat template where there is one, else the text's.

        Args:
            prompt: text, or an `preference_duel.types.Conversation`, whose messages go to the template.

        Raises:
            ValueError: if no token is left.
        """
        messages = getattr(prompt, "messages", None) or ({"role": "user", "content": str(prompt)},)
        name = str(prompt), tuple(tuple(turn.items()) for turn in messages)
        if name not in self._prompts:
            ids = self._chat(messages) if self.backend.chat_template else self._plain(prompt)
            if not ids:
                raise ValueError(f"the prompt {str(prompt)!r} has no tokens in this vocabulary")
            self._prompts[name] = tuple(ids)
        return self._prompts[name]

    def _plain(self, prompt: str) -> list[int]:
        return self.backend(str(prompt), split_special_tokens=True).input_ids

    def _chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Encodes the filled template; where contents hold the template's own marks, they are encoded apart."""
        contents = [turn["content"] for turn in messages]
        if not any(mark in content for mark in self._marks for content in contents):
            return self._template(messages, tokenize=True)
        holes = [f"\ue000{i}\ue001" for i in range(len(messages))]
        filled = self._template([{**t, "content": h} for t, h in zip(messages, holes, strict=True)], tokenize=False)
        ids: list[int] = []
        for part in re.split("(\ue000\\d+\ue001)", filled):
            if part in holes:
                ids += self.encode(contents[holes.index(part)])
            else:
                ids += self.backend(part, add_special_tokens=False).input_ids
        return ids

    def _template(self, messages: Sequence[dict[str, str]], tokenize: bool) -> Any:
        return self.backend.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=tokenize, return_dict=False
        )


def load_tokenizer(path: str, trust_remote_code: bool = False) -> ModelTokenizer:
    """Returns the tokenizer of a directory or hub id.

    Raises:
        OSError: if it cannot be found or fetched.
        ValueError: if it is no tokenizer, or has no EOS.
    """
    from transformers import AutoTokenizer

    source = _source(path)
    with _loading(path):
        return ModelTokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code))


def load_model(
    path: str, device: str = "cpu", trust_remote_code: bool = False, dtype: torch.dtype = torch.float32
) -> Any:
    """Returns the causal language model of a directory or hub id, dropout off.

    Raises:
        OSError: if it cannot be found or fetched.
        ValueError: if it is another kind of model, or its tensors are not those of its config.json.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = _source(path)
    with _loading(path):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        _require_causal(path, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are reported by name below
            output_loading_info=True,
        )
    model, info = loaded
    _require_whole(path, info)
    return model.to(device).eval()


def context_length(model: Any) -> int | None:
    """Returns how many tokens a model can read; None where there is no limit."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def _source(path: str) -> str:
    """Returns the directory or hub id, having made sure that it can be had."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path):
        what = "is a file" if folder.exists() else "does not exist, and it is no hub id"
        raise FileNotFoundError(f"the policy's directory '{path}' {what}. {_ADVICE}")
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(path, "config.json"), str):
        try:
            HfApi().model_info(path, timeout=10)  # fails at once where from_pretrained would try for a minute
        except Exception as error:  # each HTTP library has its own
            raise OSError(
                f"there is no directory '{path}', and the Hugging Face hub gives no such model: "
                f"{str(error).rstrip('.')}. {_ADVICE}"
            ) from error
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from writing warnings and progress bars between a run's own lines."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """Keeps transformers quiet while it loads, and says what to do where it fails."""
    try:
        with quiet():
            yield
    except OSError as error:
        raise OSError(f"cannot load '{path}': {str(error).rstrip('.')}. {_ADVICE}") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise ValueError(f"cannot load '{path}': {error}") from error
        raise ValueError(
            f"'{path}' brings code of its own, which is only run where trust_remote_code is set "
            f"(--policy.trust_remote_code); read that code first"
        ) from error


def _require_causal(path: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = getattr(config, "architectures", None) or []
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False) or (named and not own_code and not causal & set(named)):
        raise ValueError(
            f"config.json says {', '.join(named) or config.model_type}, and a policy must be a causal language model "
            f"(such as LlamaForCausalLM)"
        )


def _require_whole(path: str, info: dict[str, Any]) -> None:
    """Raises where a checkpoint's tensors are not those of its architecture; transformers would make them up."""
    sizes = [f"{name} ({list(has)} for {list(needs)})" for name, has, needs in info["mismatched_keys"]]
    wrong = {"lacks": info["missing_keys"], "has unknown": info["unexpected_keys"], "has of other sizes": sizes}
    found = [f"{what} {_some(sorted(names))}" for what, names in wrong.items() if names]
    if found:
        raise ValueError(
            f"the checkpoint '{path}' does not fit its config.json: it {'; it '.join(found)}. "
            f"Save it again with save_pretrained, or correct config.json"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {', '.join(names[:3])}{more}"
