"""vLLM samples from the policy's own distribution, with its present weights; tests marked vllm need the engine."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from agents import HFPolicy
from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.generation import SamplingParams
from agents.policies.lm_config import VLLMConfig
from agents.policies.vllm_sampler import local
from agents.policies.vllm_sampler.engine import Engine, Generation
from agents.policies.vllm_sampler.server import Server
from envs import make_task
from preference_duel.keyed_random import Key
from preference_duel.types import Completion
from tests.tiny_models import (
    PROMPTS,
    every_response,
    policy_of,
    require_samples_follow,
    text_task,
    write_model,
)

CONSTRAINTS = TextConstraints(torch.tensor([False, False, True, True]), 1, 0, 5)


class Weights:
    """A policy with a name and the same log-probability for every token."""

    sampling = SamplingParams(0.7, 5, 0.9)

    def __init__(self, name="a", worth=-1.0):
        self.name, self.worth = name, worth

    def weights_version(self):
        return self.name

    def plain_logprob(self, prompt, tokens):
        return [self.worth] * len(tokens)


class Fake:
    """Records what was loaded; each response is its prompt's seed."""

    def __init__(self):
        self.loaded = []

    def load(self, model):
        self.loaded.append(model.name)

    def generate(self, prompts, seeds, **parameters):
        self.parameters = parameters
        return [[Generation([seed % 1000], [-1.1]) for _ in range(parameters["n"])] for seed in seeds]


def draw(engine, name, rows, n=2, key=None):
    return engine.draw(Weights(name), rows, n, Key(3) if key is None else key)


def test_weights_are_loaded_when_they_are_others_and_then_alone():
    engine = Engine(Fake(), CONSTRAINTS)
    for version in ("a", "a", "b", "a", "a"):
        draw(engine, version, [[2], [3]])
    assert engine.generator.loaded == ["a", "b", "a"]
    assert copy.deepcopy(engine) is engine


def test_weights_that_did_not_arrive_are_noticed():
    with pytest.raises(ValueError, match=r"does not have the policy's weights: .* lie 1.9 nats from the policy's"):
        Engine(Fake(), CONSTRAINTS).draw(Weights(worth=-3.0), [[2]], 1, Key(0))


def test_vllm_gets_our_distribution():
    engine = Engine(Fake(), CONSTRAINTS)
    draw(engine, "a", [[2]])
    assert engine.generator.parameters == {
        "n": 2, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "max_tokens": 5, "min_tokens": 0,
        "allowed_token_ids": [1, 2, 3], "stop_token_ids": [1], "ignore_eos": True,
    }  # fmt: skip


