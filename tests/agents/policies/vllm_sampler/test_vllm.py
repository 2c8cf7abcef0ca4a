"""vLLM samples from the policy's own distribution, with its present weights; tests marked vllm need the engine."""

import copy
import gc
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks

from agents import HFPolicy
from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.generation import SamplingParams
from agents.policies.lm_config import VLLMConfig
from agents.policies.vllm_sampler import local
from agents.policies.vllm_sampler.engine import MOST_IDS, Engine, Generation
from agents.policies.vllm_sampler.server import Server
from envs import make_task
from preference_duel import distributed
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

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONSTRAINTS = TextConstraints(torch.tensor([False, False, True, True]), 1, 0, 5)


class Weights:
    """A policy with a name and the same log-probability for every token."""

    sampling = SamplingParams(0.7, 5, 0.9)

    def __init__(self, name="a", worth=-1.0):
        self.name, self.worth = name, worth

    def weights(self):
        yield "weight", torch.tensor(self.worth)

    def weights_version(self):
        return self.name

    def plain_logprob(self, prompt, tokens):
        return [self.worth] * len(tokens)

    def completions(self, generated):
        return list(generated)


class Fake:
    """Records what was loaded; each response is a legal token by its prompt's seed."""

    tolerance = 0.25
    processed = True

    def __init__(self, keeps=True):
        self.loaded, self.keeps = [], keeps

    def load(self, model):
        self.loaded.append(model.name)

    def generate(self, prompts, seeds, **parameters):
        self.parameters = parameters
        for i in reversed(range(len(prompts))):
            digits = [2 + (seeds[i] >> k) % 2 for k in range(20)]
            yield i, [Generation(digits, [-1.1] * 20)] * parameters["n"]

    def rest(self):
        return self.keeps


def engine_of(**fields):
    return Engine(Fake(**fields), CONSTRAINTS, longest=2)


def draw(engine, name, rows, n=2, key=None):
    return list(engine.start(Weights(name), rows, n, Key(3) if key is None else key))


def test_weights_are_loaded_when_they_are_others_and_then_alone():
    engine = engine_of()
    for version in ("a", "a", "b", "a", "a"):
        draw(engine, version, [[2], [3]])
    assert engine.generator.loaded == ["a", "b", "a"]
    assert copy.deepcopy(engine) is engine


def test_weights_that_were_dropped_are_loaded_again():
    engine = engine_of(keeps=False)
    for _ in range(2):
        draw(engine, "a", [[2]])
    assert engine.generator.loaded == ["a", "a"]


def test_responses_arrive_as_they_are_sampled():
    engine = engine_of()
    arriving = engine.start(Weights(), [[2], [3]], 2, Key(3))
    assert [b for b, _ in arriving.arrivals()] == [1, 0]
    assert arriving[:] == draw(engine_of(), "a", [[2], [3]]) == [arriving[0], arriving[-1]]


def test_the_next_batch_waits_for_the_one_that_is_under_way():
    engine = engine_of()
    first = engine.start(Weights("a"), [[2], [3]], 2, Key(3))
    _, taken = next(first.arrivals())
    engine.generator.load = mock.Mock(side_effect=lambda _: events.append(len(first._found)))
    events = []
    second = draw(engine, "b", [[2]])
    assert events == [2]
    assert first[1] is taken
    assert second == draw(engine_of(), "b", [[2]])


def test_weights_that_did_not_arrive_are_noticed():
    with pytest.raises(ValueError, match=r"does not have the policy's weights: .* lie 1.9 nats from the policy's"):
        engine_of().start(Weights(worth=-3.0), [[2]], 1, Key(0))


def test_a_refresh_that_changed_nothing_is_noticed_however_small_the_step():
    engine = engine_of()
    engine.start(Weights("a", -1.1), [[2]], 1, Key(0))
    engine.start(Weights("b", -1.1), [[2]], 1, Key(0))  # another copy of the same weights
    engine.start(Weights("c", -1.2), [[2]], 1, Key(0))  # not checked: the third
    with pytest.raises(
        ValueError, match=r"still has the weights of an earlier policy: .* policy's moved by 2e-05 nats"
    ):
        engine.start(Weights("d", -1.10002), [[2]], 1, Key(0))


