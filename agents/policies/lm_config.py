"""Settings of a language-model policy: checkpoint, sampling, adapters, memory; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from preference_duel.checks import Range, at_least, positive, require, within

if TYPE_CHECKING:
    from agents.policies.lm.constraints import Constraints
    from agents.policies.lm.loading import ModelTokenizer
    from agents.policies.vllm_sampler.engine import Engine
    from envs.tasks.task import Task
    from preference_duel.protocols import Policy

Dtype = Literal["float32", "bfloat16"]
Sampler = Literal["transformers", "vllm"]
Compute = Literal["auto", "float32", "bfloat16"]
DTYPES, SAMPLERS, COMPUTES = get_args(Dtype), get_args(Sampler), get_args(Compute)
TINY = Path(__file__).parents[1] / "checkpoints" / "tiny"


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), by the peft library.

    There is no dropout: samples and log-probabilities must be of one distribution.
    """

    rank: int = 0
    """Rank of the adapters, >= 0; 0: none, and all weights are trained. Published runs take 4 to 256."""

    alpha: float = 16.0
    """Their scale, > 0: an adapter's product is multiplied by alpha / rank."""

    targets: str = "all-linear"
    """Layers with an adapter: "all-linear" (all but the output layer), or the ends of their names, separated by commas:
    q_proj,v_proj."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, "lora.", rank=at_least(0), alpha=positive, targets=Range("not be empty", bool))


@dataclass(frozen=True)
class VLLMConfig:
    """Settings of vLLM, if it is the `sampler`."""

    server: str | None = None
    """Address of a running server, http://localhost:8000; None: an engine in this process. It serves the same model,
    must have been started with VLLM_SERVER_DEV_MODE=1, and reads new weights from `exchange`."""
    exchange: str | None = None
    """A folder that this process and the server share, for weights; needed with a server."""
    tensor_parallel: int = 1
    """GPUs that share one model, >= 1; above 1 for a run of one process only."""
    memory: float = 0.4
    """Share of a GPU's memory that the engine may take, in (0, 1]; it is released between batches."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, "vllm.", tensor_parallel=at_least(1), memory=within("(0, 1]"))
        if (self.server is None) != (self.exchange is None):
            raise ValueError(
                "vllm.server and vllm.exchange belong together: the server reads each update's weights from that folder"
            )

    def build(self, path: str, constraints: Constraints, longest: int, device: str, trust_remote_code: bool) -> Engine:
        """Starts the engine, or connects to the server.

        Args:
            path: the model's directory or hub id.
            constraints: legal tokens and ends.
            longest: tokens of the longest prompt, the chat template's included.
            device: "cpu" or "cuda".
            trust_remote_code: whether the model's own code may run.

        Raises:
            ValueError: if vLLM is missing, of another version, or can't apply the constraints; or if processes that
                each start an engine are to share a model.
            OSError: if no server answers.
        """
        from agents.policies.lm.constraints import TextConstraints
        from agents.policies.vllm_sampler.engine import MOST_IDS, Engine, restriction
        from agents.policies.vllm_sampler.local import Local
        from preference_duel import distributed

        if not isinstance(constraints, TextConstraints):
            raise ValueError(
                "vLLM writes free text, and a finite task lists its responses; take --policy.sampler transformers"
            )
        context = longest + constraints.limit
        if self.server is not None and self.exchange is not None:
            from agents.policies.vllm_sampler.server import Server

            return Engine(Server(self.server, Path(self.exchange), context), constraints, longest)
        if self.tensor_parallel > 1 and distributed.count() > 1:
            raise ValueError(
                f"vllm.tensor_parallel {self.tensor_parallel} spreads one engine over GPUs, and each of the "
                f"{distributed.count()} processes starts an engine of its own; start one process, or a server (vllm "
                f"serve MODEL --tensor-parallel-size {self.tensor_parallel}) and pass vllm.server and vllm.exchange"
            )
        many_ids = len(restriction(constraints).get("allowed_token_ids", ())) > MOST_IDS
        return Engine(Local(path, device, self, context, many_ids, trust_remote_code), constraints, longest)


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Settings of a language-model policy: sampling, adapters, memory."""

    temperature: float = 1.0
    """Divides the logits, > 0. Log-probabilities are of the distribution that is sampled, so they follow it, as they
    follow top_k and top_p."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that first reach this mass, in (0, 1]. Below 1, a response of another policy can
    have log-probability -inf: keep 1 for training, as the theory does."""
    top_k: int = 0
    """Sample from so many of the likeliest tokens, >= 0; 0: all. The same holds as for top_p."""
    max_new_tokens: int | None = None
    """Limit of a response in tokens, EOS included; none: the task's, which it may not exceed."""
    exact: bool = False
    """On a finite task, list every response with its probability as weight, instead of samples."""
    micro_tokens: int = 8192
    """Tokens in one forward pass with gradients, prompts included, >= 1; passes without take four times as many. Memory
    grows with it, and with nothing else; samples do not depend on it."""
    checkpointing: bool | None = None
    """Keep only each layer's input for the backward pass and recompute the rest: a third more work for a fraction of
    the memory, so that `micro_tokens` may be larger. None: for models of a billion parameters and more."""
    cache: float = 0.2
    """Share of a GPU's memory, in (0, 1], for the keys, values and logits of responses that are sampled at once. On the
    CPU as many are sampled at once as four passes of `micro_tokens` hold."""
    cuda_graphs: bool = False
    """Record the step from token to token as a CUDA graph, which the host launches whole: a small batch otherwise waits
    for the host. For sampler "transformers"; every step reads the memory of a whole response."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters that are trained in place of the weights, which all copies of the policy then share."""
    compute: Compute = "auto"
    """Arithmetic of forward passes: float32, or bfloat16 autocast, which rounds log-probabilities by about .01 nats a
    token; "auto": bfloat16 on GPUs that have it, unless exact."""
    sampler: Sampler = "transformers"
    """Sampling by the training model itself, with keyed random numbers for every token, or by vLLM, from the same
    distribution with its own random numbers. Log-probabilities are always the training model's, and so are samples of
    the mixtures of Nash-MD and IPO-MD."""
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    """Settings of vLLM."""

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> Policy:
        """Loads the policy; the seed initialises adapters, the rest is in the checkpoint."""
        from agents.policies.lm.hf_policy import HFPolicy

        settings: dict[str, Any] = {"path": str(TINY)} | {f.name: getattr(self, f.name) for f in fields(self)}
        return HFPolicy(settings.pop("path"), task, device, seed, **settings)

    def load_tokenizer(self) -> ModelTokenizer:
        """Returns the model's tokenizer, for a task of free text to be built with."""
        from agents.policies.lm.loading import load_tokenizer

        return load_tokenizer(str(TINY))


@dataclass(frozen=True)
class TinyConfig(LMConfig):
    """The embedded language model of about a million parameters."""


@dataclass(frozen=True)
class HFConfig(LMConfig):
    """A causal language model: a transformers directory or hub id."""

    path: str
    """A directory with config.json, safetensors and tokenizer, or a hub id such as Qwen/Qwen3-0.6B."""
    thinking: bool | None = field(default=None, kw_only=True)
    """The chat template's switch `enable_thinking` (Qwen3 and others); none: the template's own default."""
    trust_remote_code: bool = field(default=False, kw_only=True)
    """Run Python code that the checkpoint brings along."""
    dtype: Dtype = field(default="float32", kw_only=True)
    """Of weights that are not trained, those beside adapters; bfloat16 halves their memory. Others are float32."""

    def load_tokenizer(self) -> ModelTokenizer:
        """Returns the model's tokenizer, for a task of free text to be built with."""
        from agents.policies.lm.loading import load_tokenizer

        return load_tokenizer(self.path, self.trust_remote_code, self.thinking)