def test_each_prompt_has_a_seed_of_its_own_and_of_the_step():
    engine = Engine(Fake(), CONSTRAINTS)
    assert draw(engine, "a", [[2], [3]]) == draw(engine, "a", [[2], [3]])
    first, second = draw(engine, "a", [[2], [2]])
    assert first != second
    assert draw(engine, "a", [[2], [3]]) != draw(engine, "a", [[2], [3]], key=Key(3, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"server": "http://localhost:1"}, "vllm.server and vllm.exchange belong together"),
        ({"tensor_parallel": 0}, "vllm.tensor_parallel must be at least 1"),
        ({"memory": 1.5}, r"vllm.memory must lie in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VLLMConfig(**fields)


def test_a_finite_task_is_refused():
    with pytest.raises(ValueError, match=r"vLLM writes free text, .*take --policy.sampler transformers"):
        HFPolicy("agents/checkpoints/tiny", make_task("symbols"), sampler="vllm")


def absent(name):
    raise local.metadata.PackageNotFoundError(name)


def test_without_vllm_the_error_names_its_installation(monkeypatch, tmp_path):
    write_model(tmp_path)
    monkeypatch.setattr(local.metadata, "version", absent)
    with pytest.raises(ValueError, match=r"needs vLLM: pip install 'preference-duel\[vllm\]'"):
        policy_of(tmp_path, sampler="vllm")


def test_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(local.metadata, "version", lambda name: "0.27.1" if name == "vllm" else absent(name))
    with pytest.raises(ValueError, match=r"needs 0.32.x or 0.33.x, found vllm 0.27.1"):
        local._require_vllm()


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1"])
def test_the_releases_that_can_be_installed_are_taken(version, monkeypatch):
    monkeypatch.setattr(local.metadata, "version", lambda name: version if name == "vllm" else absent(name))
    local._require_vllm()


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        ("0.320.0", ValueError, "is vLLM 0.320.0, and this needs 0.32.x or 0.33.x"),
        ("0.9.0", ValueError, "is vLLM 0.9.0, and this needs 0.32.x or 0.33.x"),
        (None, ValueError, "has no /version; start it"),
    ],
)
def test_a_server_that_will_not_do_is_refused(version, error, message, tmp_path):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if version is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": version}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.raises(error, match=message):
            Server(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()


def test_a_missing_server_is_named(tmp_path):
    with pytest.raises(OSError, match=r"does not answer /version .*VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"):
        Server("http://127.0.0.1:9", tmp_path)


def write_wide(path, tied):
    """Writes a model whose heads are as wide as vLLM's processor kernels need."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "attention_dropout": 0.0, "tie_word_embeddings": tied}
    return write_model(path, context=64, **shape, eos_token_id=1, pad_token_id=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wide(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(scope="module")
def policy(folder):
    return policy_of(folder, text_task(folder, limit=3), sampler="vllm", temperature=0.7, top_p=0.9)


@pytest.mark.vllm
def test_its_log_probabilities_are_ours(policy):
    from vllm import SamplingParams

    policy.draw(PROMPTS, 1, Key(0))
    ids = [{"prompt_token_ids": list(policy.tokenizer.prompt(prompt))} for prompt in PROMPTS]
    params = SamplingParams(n=16, seed=1, logprobs=0, detokenize=False, **policy.engine.parameters(policy.sampling))
    for prompt, answer in zip(PROMPTS, policy.engine.generator.llm.generate(ids, params, use_tqdm=False), strict=True):
        drawn = [Completion("", tuple(one.token_ids)) for one in answer.outputs]
        with torch.no_grad():
            ours, mask = policy.token_logprob([prompt], [drawn])
        steps = [pair for one in answer.outputs for pair in zip(one.logprobs, one.token_ids, strict=True)]
        theirs = [step[token].logprob for step, token in steps]
        assert torch.allclose(ours[mask], torch.tensor(theirs), atol=1e-3)


@pytest.mark.vllm
def test_its_draws_follow_our_distribution(policy):
    require_samples_follow(policy, PROMPTS[0], every_response(policy), 4000, Key(5))


@pytest.mark.vllm
def test_it_samples_with_the_weights_of_the_copy_that_samples(policy):
    twin = copy.deepcopy(policy)
    before = policy.draw(PROMPTS, 8, Key(1))[0]
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(0.5 if parameter.ndim == 1 else -1)
    after = twin.draw(PROMPTS, 8, Key(1))[0]
    assert after != before
    with torch.no_grad():
        assert twin.logprob(PROMPTS, after).isfinite().all()  # top_p leaves out much: these are not the other's draws
        assert not twin.logprob(PROMPTS, before).isfinite().all()
    assert policy.draw(PROMPTS, 8, Key(1))[0] == before


@pytest.mark.vllm
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_draws_by_vllm(tmp_path, count):
    line = "--agent ipo --oracle bt --policy tiny --policy.sampler vllm --run.steps 2 --run.eval_every 2"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count == 2 else []
    command = [sys.executable, *launcher, "-m", "runners.duel", *line.split(), "--run.batch_size", "4"]
    more = "--run.eval_prompts", "8", "--run.dir", str(tmp_path / "run")
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["step"] == 2
    assert lines[0]["eval/win_rate_vs_ref"] == pytest.approx(0.5, abs=0.2)


@pytest.mark.vllm
def test_a_server_draws_with_new_weights(tmp_path):
    folder = write_wide(tmp_path / "model", tied=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    more = "--dtype float32 --enforce-eager --max-model-len 64 --gpu-memory-utilization 0.3"
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [*command, *more.split()], env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        served = {"server": address, "exchange": str(tmp_path / "weights")}
        deadline = time.monotonic() + 200
        while True:
            try:
                policy = policy_of(folder, text_task(folder), sampler="vllm", vllm=VLLMConfig(**served), top_k=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(1)
        plain = policy_of(folder, text_task(folder), top_k=1)
        for _ in range(2):
            assert policy.draw(PROMPTS, 2, Key(0))[0] == plain.draw(PROMPTS, 2, Key(0))[0]
            with torch.no_grad():
                for mine, theirs in zip(policy.parameters(), plain.parameters(), strict=True):
                    mine.mul_(-1.5)
                    theirs.mul_(-1.5)
        assert list((tmp_path / "weights").iterdir()) == []
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        log.close()