def test_fused_steps_and_restores_make_vllm_load_again(tmp_path):
    policy = policy_of(write_model(tmp_path))
    policy.engine = Engine(Fake(), policy.constraints, longest=9)
    policy.engine.generator.load = loads = mock.Mock()
    policy.engine._require_same_weights = mock.Mock()
    policy.engine._require_legal = mock.Mock()
    optimiser = torch.optim.AdamW(policy.parameters(), 0.1, fused=True)
    start = copy.deepcopy(policy.state_dict())
    policy.draw(PROMPTS, 1, Key(0))
    versions = policy.weights_version()
    policy.draw(PROMPTS, 1, Key(1))
    policy.logprob(PROMPTS, [[Completion("", (6, 1))]] * len(PROMPTS)).sum().backward()
    assert loads.call_count == 1
    optimiser.step()
    assert not all(torch.equal(a, b) for a, b in zip(start.values(), policy.state_dict().values(), strict=True))
    assert policy.weights_version() == versions  # which is why the steps are counted
    policy.draw(PROMPTS, 1, Key(0))
    assert loads.call_count == 2
    policy.load_state_dict(start)
    policy.draw(PROMPTS, 1, Key(0))
    assert loads.call_count == 3


def test_an_engine_that_is_gone_counts_no_steps():
    gc.collect()
    before, engine = len(_global_optimizer_post_hooks), engine_of()
    assert len(_global_optimizer_post_hooks) == before + 1
    del engine
    gc.collect()
    assert len(_global_optimizer_post_hooks) == before


def test_vllm_gets_our_distribution():
    engine = engine_of()
    draw(engine, "a", [[2]])
    assert engine.generator.parameters == {
        "n": 2, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "max_tokens": 5, "min_tokens": 0,
        "logit_bias": {0: -math.inf}, "stop_token_ids": [1], "ignore_eos": True, "logprobs": 0,
    }  # fmt: skip


def vocabulary(width, forbidden):
    words = torch.ones(width, dtype=torch.bool)
    words[:forbidden] = False
    return TextConstraints(words, forbidden, 3, 20)


@pytest.mark.parametrize(("width", "forbidden"), [(150_000, 300), (1_428, 4), (3_000, 2_000), (500, 0)])
def test_no_request_lists_more_tokens_than_the_runner_of_gpus_takes(width, forbidden):
    parameters = Engine(Fake(), vocabulary(width, forbidden), longest=2).parameters(Weights.sampling)
    assert all(len(value) <= 1024 for value in parameters.values() if isinstance(value, dict | list))


def test_samples_bring_the_log_probabilities_of_vllm(tmp_path):
    policy = policy_of(write_model(tmp_path), text_task(tmp_path, limit=20))
    policy.engine = Engine(Fake(), policy.constraints, longest=9)
    policy.engine._require_same_weights = policy.engine._require_legal = policy.engine.generator.load = mock.Mock()
    ((first, _),) = policy.draw(PROMPTS[:1], 2, Key(0))[0]
    assert first.token_logprob == (-1.1,) * 20


def test_an_illegal_token_is_noticed():
    engine = Engine(Fake(), vocabulary(10, 3), longest=2)
    with pytest.raises(ValueError, match=r"vLLM drew token 2, which a response can't hold: .*lower --policy.temp"):
        draw(engine, "a", [[2], [3]])


def test_a_prompt_for_which_no_memory_was_reserved_is_refused():
    with pytest.raises(ValueError, match=r"task's prompts, of 2 tokens at most, and one has 3; build the policy with"):
        draw(engine_of(), "a", [[2], [3, 3, 3]])


