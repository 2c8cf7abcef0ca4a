"""A policy that is a causal language model of the transformers library."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agents.policies.lm import generation, lora, scoring, sharding
from agents.policies.lm.activation_checkpointing import recompute_layers
from agents.policies.lm.batching import packed
from agents.policies.lm.cached_decoder import CachedReader, arguments_of
from agents.policies.lm.constraints import walk
from agents.policies.lm.decoder import Reader
from agents.policies.lm.enumeration import listed_law
from agents.policies.lm.generation import Sharpening
from agents.policies.lm.loading import ModelTokenizer, context_length, load_model, load_tokenizer, quiet
from agents.policies.lm.lora import LoRAConfig
from agents.policies.lm.response_trie import ResponseTrie, rules_of
from agents.policies.tensors import tensors
from agents.policies.vllm_sampler.local import VLLMConfig
from envs.tasks.task import Task
from preference_duel import distributed
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.types import Completion

Dtype = Literal["float32", "bfloat16"]
Sampler = Literal["transformers", "vllm"]
DTYPES, SAMPLERS = get_args(Dtype), get_args(Sampler)
TINY = Path(__file__).parents[2] / "checkpoints" / "tiny"


@dataclass(frozen=True)
class HFConfig:
    """A causal language model: a transformers directory or hub id."""

    path: str
    """A directory with config.json, safetensors and tokenizer, or a hub id such as Qwen/Qwen3-0.6B."""
    temperature: float = 1.0
    """Divides the logits, > 0. It belongs to the law: log-probabilities follow it, as they follow top_k and top_p."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that first reach this mass, in (0, 1]. Below 1, what another policy wrote can have
    log-probability -inf: keep 1 for training, as the theory does."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens, >= 0; 0: all. The same holds as for top_p."""
    max_new_tokens: int | None = None
    """The response's limit, in tokens, its EOS included; none: the task's, which it may not exceed."""
    exact: bool = False
    """On a finite task, list every response with its probability as weight, instead of samples."""
    micro_tokens: int = 8192
    """Tokens in one pass that learns, prompts included, >= 1; others take four times as many. Memory grows with it, and
    with nothing else; it changes no draw."""
    checkpointing: bool = False
    """Keep each layer's input alone for the backward pass and compute the rest again: a third more work for a fraction
    of the memory, so that `micro_tokens` may be larger."""
    thinking: bool | None = None
    """The chat template's switch `enable_thinking` (Qwen3 and its like); none: the template's own default."""
    trust_remote_code: bool = False
    """Run Python code that the checkpoint brings along."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters that learn in place of the weights, which all copies of the policy then share."""
    sampler: Sampler = "transformers"
    """Who draws: the training model itself, with keyed random numbers for every token, or vLLM, whose law is the same
    and whose numbers are its own. Log-probabilities are always the training model's."""
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    """How vLLM draws."""
    dtype: Dtype = "float32"
    """Of weights that never learn, those beside adapters; bfloat16 takes half the memory. What learns is float32."""

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> HFPolicy:
        """Loads the policy; the seed is that of adapters, the rest is in the checkpoint."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return HFPolicy(named.pop("path"), task, device, seed, **named)

    def load_tokenizer(self) -> ModelTokenizer:
        """Returns its vocabulary, for a task of free text to be built with."""
        return load_tokenizer(self.path, self.trust_remote_code, self.thinking)


@dataclass(frozen=True)
class TinyConfig:
    """The embedded language model of about a million parameters."""

    temperature: float = 1.0
    """Divides the logits, > 0. It belongs to the law: log-probabilities follow it, as they follow top_k and top_p."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that first reach this mass, in (0, 1]. Below 1, what another policy wrote can have
    log-probability -inf: keep 1 for training, as the theory does."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens, >= 0; 0: all. The same holds as for top_p."""
    max_new_tokens: int | None = None
    """The response's limit, in tokens, its EOS included; none: the task's, which it may not exceed."""
    exact: bool = False
    """On a finite task, list every response with its probability as weight, instead of samples."""
    micro_tokens: int = 8192
    """Tokens in one pass that learns, prompts included, >= 1; others take four times as many. Memory grows with it, and
    with nothing else; it changes no draw."""
    checkpointing: bool = False
    """Keep each layer's input alone for the backward pass and compute the rest again: a third more work for a fraction
    of the memory, so that `micro_tokens` may be larger."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters that learn in place of the weights, which all copies of the policy then share."""
    sampler: Sampler = "transformers"
    """Who draws: the training model itself, with keyed random numbers for every token, or vLLM, whose law is the same
    and whose numbers are its own. Log-probabilities are always the training model's."""
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    """How vLLM draws."""

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> HFPolicy:
        """Loads the policy; the seed is that of adapters, the rest is in the checkpoint."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return HFConfig(str(TINY), **named).build(task=task, device=device, seed=seed)

    def load_tokenizer(self) -> ModelTokenizer:
        """Returns its vocabulary, for a task of free text to be built with."""
        return HFConfig(str(TINY)).load_tokenizer()


class HFPolicy(Policy):
    """Draws token by token from a language model; on a finite task the model is constrained to its responses.

    Parameters are float32, but for those beside adapters where `dtype` says so. On CUDA forward passes run under
    bfloat16 autocast, except where exact: the probabilities of a whole law must sum to 1. Dropout is off throughout, so
    that ratios between equal policies are exactly 1.

    Args:
        name_or_dir: a transformers directory or hub id.
        task: gives limits, legal tokens and, where it is finite, the responses.
        device: where it runs.
        seed: of adapters.
        **settings: fields of `HFConfig`.

    Raises:
        OSError: if the checkpoint cannot be found or fetched.
        ValueError: if it is no causal language model, is not whole, or does not fit the task.
    """

    _root: scoring.Root

    def __init__(
        self, name_or_dir: str | Path, task: Task, device: str = "cpu", seed: int = 0, **settings: Any
    ) -> None:
        super().__init__()
        config = HFConfig(str(name_or_dir), **settings)
        if config.micro_tokens < 1:
            raise ValueError(f"micro_tokens must be at least 1, got {config.micro_tokens}")
        self.exact = config.exact
        self.micro_tokens = config.micro_tokens
        self.sharpening = Sharpening(config.temperature, config.top_k, config.top_p)
        self.tokenizer = load_tokenizer(config.path, config.trust_remote_code, config.thinking)
        if config.dtype not in DTYPES or (config.dtype != "float32" and config.lora.rank == 0):
            raise ValueError(
                f"dtype is one of {DTYPES}, and float32 where all weights learn, since small steps vanish in "
                f"bfloat16; got {config.dtype!r} with lora.rank {config.lora.rank}"
            )
        self.model = load_model(config.path, device, config.trust_remote_code, getattr(torch, config.dtype))
        self._takes = arguments_of(self.model)
        width = self.model.get_output_embeddings().weight.shape[0]
        if self.tokenizer.vocab_size > width:
            raise ValueError(
                f"'{config.path}': the tokenizer has {self.tokenizer.vocab_size} tokens, the model {width}; "
                f"are they of the same checkpoint?"
            )
        self.rules = rules_of(task, self.tokenizer, width, config.path, config.max_new_tokens, config.exact)
        if config.checkpointing:
            recompute_layers(self.model)
        if config.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {SAMPLERS}, got {config.sampler!r}")
        self.engine = None
        if config.sampler == "vllm":
            self.engine = config.vllm.build(config.path, self.rules, device, config.trust_remote_code)
        self._identity = object()
        self.adapted = config.lora.rank > 0
        if self.adapted:
            lora.add_adapters(self.model, config.lora, seed)
            self.register_state_dict_post_hook(lora.only_adapters)
            self.register_load_state_dict_post_hook(lora.rest_is_there)
        self._plain = scoring.is_plain(self.model)
        object.__setattr__(self, "_root", scoring.Root(self.model))  # unregistered: tensors keep their names

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a copy; where there are adapters, all that never learns is shared with it."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        if self.adapted:
            memo.update({id(tensor): tensor for tensor in lora.shared(self.model)})
        if self.sharded:
            root = sharding.twin(self._root)
            memo.update({id(self._root): root, id(self.model): root.model})
        twin.__setstate__(copy.deepcopy(self.__dict__, memo))
        twin._identity = object()
        return twin

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws responses, or lists those of a finite task where exact."""
        if self.exact and isinstance(self.rules, ResponseTrie):
            return self.rules.law(prompts, self.logprob)
        if self.engine is None:
            return generation.draw(self, prompts, n, key)
        ids = self._encode(prompts)
        written = self.engine.draw(self, ids, n, key)
        return [self.completions(rows) for rows in written], torch.full((len(prompts), n), 1 / n)

    @property
    def sharded(self) -> bool:
        """True where the parameters are spread over processes."""
        return sharding.is_sharded(self._root)

    def shard(self) -> None:
        """Spreads the parameters over processes (FSDP2); copies made from then on are spread too.

        Raises:
            ValueError: if there are adapters, whose copies share the rest.
        """
        if self.adapted:
            raise ValueError("adapters are small and their copies share the rest: take --run.parallel ddp")
        sharding.shard(self._root)

    def gathered(self) -> AbstractContextManager[None]:
        """Gathers the parameters inside the block, so that this process reads as often as it likes."""
        return sharding.gathered(self._root) if self.sharded else nullcontext()

    @property
    def truncates(self) -> bool:
        """True where some legal tokens get probability 0."""
        return self.sharpening.truncates

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, float32, differentiable."""
        return scoring.token_logprob(self, prompts, responses)[0].sum(-1)

    def law(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns [B, N] float64; each beginning of a response is read once."""
        return listed_law(self, self.rules, prompts, responses)

    def token_logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> tuple[Tensor, Tensor]:
        """Returns the log-probability of each token.

        Of tokens that stop before EOS and the limit, it is that of all responses which begin so.

        Returns:
            [B, K, T] nats, 0 after a response's end, and the mask [B, K, T]: True where a token counts.

        Raises:
            ValueError: if a response is none of the task, or too long.
        """
        return scoring.token_logprob(self, prompts, responses)

    def reader(self, prompts: Sequence[str], rows: Sequence[int]) -> Reader:
        """Starts one response to `prompts[i]` for each i of `rows`."""
        ids = self._encode([prompts[i] for i in rows])
        return CachedReader(self._root, self._takes, ids, self._score, self.rules.limit, self._autocast)

    def scores(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32: the scores before each of the M tokens of R responses, differentiable."""
        states, written = self._walked(tokens)
        return self._score(self._logits(self._encode(prompts), tokens), states, written)

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats float32, of each of the M tokens of R responses, differentiable."""
        states, written = self._walked(tokens)
        texts = scoring.Texts.of(self._encode(prompts), tokens, self.device)
        if not self._plain:
            logits = self._root(scoring.logits_at, texts, False, self._takes.last_only, self._autocast)
            return scoring.chosen(self._score(logits, states, written), tokens)

        def process(logits: Tensor, rows: slice) -> Tensor:
            legal = self.rules.legal(states[rows])
            return self.sharpening.scores(logits, legal, written[rows], in_place=True)

        temperature = self.sharpening.temperature
        return self._root(scoring.fused_logprob_at, texts, written, process, temperature, self._autocast)

    def parts(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> list[list[int]]:
        """Returns the prompts whose responses learn in one backward pass: about `micro_tokens` at a time."""
        tokens = [
            sum(self.prompt_length(prompt) + len(self.tokens_of(y)) for y in row)
            for prompt, row in zip(prompts, responses, strict=True)
        ]
        return packed(tokens, self.micro_tokens)

    def prompt_length(self, prompt: str) -> int:
        """Returns how many tokens a prompt has, those of the chat template included."""
        return len(self.tokenizer.prompt(prompt))

    def completions(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Returns the responses that these tokens are."""
        if isinstance(self.rules, ResponseTrie):
            return [self.rules.by_tokens[tuple(row)] for row in tokens]
        return [Completion(self.tokenizer.decode(row), tuple(row)) for row in tokens]

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens by which this policy writes a response: those that were sampled, where they are known.

        Raises:
            ValueError: if the response is none of a finite task, or too long.
        """
        if isinstance(self.rules, ResponseTrie):
            return self.rules.tokens_of(response.text)
        limit = self.rules.limit
        if response.tokens is None:
            tokens = (*self.tokenizer.encode(response.text), self.tokenizer.eos_id)
            tokens = tokens[:-1] if len(tokens) == limit + 1 else tokens
        else:
            tokens = response.tokens
        if len(tokens) > limit:
            raise ValueError(
                f"the response {response.text!r} has {len(tokens)} tokens, more than the limit of {limit}; "
                f"raise the task's max_new_tokens, or cut the response"
            )
        return tokens

    def blend(self, other: Policy, weight: float) -> None:
        """Averages parameters."""
        if not isinstance(other, HFPolicy):
            raise TypeError(f"a language model's parameters can be averaged with another's, got {type(other).__name__}")
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                if mine is not theirs:
                    mine.lerp_(theirs.to(mine.device), weight)

    def save(self, directory: Path) -> None:
        """Writes a transformers folder: config.json, model.safetensors, adapters merged, and the tokenizer's files."""
        state = lora.merged(self.model) if self.adapted else tensors(self.model)
        self.model.generation_config.eos_token_id = sorted(self.tokenizer.end_ids)
        if distributed.rank() == 0:
            with quiet():
                self.model.save_pretrained(directory, state_dict=state)
                self.tokenizer.backend.save_pretrained(directory)

    def weights(self) -> dict[str, Tensor]:
        """Returns the tensors of the plain model by name, adapters merged, tied ones under each of their names."""
        if self.adapted:
            return lora.merged(self.model)
        return {name: sharding.whole(tensor) for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token after a prompt in tokens, by the model alone: no rules, temperature 1."""
        with self.gathered():
            logits = self._logits([tuple(prompt)], [tokens])
        return scoring.chosen(logits.float(), [tokens]).tolist()

    def stamp(self) -> object:
        """Returns what is equal only where no parameter was changed in between."""
        if self.sharded:
            return object()  # the version of a spread tensor is not that of its part
        return self._identity, tuple(parameter._version for parameter in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Keeps dropout off: what is drawn and what is learned from must be the same law."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def _autocast(self) -> bool:
        return self.device.type == "cuda" and not self.exact

    def _walked(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Returns the state before each of M tokens, and the tokens themselves, [M] each."""
        written = pad_sequence([torch.tensor(row, device=self.device) for row in tokens], batch_first=True)
        counts = torch.tensor([len(row) for row in tokens], device=self.device)
        mask = torch.arange(written.shape[1], device=self.device) < counts[:, None]
        return walk(self.rules, written)[mask], written[mask]

    def _logits(self, prompts: Sequence[tuple[int, ...]], tokens: Sequence[Sequence[int]]) -> Tensor:
        texts = scoring.Texts.of(prompts, tokens, self.device)
        return self._root(scoring.logits_at, texts, self._plain, self._takes.last_only, self._autocast)

    def _score(self, logits: Tensor, states: Tensor, written: Tensor | None = None) -> Tensor:
        return self.sharpening.scores(logits, self.rules.legal(states), written)

    def _encode(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        ids = [self.tokenizer.prompt(prompt) for prompt in prompts]
        longest, context = max(map(len, ids)), context_length(self.model)
        if context is not None and longest + self.rules.limit > context:
            raise ValueError(
                f"the model reads {context} tokens, and a prompt of {longest} with a response of {self.rules.limit} is "
                f"longer; lower the task's max_new_tokens or max_prompt_tokens, or take a model with a longer context"
            )
        return ids
