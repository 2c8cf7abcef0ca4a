"""vLLM as a server, through its OpenAI-compatible interface."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx

from agents.policies.lm.generation import Generation
from agents.policies.vllm_sampler.engine import SUPPORTED_NAMES, SyncedPolicy, is_supported
from preference_duel import distributed

_AT_ONCE = 64
"""Largest number of simultaneous requests."""
_LEAST_BIAS = -100.0
"""In nats; the server's protocol clips what is lower. A token weakened so has less than 1e-40 of its probability."""


class Server:
    """A vLLM server.

    Args:
        address: address of the server.
        exchange: a folder that both share.
        context: tokens of the longest prompt and response together.

    Raises:
        OSError: if no server answers.
        ValueError: if it is of another version, or reads fewer tokens.
    """

    tolerance = 0.25
    processed = False  # unless it was started so, which it does not tell

    def __init__(self, address: str, exchange: Path, context: int) -> None:
        self.address, self.exchange = address.rstrip("/"), exchange.expanduser().resolve()
        self._client = httpx.Client(base_url=self.address, timeout=600)
        version = self._ask("GET", "/version")["version"]
        if not is_supported(version):
            raise ValueError(f"the server at {self.address} is vLLM {version}, and this needs {SUPPORTED_NAMES}")
        model = self._ask("GET", "/v1/models")["data"][0]
        if (most := model.get("max_model_len")) is not None and most < context:
            raise ValueError(
                f"the server at {self.address} reads {most} tokens, and the longest prompt with its response has "
                f"{context}; start it with --max-model-len {context}, or lower the task's max_new_tokens"
            )
        self._model = model["id"]

    def load(self, policy: SyncedPolicy) -> None:
        """Writes the weights to the exchange folder and has the server read them."""
        with _exchanged(self.exchange) as folder:
            policy.save(folder)
            if distributed.rank() == 0:
                self._ask("POST", "/collective_rpc", method="reload_weights", kwargs={"weights_path": str(folder)})
                self._ask("POST", "/reset_prefix_cache")

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **parameters: Any
    ) -> Iterator[tuple[int, list[Generation]]]:
        """Yields the index of each prompt with its n responses."""
        if bias := parameters.pop("logit_bias", None):
            parameters["logit_bias"] = {token: max(_LEAST_BIAS, value) for token, value in bias.items()}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = [
                pool.submit(self._complete, list(prompt), seed, parameters)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            index = {answer: i for i, answer in enumerate(asked)}
            try:
                for answer in as_completed(asked):
                    yield index[answer], answer.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def rest(self) -> bool:
        """Returns True: the server keeps its weights."""
        return True

    def _complete(self, prompt: list[int], seed: int, parameters: dict[str, Any]) -> list[Generation]:
        request = {"model": self._model, "prompt": prompt, "seed": seed, "return_token_ids": True, **parameters}
        choices = self._ask("POST", "/v1/completions", **request)["choices"]
        choices.sort(key=lambda choice: choice["index"])
        return [Generation(c["token_ids"], (c["logprobs"] or {}).get("token_logprobs")) for c in choices]

    def _ask(self, verb: str, path: str, **content: Any) -> Any:
        try:
            answer = self._client.request(verb, path, json=content or None)
        except httpx.HTTPError as error:
            raise OSError(
                f"the vLLM server at {self.address} does not answer {path} ({type(error).__name__}: {error}); start it "
                f"with: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"
            ) from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise ValueError(f"the server at {self.address} has no {path}; start it with VLLM_SERVER_DEV_MODE=1")
        if answer.is_error:
            raise OSError(
                f"the vLLM server at {self.address} gives {answer.status_code} for {path}: {answer.text[:500]}"
            )
        return answer.json() if answer.content else None


@contextlib.contextmanager
def _exchanged(parent: Path) -> Iterator[Path]:
    """Provides a temporary folder to all processes; the first one creates and removes it."""
    first, made = distributed.rank() == 0, ""
    if first:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=parent)
        Path(made).chmod(0o755)
    folder = Path(distributed.agreed(made))
    try:
        yield folder
    finally:
        distributed.agreed(None)
        if first:
            shutil.rmtree(folder)