class FakeEngine:
    """Stands in for vLLM's engine, which samples one prompt a step, the last one first."""

    def __init__(self, calls):
        self.calls, self.asked, self.engine_core = calls, [], mock.Mock()

    def add_request(self, name, prompt, params):
        assert params["output_kind"] == "whole"
        self.asked.append((name, params["n"]))

    def step(self):
        self.calls.append("step")
        name, n = self.asked.pop()
        output = SimpleNamespace(token_ids=[2], logprobs=[{2: SimpleNamespace(logprob=-1.0)}])
        unfinished = SimpleNamespace(finished=False)
        return [unfinished, SimpleNamespace(finished=True, request_id=name, outputs=[output] * n)]

    def abort_request(self, names):
        self.calls.append(f"abort {' '.join(names)}")


class FakeLLM:
    """Stands in for vLLM's own class; records its settings and every call."""

    def __init__(self, path, **settings):
        self.settings, self.calls = settings, []
        self.llm_engine = FakeEngine(self.calls)

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags):
        self.calls.append(f"wake {' '.join(tags)}")

    def collective_rpc(self, name, kwargs):
        assert not isinstance(kwargs["weights_iterator"], list | dict)
        self.calls.append(f"{name} {[key for key, _ in kwargs['weights_iterator']]}")

    def reset_prefix_cache(self):
        self.calls.append("reset")


@pytest.fixture
def fake_vllm(monkeypatch):
    """Makes a module `vllm` of fakes importable; its engine is the attribute `made`."""
    module = SimpleNamespace(SamplingParams=dict)

    def make(path, **settings):
        module.made = FakeLLM(path, **settings)
        return module.made

    module.LLM = make
    monkeypatch.setitem(sys.modules, "vllm", module)
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="whole"))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    monkeypatch.setattr(local, "_require_vllm", lambda: None)
    for name in ("VLLM_USE_V2_MODEL_RUNNER", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
    return module


def test_on_a_gpu_the_engine_drops_its_weights_between_batches(fake_vllm):
    engine = VLLMConfig(memory=0.8).build("path", CONSTRAINTS, 7, "cuda", False)
    asked = {"max_model_len": 12, "max_num_seqs": 256, "gpu_memory_utilization": 0.8, "enable_sleep_mode": True}
    assert asked.items() <= fake_vllm.made.settings.items()
    assert fake_vllm.made.calls == ["sleep 2"]  # until the first batch the memory is training's
    load = ["wake weights", "reload_weights ['weight']", "reset"]
    fake_vllm.made.calls.clear()
    draw(engine, "a", [[2]])
    assert fake_vllm.made.calls == [*load, "wake kv_cache", "step", "step", "sleep 2"]
    fake_vllm.made.calls.clear()
    engine.generator.load(Weights())  # the same weights
    assert fake_vllm.made.calls == load


def test_on_the_cpu_the_engine_does_not_sleep(fake_vllm):
    engine = VLLMConfig().build("path", CONSTRAINTS, 7, "cpu", False)
    for _ in range(2):
        draw(engine, "a", [[2]])
    assert fake_vllm.made.calls == ["reload_weights ['weight']", "reset", "step", "step", "step"]
    list(engine.generator.generate([[2], [3]], [0, 1], n=2))
    given_up = engine.generator.generate([[2], [3]], [0, 1], n=2)
    assert next(given_up) == (1, [Generation([2], [-1.0])] * 2)
    given_up.close()
    assert fake_vllm.made.calls[-1] == "abort 0"
    assert "abort" not in " ".join(fake_vllm.made.calls[:-1])


@pytest.mark.parametrize(("forbidden", "runner"), [(300, ""), (1_025, "0")])
def test_the_former_runner_is_taken_if_neither_kind_of_list_is_short_enough(fake_vllm, forbidden, runner):
    VLLMConfig().build("path", vocabulary(3_000, forbidden), 7, "cpu", False)
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == runner


def test_processes_that_each_start_an_engine_can_not_share_a_model(fake_vllm, monkeypatch):
    build = partial(VLLMConfig(tensor_parallel=2).build, "path", CONSTRAINTS, 7, "cpu", False)
    build()
    monkeypatch.setattr(distributed, "count", lambda: 4)
    with pytest.raises(ValueError, match=r"each of the 4 processes starts an engine .*--tensor-parallel-size 2"):
        build()


def test_a_prompt_that_does_not_fit_is_an_error_before_the_engine_starts(fake_vllm, tmp_path):
    task = text_task(write_model(tmp_path, context=8), prompts=("a", "abcabc"))
    task = replace(task, places={"abcabc": "prompts.jsonl:2"})
    with pytest.raises(ValueError, match=r"prompts.jsonl:2: the model reads 8 tokens, .*lower the task's max_new_tok"):
        policy_of(tmp_path, task, sampler="vllm")
    assert not hasattr(fake_vllm, "made")
    policy_of(tmp_path, text_task(tmp_path, prompts=("a", "ab")), sampler="vllm")
    assert fake_vllm.made.settings["max_model_len"] == 8  # two letters, two marks of the template, four of the response


def test_each_prompt_has_a_seed_of_its_own_and_of_the_step():
    engine = engine_of()
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


class Pretended:
    """A pretended vLLM server: answers by path, and the requests that came."""

    def __init__(self, **answers):
        self.answers, self.requests = answers, []

    def __enter__(self):
        pretended = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = pretended.answers.get(self.path.rpartition("/")[2])
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                pretended.requests.append((self.path, json.loads(body)))
                self.do_GET()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        ("0.320.0", ValueError, "is vLLM 0.320.0, and this needs 0.32.x or 0.33.x"),
        ("0.9.0", ValueError, "is vLLM 0.9.0, and this needs 0.32.x or 0.33.x"),
        (None, ValueError, "has no /version; start it"),
    ],
)
def test_a_server_that_will_not_do_is_refused(version, error, message, tmp_path):
    answers = {} if version is None else {"version": {"version": version}}
    with Pretended(**answers) as server, pytest.raises(error, match=message):
        Server(server.address, tmp_path, 8)


