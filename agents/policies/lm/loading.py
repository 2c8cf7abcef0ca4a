"""Loads a causal language model and its tokenizer from a transformers directory or the Hugging Face hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.checkpoint import checkpoint

from agents.policies.norms import exchange_norms
from preference_duel.adapter_folder import require_no_adapter
from preference_duel.chat import PlainText, closing_token, filled_template, with_contents
from preference_duel.types import messages_of

_ADVICE = (
    "Pass a directory that holds config.json, model.safetensors and tokenizer.json, or --policy tiny for the model "
    "that is shipped with the package"
)


class ModelTokenizer:
    """A transformers tokenizer as `envs.tasks.tokenizers.Tokenizer`, with the prompt format of its model.

    Args:
        backend: the transformers tokenizer.
        ends: further ids that end a response, as the model's configuration names them.
        thinking: the chat template's `enable_thinking`; None: its default.

    Attributes:
        eos_id: closes a text that was not sampled: the special token that the chat template writes after an assistant's
            content, else the tokenizer's EOS.
        end_ids: all ids that end a sampled response; `eos_id` is one of them.

    Raises:
        ValueError: if it has no EOS token, without which no response could end.
    """

    def __init__(self, backend: Any, ends: Iterable[int] = (), thinking: bool | None = None) -> None:
        vocabulary = backend.get_vocab()
        if backend.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of {backend.name_or_path} has no EOS token, so no response could end; "
                f"set eos_token in its tokenizer_config.json"
            )
        self.backend = backend
        self.vocab_size: int = max(vocabulary.values()) + 1
        self._switches = {} if thinking is None else {"enable_thinking": thinking}
        unused = set(range(self.vocab_size)) - set(vocabulary.values())
        marks = {i for i, token in backend.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(unused | marks | set(backend.all_special_ids))
        self._texts = PlainText(backend)
        self._prompts: dict[Any, tuple[int, ...]] = {}
        closing = closing_token(backend, **self._switches)
        if closing is None and backend.chat_template:
            warnings.warn(
                f"the chat template of {backend.name_or_path} writes no special token after an assistant's content, so "
                f"responses end at {backend.eos_token!r}, which the model may never have seen there",
                stacklevel=2,
            )
        self.eos_id: int = backend.eos_token_id if closing is None else closing
        self.end_ids = frozenset({self.eos_id, backend.eos_token_id, *(i for i in ends if 0 <= i < self.vocab_size)})
        self.pad_id: int | None = None if backend.pad_token_id in self.end_ids else backend.pad_token_id

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: it is immutable, and copies of a policy share it."""
        return self

    def same_as(self, other: ModelTokenizer) -> bool:
        """Returns whether every id means the same in both."""
        return self is other or (
            (self.eos_id, self.end_ids) == (other.eos_id, other.end_ids)
            and self.backend.get_vocab() == other.backend.get_vocab()
        )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens added; a typed `<eos>` is mere text."""
        return self._texts.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of the ids, without special tokens and those that end a response."""
        words = [token for token in tokens if token not in self.end_ids]
        return self.backend.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def prompt(self, prompt: str) -> tuple[int, ...]:
        """Returns the ids before a response: by the chat template if there is one, else the text's.

        Args:
            prompt: text, or a `preference_duel.types.Conversation`, whose messages go to the template.

        Raises:
            ValueError: if there is no token.
        """
        messages = messages_of(prompt)
        key = str(prompt), tuple(tuple(turn.items()) for turn in messages)
        if key not in self._prompts:
            ids = self._chat(messages) if self.backend.chat_template else self._texts.encode(str(prompt), True)
            if not ids:
                raise ValueError(f"the prompt {str(prompt)!r} has no tokens in this vocabulary")
            self._prompts[key] = tuple(ids)
        return self._prompts[key]

    def _chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        def fill(contents: Sequence[str]) -> str:
            return self._filled(with_contents(messages, contents))

        return self._texts.encode_filled(fill, [turn["content"] for turn in messages])

    def _filled(self, messages: Sequence[dict[str, str]]) -> str:
        return filled_template(self.backend, messages, add_generation_prompt=True, **self._switches)


