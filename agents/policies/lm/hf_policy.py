"""Causal language models of the transformers library as policies."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from agents.policies import sharding
from agents.policies.lm import copies, lora, scoring
from agents.policies.lm.agreement import require_agreement
from agents.policies.lm.batching import packed
from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.decoder import CachedDecoder, Decoder, GraphedDecoder, forward_arguments
from agents.policies.lm.generation import Generation, SamplingParams
from agents.policies.lm.loading import (
    context_length,
    load_model,
    load_tokenizer,
    names_blocks,
    quiet,
    recompute_layers,
)
from agents.policies.lm.response_trie import ResponseTrie, constraints_of
from agents.policies.lm_config import DTYPES, Compute, HFConfig, Sampler
from agents.policies.tensors import distinct
from agents.policies.token_policy import TokenPolicy
from envs.tasks.task import Task
from envs.votes.writable import require_prompts
from preference_duel import distributed
from preference_duel.checks import at_least, one_of, require, within
from preference_duel.json_text import short
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.types import Completion

_LARGE = 10**9
"""Parameters from which layers are recomputed: a pass of 8,192 tokens by a Llama of 8 billion, in float32, would hold
72 GiB for its gradient, and so it holds 5 (both by arithmetic)."""
_BYTES_A_LOGIT = 32
"""Of one logit of a response that is sampled, in all its forms: the model's, float32, probability, float64 sums."""