def test_a_server_that_reads_too_few_tokens_is_refused(tmp_path):
    models = {"data": [{"id": "m", "max_model_len": 64}]}
    with Pretended(version={"version": "0.32.0"}, models=models) as server:
        Server(server.address, tmp_path, 64)
        with pytest.raises(ValueError, match=r"reads 64 tokens, .* has 65; start it with --max-model-len 65"):
            Server(server.address, tmp_path, 65)


def test_a_server_gets_our_distribution_as_far_as_its_protocol_goes(tmp_path):
    choice = {"index": 0, "token_ids": [2], "logprobs": None}
    answers = {"version": {"version": "0.32.0"}, "models": {"data": [{"id": "m"}]}}
    with Pretended(**answers, completions={"choices": [choice]}) as server:
        generator = Server(server.address, tmp_path, 64)
        parameters = Engine(generator, CONSTRAINTS, 2).parameters(Weights.sampling)
        assert list(generator.generate([[2]], [5], n=1, **parameters)) == [(0, [Generation([2])])]
    ((path, request),) = server.requests
    assert path == "/v1/completions"
    assert request["logit_bias"] == {"0": -100.0}
    assert "logprobs" not in request  # they would be of the model's raw logits
    assert (request["temperature"], request["top_p"], request["stop_token_ids"]) == (0.7, 0.9, [1])


def test_a_missing_server_is_named(tmp_path):
    with pytest.raises(OSError, match=r"does not answer /version .*VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"):
        Server("http://127.0.0.1:9", tmp_path, 8)