def load_tokenizer(path: str, trust_remote_code: bool = False, thinking: bool | None = None) -> ModelTokenizer:
    """Returns the tokenizer of a directory or hub id, with every token that ends a turn of its model.

    Args:
        path: the directory or hub id.
        trust_remote_code: whether code in the checkpoint may run.
        thinking: the chat template's `enable_thinking`; None: its default.

    Raises:
        OSError: if it cannot be found or downloaded.
        ValueError: if it is no tokenizer, or has no EOS.
    """
    from transformers import AutoTokenizer

    source = _source(path)
    with _loading(path):
        backend = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        return ModelTokenizer(backend, _end_ids(source), thinking)


def _end_ids(source: str) -> set[int]:
    """Returns the `eos_token_id`s of generation_config.json and config.json, either of which may be absent.

    The default of a configuration's class (2 for Llama) is ignored: it is also written if it was not chosen.
    """
    from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(source)
    inner = config.get("text_config") or config
    kind = str(inner.get("model_type"))
    default = getattr(CONFIG_MAPPING[kind], "eos_token_id", None) if kind in CONFIG_MAPPING else None
    values = [config.get("eos_token_id"), inner.get("eos_token_id")]
    with suppress(OSError):  # a checkpoint need not have the file
        values.append(GenerationConfig.from_pretrained(source).eos_token_id)
    lists = [value if isinstance(value, list) else [value] for value in values if value not in (None, default)]
    return {int(token) for tokens in lists for token in tokens}


def load_model(
    path: str, device: str = "cpu", trust_remote_code: bool = False, dtype: torch.dtype = torch.float32
) -> Any:
    """Returns the causal language model of a directory or hub id, dropout off.

    Raises:
        OSError: if it cannot be found or downloaded.
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
    exchange_norms(model)
    return model.to(device).eval()


def context_length(model: Any) -> int | None:
    """Returns the context length of a model in tokens; None if there is no limit."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def _source(path: str) -> str:
    """Returns the directory or hub id, after checking that it is available."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        require_no_adapter(folder)
        return str(folder)
    if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path):
        fault = "is a file" if folder.exists() else "does not exist, and it is no hub id"
        raise FileNotFoundError(f"the policy's directory '{path}' {fault}. {_ADVICE}")
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(path, "config.json"), str):
        try:
            HfApi().model_info(path, timeout=10)  # fails at once; from_pretrained retries for a minute
        except Exception as error:  # each HTTP library has its own
            raise OSError(
                f"there is no directory '{path}', and the Hugging Face hub gives no such model: "
                f"{str(error).rstrip('.')}. {_ADVICE}"
            ) from error
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' warnings and progress bars."""
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
    """Silences transformers while it loads, and adds advice to its errors."""
    try:
        with quiet():
            yield
    except OSError as error:
        raise OSError(f"cannot load '{path}': {str(error).rstrip('.')}. {_ADVICE}") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise ValueError(f"cannot load '{path}': {error}") from error
        raise ValueError(
            f"'{path}' brings code of its own, which is only run if trust_remote_code is set "
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
    """Raises if a checkpoint's tensors are not those of its architecture; transformers would initialise them."""
    sizes = [f"{name} ({list(has)} for {list(needs)})" for name, has, needs in info["mismatched_keys"]]
    wrong = {"lacks": info["missing_keys"], "has unknown": info["unexpected_keys"], "has of other sizes": sizes}
    faults = [f"{fault} {_some(sorted(names))}" for fault, names in wrong.items() if names]
    if faults:
        raise ValueError(
            f"the checkpoint '{path}' does not fit its config.json: it {'; it '.join(faults)}. "
            f"Save it again with save_pretrained, or correct config.json"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {', '.join(names[:3])}{more}"


def recompute_layers(model: Any) -> None:
    """Makes every block of a transformers model recompute its activations (Chen et al. 2016, arXiv:1604.06174).

    Transformers' own works in training mode only, with dropout.

    Raises:
        ValueError: if the model does not name its blocks.
    """
    if not (blocks := _blocks(model)):
        raise ValueError(
            f"--policy.checkpointing: {type(model).__name__} does not name its blocks (_no_split_modules); "
            f"leave it out and lower --policy.micro_tokens"
        )
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def names_blocks(model: Any) -> bool:
    """Returns whether a model's blocks are known, which can be recomputed."""
    return bool(_blocks(model))


def _blocks(model: Any) -> list[Any]:
    names = set(model._no_split_modules or ())
    return [part for part in model.modules() if type(part).__name__ in names]


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