class HFPolicy(TokenPolicy):
    """Samples token by token from a language model; on a finite task the model is constrained to its responses.

    Parameters are float32, except those beside adapters if `dtype` is bfloat16. Forward passes run in the arithmetic of
    `compute`; if exact, in float32: the probabilities of all responses must sum to 1. Dropout is always off, so that
    ratios between equal policies are exactly 1.

    Args:
        name_or_dir: a transformers directory or hub id.
        task: gives limits, legal tokens and, if it is finite, the responses.
        device: device of the model.
        seed: random seed of adapters.
        **settings: fields of `HFConfig`.

    Raises:
        OSError: if the checkpoint cannot be found or downloaded.
        ValueError: if it is no causal language model, is not whole, does not fit the task, or samples and learns from
            different distributions.
    """

    _root: scoring.Root
    _home: torch.device | None = None
    """Of a copy whose weights rest on the host: where its passes run."""
    _shares: bool = False
    """True if another copy may hold the same memory."""
    _latest: weakref.ref[HFPolicy] | None = None
    """The last snapshot, as long as it is held elsewhere."""

    def __init__(
        self, name_or_dir: str | Path, task: Task, device: str = "cpu", seed: int = 0, **settings: Any
    ) -> None:
        super().__init__()
        config = HFConfig(str(name_or_dir), **settings)
        require(
            config, micro_tokens=at_least(1), cache=within("(0, 1]"), sampler=one_of(Sampler), compute=one_of(Compute)
        )
        self.exact = config.exact
        self.micro_tokens, self._cache = config.micro_tokens, config.cache
        if config.exact and config.compute == "bfloat16":
            raise ValueError("compute='bfloat16' rounds the probabilities of all responses, which sum to 1 if exact")
        self._compute = config.compute
        self.sampling = SamplingParams(config.temperature, config.top_k, config.top_p)
        self.truncates = self.sampling.truncates
        self.tokenizer = load_tokenizer(config.path, config.trust_remote_code, config.thinking)
        if config.dtype not in DTYPES or (config.dtype != "float32" and config.lora.rank == 0):
            raise ValueError(
                f"dtype must be one of {DTYPES}, and float32 if all weights are trained, since small steps vanish in "
                f"bfloat16; got {config.dtype!r} with lora.rank {config.lora.rank}"
            )
        self.model = load_model(config.path, device, config.trust_remote_code, getattr(torch, config.dtype))
        self._arguments = forward_arguments(self.model)
        self._decoding = self._graphed(config) if config.cuda_graphs else CachedDecoder
        width = self.model.get_output_embeddings().weight.shape[0]
        if self.tokenizer.vocab_size > width:
            raise ValueError(
                f"'{config.path}': the tokenizer has {self.tokenizer.vocab_size} tokens, the model {width}; "
                f"are they of the same checkpoint?"
            )
        self.constraints = constraints_of(task, self.tokenizer, width, config.path, config.max_new_tokens, config.exact)
        size = sum(parameter.numel() for parameter in self.model.parameters())
        if config.checkpointing or (config.checkpointing is None and size >= _LARGE and names_blocks(self.model)):
            recompute_layers(self.model)
        if config.sampler == "vllm":
            require_prompts(self, task)  # before the minutes that an engine takes to start
            longest = max(map(self.prompt_length, task.all_prompts))
            self.engine = config.vllm.build(config.path, self.constraints, longest, device, config.trust_remote_code)
        self._identity = object()
        self._lora, self.adapted = config.lora, config.lora.rank > 0
        if self.adapted:
            lora.add_adapters(self.model, config.lora, seed)
            self.register_state_dict_post_hook(lora.only_adapters)
            self.register_load_state_dict_post_hook(lora.accept_adapters)
        self._plain = scoring.is_plain(self.model)
        object.__setattr__(self, "_root", scoring.Root(self.model))  # unregistered: tensors keep their names
        require_agreement(self._root, self._arguments, self.tokenizer, self._plain, self._decoding)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a copy; with adapters, all other weights are shared with it."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        if self.adapted:
            memo.update({id(tensor): tensor for tensor in lora.shared(self.model)})
        if self.sharded:
            root = sharding.twin(self._root, self._adapt, lora.shared(self.model) if self.adapted else ())
            memo.update({id(self._root): root, id(self.model): root.model})
        twin.__setstate__(copy.deepcopy(self.__dict__, memo))
        twin._identity = object()
        return twin

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Samples responses, by vLLM if it is the sampler, or lists those of a finite task if exact."""
        if self.engine is None:
            return super().draw(prompts, n, key)
        responses, weight = self.start_draw(prompts, n, key)
        return [list(row) for row in responses], weight

    def start_draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[Sequence[Sequence[Completion]], Tensor]:
        """Returns responses while vLLM samples them, if it is the sampler; else those of `draw`."""
        if self.engine is None:
            return self.draw(prompts, n, key)
        return self.engine.start(self, self._encode(prompts), n, key), torch.full((len(prompts), n), 1 / n)

    @property
    def sharded(self) -> bool:
        """True if the parameters are sharded over processes."""
        return sharding.is_sharded(self._root)

    def shard(self) -> None:
        """Shards the parameters over processes (FSDP2); copies made from then on are sharded too.

        Raises:
            ValueError: if its steps are recorded as CUDA graphs.
        """
        if self._decoding is GraphedDecoder:
            raise ValueError("cuda_graphs: a step that gathers parameters is not recorded; leave it off with fsdp")
        sharding.shard(self._root)

    def _adapt(self, model: Any) -> None:
        if self.adapted:
            lora.add_adapters(model, self._lora, seed=0)

    def gathered(self) -> AbstractContextManager[Any]:
        """Has the parameters where passes run inside the block, for any number of them without gradients.

        Sharded ones are gathered, and those that rest on the host visit the device. Those that autocast rounds are
        rounded once: it keeps them for the outermost block.
        """
        if self.sharded:
            return sharding.gathered(self._root)
        if self._home is not None:
            return copies.visiting(self.model, self._home, self.autocast)
        return torch.autocast(self.device.type, enabled=False) if self.autocast else nullcontext()

    def snapshot(self) -> Self:
        """Returns a frozen copy as passes read it: under autocast matrices in bfloat16, shared with the last snapshot.

        What `load_state_dict` changes is no longer shared; if it is large, it rests on the host from then on, and
        visits for passes.
        """
        if self.adapted or self.sharded:
            return self.frozen()
        earlier = None if self._latest is None else self._latest()
        weights = copies.snapshot(self.model, None if earlier is None else earlier.model, self.autocast)
        memo: dict[int, Any] = {**weights}
        twin = copy.deepcopy(self, memo).eval()
        twin._shares = True
        self._latest = weakref.ref(twin)
        return twin

    def running_mean(self) -> Self:
        """Returns a frozen copy in float32, which rests on the host if it is large, and visits for passes."""
        if self.adapted or self.sharded or not self._is_large:
            return self.frozen()
        memo: dict[int, Any] = {**copies.on_the_host(self.model)}
        twin = copy.deepcopy(self, memo).eval()
        twin._home = self.device
        return twin

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads weights, as any module does; memory that is shared stays as it is."""
        if self._shares and copies.differ(self, state_dict):
            self._home = self.device if self._is_large else None
            copies.separate(self.model, rests=self._home is not None)
            self._identity, self._shares = object(), False
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def _is_large(self) -> bool:
        """True if copies that share no memory rest on the host."""
        size = sum(parameter.numel() for parameter in self.parameters())
        return self.device.type != "cpu" and size >= copies.LARGE

    @property
    def device(self) -> torch.device:
        """Where passes run."""
        return super().device if self._home is None else self._home

    def decoder(self, prompts: Sequence[str], rows: Sequence[int]) -> Decoder:
        """Starts one response to `prompts[i]` for each i of `rows`."""
        ids = self._encode([prompts[i] for i in rows])
        return self._decoding(self._root, self._arguments, ids, self._process, self.constraints.limit, self.autocast)

    def rows_at_once(self, longest: int) -> int:
        """Returns how many responses are sampled at once: on a device, those whose cache has room in its memory."""
        if self.device.type == "cpu":
            return super().rows_at_once(longest)
        size = 2 if self.autocast else next(self.parameters()).element_size()
        row = (
            longest * self._arguments.cache_size * size
            + self.model.get_output_embeddings().weight.shape[0] * _BYTES_A_LOGIT
        )
        memory = torch.get_device_module(self.device).get_device_properties(self.device).total_memory
        return max(1, int(self._cache * memory) // row)

    def logits(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M, V] float32: the logits before each of the M tokens of R responses, differentiable."""
        texts = self._texts(prompts, tokens)
        return self._process(self._raw_logits(texts), texts.states, texts.tokens)

    def flat_logprob(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Returns [M] nats float32, of each of the M tokens of R responses, differentiable."""
        texts = self._texts(prompts, tokens)
        if not self._plain:
            logits = self._root(scoring.logits_at, texts, False, self._arguments.last_only, self.autocast)
            return scoring.chosen(self._process(logits, texts.states, texts.tokens), texts.tokens)

        def process(logits: Tensor, rows: slice) -> Tensor:
            legal = self.constraints.legal(texts.states[rows])
            return self.sampling.processed(logits, legal, texts.tokens[rows], in_place=True)

        return self._root(scoring.fused_logprob_at, texts, process, self.sampling.temperature, self.autocast)

    def parts(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> list[list[int]]:
        """Returns the prompts of each backward pass: those of about `micro_tokens` tokens."""
        tokens = [
            sum(self.prompt_length(prompt) + len(self.tokens_of(y)) for y in row)
            for prompt, row in zip(prompts, responses, strict=True)
        ]
        return packed(tokens, self.micro_tokens)

    def prompt_length(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt, those of the chat template included."""
        return len(self.tokenizer.prompt(prompt))

    def completions(self, generated: Sequence[Generation]) -> list[Completion]:
        """Returns the responses of these tokens, with their log-probabilities."""
        trie = self.constraints if isinstance(self.constraints, ResponseTrie) else None
        completions = []
        for tokens, logprob in generated:
            text = self.tokenizer.decode(tokens) if trie is None else trie.by_tokens[tuple(tokens)].text
            completions.append(Completion(text, tuple(tokens), None if logprob is None else tuple(logprob)))
        return completions

    def tokens_of(self, response: Completion) -> tuple[int, ...]:
        """Returns the tokens of a response: those that were sampled, if they are known.

        Raises:
            ValueError: if the response is not one of a finite task, or too long.
        """
        if isinstance(self.constraints, ResponseTrie):
            return self.constraints.tokens_of(response.text)
        limit = self.constraints.limit
        if response.tokens is None:
            tokens = (*self.tokenizer.encode(response.text), self.tokenizer.eos_id)
            tokens = tokens[:-1] if len(tokens) == limit + 1 else tokens
        else:
            tokens = response.tokens
        if len(tokens) > limit:
            raise ValueError(
                f"the response {short(response.text)} has {len(tokens)} tokens, more than the limit of {limit}; "
                f"raise the task's max_new_tokens, or cut the response"
            )
        return tokens

    def require_prompt(self, prompt: str) -> None:
        """Checks that the chat template takes a prompt, and that it fits into the context."""
        self._encode([prompt])

    def require_response(self, response: Completion) -> None:
        """Checks a response's length and tokens."""
        tokens, rules = self.tokens_of(response), self.constraints
        if not isinstance(rules, TextConstraints):
            return
        ended = tokens[-1:] and tokens[-1] in rules.end_ids
        words = torch.tensor(tokens[:-1] if ended else tokens, dtype=torch.long)
        if ended and len(words) < rules.min_tokens:
            raise ValueError(
                f"the response {short(response.text)} has {len(words)} tokens before its end, fewer than "
                f"min_new_tokens={rules.min_tokens}; lower the task's min_new_tokens"
            )
        wrong = words[~rules.words[words]]
        if len(wrong):
            name = self.tokenizer.backend.convert_ids_to_tokens(int(wrong[0]))
            raise ValueError(
                f"the response {short(response.text)} is no text of the policy's vocabulary: a part of it becomes "
                f"{name!r}, which the policy never writes"
            )

    def shortened(self, text: str) -> str:
        """Returns the beginning of a text that the policy can write at most."""
        tokens, limit = self.tokenizer.encode(text), self.constraints.limit
        if len(tokens) <= limit:
            return text
        shorter = (self.tokenizer.decode(tokens[:size]) for size in range(limit, 0, -1))
        return next((one for one in shorter if len(self.tokenizer.encode(one)) <= limit), text)

    def blend(self, other: Policy, weight: float) -> None:
        """Averages parameters."""
        if not isinstance(other, HFPolicy):
            raise TypeError(f"a language model's parameters can be averaged with another's, got {type(other).__name__}")
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                if mine.dtype != theirs.dtype:
                    raise TypeError("a snapshot is rounded; blend copies that policy.frozen() returns")
                if mine is not theirs:
                    mine.lerp_(theirs.to(mine.device), weight)

    def save(self, directory: Path) -> None:
        """Writes a transformers folder: config.json, model.safetensors, adapters merged, and the tokenizer's files."""
        plain = lora.merged(self.model) if self.adapted else distinct(self.model).items()
        state = {}
        for name, tensor in plain:
            gathered = sharding.saved(tensor.detach())
            if distributed.rank() == 0:
                state[name] = gathered
        self.model.generation_config.eos_token_id = sorted(self.tokenizer.end_ids)
        if distributed.rank() == 0:
            with quiet():
                self.model.save_pretrained(directory, state_dict=state)
                self.tokenizer.backend.save_pretrained(directory)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the tensors of the plain model by name, adapters merged, tied ones under each of their names."""
        plain = lora.merged(self.model) if self.adapted else self.model.state_dict().items()
        return ((name, sharding.whole(tensor)) for name, tensor in plain)

    @torch.no_grad()
    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token after a prompt in tokens, unconstrained and at temperature 1."""
        with self.gathered():
            texts = scoring.Texts.of([prompt], [tokens], self.device)
            return scoring.chosen(self._raw_logits(texts).float(), texts.tokens).tolist()

    def weights_version(self) -> object:
        """Returns a value that is equal only if no parameter was changed in between, but for steps of an optimiser.

        A fused step does not raise versions.
        """
        if self.sharded:
            return object()  # a sharded tensor's version is not that of its part
        return self._identity, tuple(parameter._version for parameter in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Keeps dropout off: samples and log-probabilities must be of the same distribution."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def autocast(self) -> bool:
        """True if forward passes run under bfloat16 autocast."""
        if self._compute != "auto" or self.exact:
            return self._compute == "bfloat16"
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def _graphed(self, config: HFConfig) -> type[CachedDecoder]:
        if config.sampler == "vllm":
            raise ValueError("cuda_graphs records the steps of sampler 'transformers'; vLLM records its own")
        if self.device.type != "cuda":
            raise ValueError(f"cuda_graphs needs a CUDA device, got {self.device}; leave it off")
        if not self._arguments.wide_mask:
            raise ValueError(
                f"cuda_graphs: '{config.path}' ({type(self.model).__name__}) has steps whose shapes change with the "
                f"response (a sliding window, a cache or a mask of its own), which can't be recorded; leave it off"
            )
        return GraphedDecoder

    def _texts(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> scoring.Texts:
        return scoring.Texts.of(self._encode(prompts), tokens, self.device, self.constraints)

    def _raw_logits(self, texts: scoring.Texts) -> Tensor:
        return self._root(scoring.logits_at, texts, self._plain, self._arguments.last_only, self.autocast)

    def _process(self, logits: Tensor, states: Tensor, tokens: Tensor | None = None) -> Tensor:
        return self.sampling.processed(logits, self.constraints.legal(states), tokens)

    def _encode(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        ids = [self.tokenizer.prompt(prompt) for prompt in prompts]
        longest, limit, context = max(map(len, ids)), self.constraints.limit, context_length(self.model)
        if context is not None and longest + limit > context:
            raise ValueError(
                f"the model reads {context} tokens, and a prompt of {longest} with a response of {limit} is longer; "
                f"lower the task's max_new_tokens, shorten the prompt (max_prompt_tokens with cut_long does so for the "
                f"task's own, not for those of --run.data), or take a model with a longer context"
            )
        return ids