def write_wide(path, tied):
    """Writes a model whose heads are as wide as vLLM's processor kernels need."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "attention_dropout": 0.0, "tie_word_embeddings": tied}
    return write_model(path, context=64, **shape, eos_token_id=1, pad_token_id=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wide(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(scope="module")
def policy(folder):
    top_p = 1 if INTERPRETED else 0.9  # Triton's interpreter can't run vLLM's kernel for top-p
    return policy_of(folder, text_task(folder, limit=3, least=1), sampler="vllm", temperature=0.7, top_p=top_p)


@pytest.mark.vllm
def test_its_log_probabilities_are_ours(policy):
    from vllm import SamplingParams

    policy.draw(PROMPTS, 1, Key(0))
    assert policy.engine.generator.llm.llm_engine.vllm_config.use_v2_model_runner == INTERPRETED
    ids = [{"prompt_token_ids": list(policy.tokenizer.prompt(prompt))} for prompt in PROMPTS]
    params = SamplingParams(n=16, seed=1, detokenize=False, **policy.engine.parameters(policy.sampling))
    for prompt, answer in zip(PROMPTS, policy.engine.generator.llm.generate(ids, params, use_tqdm=False), strict=True):
        drawn = [Completion("", tuple(one.token_ids)) for one in answer.outputs]
        with torch.no_grad():
            ours, mask = policy.token_logprob([prompt], [drawn])
        steps = [pair for one in answer.outputs for pair in zip(one.logprobs, one.token_ids, strict=True)]
        theirs = [step[token].logprob for step, token in steps]
        assert torch.allclose(ours[mask], torch.tensor(theirs), atol=1e-4)


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
def test_a_refresh_at_a_large_models_learning_rate_is_noticed_if_it_is_missed(folder, policy):
    twin = copy.deepcopy(policy)
    twin.engine = copy.copy(policy.engine)
    twin.engine._loads, twin.engine._probe, twin.engine._holds = 0, None, None
    optimiser = torch.optim.AdamW(twin.parameters(), 5e-7, fused=True)
    twin.logprob(PROMPTS, twin.draw(PROMPTS, 1, Key(0))[0]).sum().backward()
    optimiser.step()
    with mock.patch.object(type(twin.engine.generator), "load"), pytest.raises(ValueError, match="an earlier policy"):
        twin.draw(PROMPTS, 1, Key(0))
    assert twin.engine._loads == 2
    twin.engine._loads = 1
    twin.draw(PROMPTS, 1, Key(0))


@pytest.mark.vllm
def test_the_runner_of_gpus_takes_our_requests():
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.logit_bias import (
        MAX_NUM_ALLOWED_TOKEN_IDS,
        MAX_NUM_LOGIT_BIAS_TOKENS,
        LogitBiasState,
    )

    assert MAX_NUM_ALLOWED_TOKEN_IDS == MAX_NUM_LOGIT_BIAS_TOKENS == MOST_IDS
    lengths = SimpleNamespace(np=[3, 3])
    requests = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=2, vocab_size=150_000, prompt_len=lengths)
    state = LogitBiasState(mock.Mock(), requests)
    parameters = Engine(Fake(), vocabulary(150_000, 300), longest=2).parameters(Weights.sampling)
    assert state.add_request(0, SamplingParams(**parameters))
    assert state.num_logit_bias.np.tolist() == [300, 0]
    listed = parameters | {"logit_bias": None, "allowed_token_ids": list(range(300, 150_000))}
    with pytest.raises(ValueError, match="Too many allowed token IDs: 149700"):
        state.add_request(1, SamplingParams(**listed))


@pytest.mark.vllm
def test_the_runner_of_gpus_samples_from_our_distribution():
    """Runs its Triton kernels by Triton's interpreter, on the CPU, for two tests of this file."""
    setting = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    tests = "log_probabilities or learning_rate"
    command = [sys.executable, "-m", "pytest", "-v", "-m", "vllm", "-n", "0", "-k", tests, __file__]
    done = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


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
    learned = [line for line in lines if "policy/sampler_gap" in line]
    assert [line["step"] for line in learned] == [1, 2]
    assert all(0 < line["policy/sampler_gap"] <= line["policy/sampler_gap_max"] < 1e-3 for line in learned)


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
