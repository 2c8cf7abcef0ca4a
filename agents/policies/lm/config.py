"""How a language model becomes a policy: where it is, what law it follows, what learns of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from agents.policies.lm.loading import ModelTokenizer, load_tokenizer
from agents.policies.lm.lora import LoRAConfig
from agents.policies.vllm_sampler.local import VLLMConfig
from envs.tasks.task import Task

if TYPE_CHECKING:
    from agents.policies.lm.hf_policy import HFPolicy

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
        from agents.policies.lm.hf_policy import HFPolicy

        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return HFPolicy(named.pop("path"), task, device, seed, **named)

    def load_tokenizer(self) -> ModelTokenizer:
        """Returns its vocabulary, for a task of free text to be built with."""
        return load_tokenizer(self.path, self.trust_remote_code)


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
