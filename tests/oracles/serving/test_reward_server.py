"""The server answers the protocols of trainers, and says what is wrong with a request."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import httpx
import msgpack
import pytest
import torch
from starlette.testclient import TestClient

from benchmarks import serving
from benchmarks.serving import HashedOracle, check, groups, play
from oracles.group_rewards import Schedule, group_rewards
from oracles.human.listener import listen
from oracles.serving.batches import Reduction
from oracles.serving.reward_server import RewardServer, ServerSettings
from oracles.table import TableOracle
from preference_duel.groups import Aggregate
from runners import serve

TEXTS = ["a", "b", "c"]
PAYOFF = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
ORACLE = TableOracle(PAYOFF, ["x", "y"], TEXTS)
REWARDS = [0.55, 0.4, 0.55]


class Silent:
    """Leaves some questions open, and breaks at others."""

    antisymmetric = True
    leaves_unread = True

    def prob(self, prompts, first, second):
        if "gone" in first:
            raise OSError("the judge is gone")
        return torch.tensor([float("nan") if "?" in pair else 0.75 for pair in zip(first, second, strict=True)])


@pytest.fixture
def client(request):
    oracle, settings, token = getattr(request, "param", (ORACLE, ServerSettings(group_size=3), ""))
    with TestClient(RewardServer(oracle, settings, token).app, base_url="http://127.0.0.1:5000") as client:
        yield client


def post(client, path, status=200, **content):
    answer = client.post(path, json=content)
    assert answer.status_code == status, answer.text
    return answer.json()


def rollout(text, index=None, prompt="x", **more):
    """NeMo-Gym's request for one rollout, as its simple agent sends it."""
    output = [
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "thinking"}]},
        {
            "type": "message",
            "id": "msg",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        },
    ]
    about = {} if index is None else {"_ng_task_index": 7, "_ng_rollout_index": index}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        "response": {"id": "resp", "object": "response", "model": "m", "output": output, "tool_choice": "auto"},
        **about,
        **more,
    }


def test_prob_answers_pairs(client):
    pairs = {"prompts": ["x", [{"role": "user", "content": "y"}], "x"], "first": ["a", "b", "c"]}
    assert post(client, "/prob", **pairs, second=["b", "a", "c"]) == {"prob": [0.9, pytest.approx(0.1), 0.5]}
    assert post(client, "/prob", prompts=[], first=[], second=[]) == {"prob": []}


def test_openrlhf_gets_the_rewards_of_a_whole_group(client):
    content = {"query": [f"x{text}" for text in TEXTS], "prompts": ["x"] * 3, "labels": ["unread"] * 3}
    answer = post(client, "/get_reward", **content)
    assert answer == {"rewards": pytest.approx(REWARDS), "scores": pytest.approx(REWARDS), "extra_logs": {}}
    empty = post(client, "/get_reward", query=[], prompts=[], labels=[])  # for the second of several addresses
    assert empty["rewards"] == []


@pytest.mark.parametrize("client", [(ORACLE, ServerSettings(group_size=3, wait=0.05), "")], indirect=True)
def test_a_group_that_is_not_whole_is_a_503(client):
    answer = client.post("/get_reward", json={"query": ["xa", "xb"], "prompts": ["x", "x"], "labels": ["", ""]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "prompt 'x': 2 of 3 completions came within 0.05 s" in answer.json()["error"]
    assert answer.json()["error"].endswith("missing: 1 more")
    error = post(client, "/verify", 503, **rollout("a", 1))["error"]
    assert error == "prompt '7': 1 of 3 completions came within 0.05 s (1); missing: 0, 2"
    whole = post(client, "/get_reward", query=["xa", "xb", "xc"], prompts=["x"] * 3, labels=[""] * 3)
    assert whole["rewards"] == pytest.approx(REWARDS)  # the two that came before come again with the third
    assert 'duel_requests_total{path="/get_reward",status="503"} 1' in client.get("/metrics").text


@pytest.mark.parametrize(
    "client", [(ORACLE, ServerSettings(group_size=3, ends=("<|im_end|>", "</s>")), "")], indirect=True
)
def test_a_response_ends_at_the_end_of_sequence(client):
    queries = ["xa<|im_end|>\n", "xb</s>c", "xc"]
    assert post(client, "/get_reward", query=queries, prompts=["x"] * 3)["rewards"] == pytest.approx(REWARDS)


def test_ids_of_a_client_of_ones_own(client):
    content = {"prompts": ["x"] * 4, "prompt_ids": [1, 1, 1, 1], "sample_ids": ["p", "q", "p", "r"], "group_size": 3}
    answer = post(client, "/get_reward", query=["xa", "xb", "xa", "xc"], **content)
    assert answer["rewards"] == pytest.approx([0.55, 0.4, 0.55, 0.55])
    conflict = post(client, "/get_reward", 409, query=["xa", "xb", "xc", "xc"], **{**content, "prompt_ids": [2] * 4})
    assert "completion 'p' of prompt '2' waits with the text 'a'" in conflict["error"]


@pytest.mark.parametrize(
    "client", [(ORACLE, ServerSettings(group_size=3, reduction=Reduction("circular", "scores")), "")], indirect=True
)
def test_nemo_gym_compares(client):
    answer = post(
        client,
        "/compare",
        conversation_history=[{"role": "user", "content": "x"}],
        response_objs=[rollout(text)["response"] for text in TEXTS],
        principle=None,
    )
    expected = group_rewards(ORACLE, ["x"], [TEXTS], schedule="circular", aggregate="scores")
    assert answer["rewards"] == expected.rewards[0].tolist()
    assert answer["comparison_results"][0] == {
        "response_i": 0,
        "response_j": 1,
        "judge_idx": 0,
        "score_1": 5.0,
        "score_2": 1.0,
        "ranking": 2.0,
        "prob": 0.9,
    }
    assert len(answer["comparison_results"]) == 3
    assert answer["metrics"] == {"queries": 3.0, "unanswered": 0.0}


def test_nemo_gym_verifies_rollouts_of_a_group(client):
    assert post(client, "/seed_session") == {}
    requests = [rollout(text, index, principle="Be brief.") for index, text in enumerate(TEXTS)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda content: client.post("/verify", json=content).json(), [*requests, requests[0]]))
    assert [answer["reward"] for answer in answers] == pytest.approx([*REWARDS, REWARDS[0]])
    assert answers[0]["response"] == requests[0]["response"]
    assert answers[0]["responses_create_params"] == requests[0]["responses_create_params"]


def test_oat_gets_probabilities(client):
    content = {"batch_prompt": ["x", "y"], "batch_response": [], "batch_candidates": [("a", "b"), ("b", "a")]}
    answer = client.post("/get_feedback", content=msgpack.packb(content))
    assert answer.status_code == 200
    assert msgpack.unpackb(answer.content) == {"batch_score": [], "batch_first_win_prob": [0.9, pytest.approx(0.1)]}
    single = client.post("/get_feedback", content=msgpack.packb({"batch_prompt": ["x"], "batch_response": ["a"]}))
    assert single.status_code == 400
    assert "scores no single one" in single.json()["error"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/prob", [1], "prompts must be a list, got [1]"),
        ("/prob", {"prompt": ["x"]}, "prompts must be a list, got {'prompt': ['x']}"),
        ("/prob", {"prompts": ["x"], "first": ["a"], "second": []}, "second must have one entry for each of the 1"),
        ("/prob", {"prompts": ["x"], "first": [None], "second": ["b"]}, "first must hold texts, got None"),
        ("/prob", {"prompts": [3], "first": ["a"], "second": ["b"]}, "a prompt must be text or a list of messages"),
        ("/get_reward", {"query": ["a"], "prompts": ["x"]}, "a query must begin with its prompt, got 'a'"),
        ("/get_reward", {"query": ["xa"], "prompts": ["x"], "group_size": 1}, "group_size must be an integer of at"),
        ("/get_reward", {"query": ["xa"], "prompts": ["x"], "sample_ids": [None]}, "sample_ids must hold texts or"),
        ("/compare", {"conversation_history": [], "response_objs": []}, "a prompt must be text or a list of messages"),
        ("/verify", {"response": {}}, "responses_create_params must be an object, got None"),
        ("/verify", {**rollout("a"), "response": {"output": "a"}}, "a list `output`, got {'output': 'a'}"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected(client, path, content, message):
    answer = client.post(path, json=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_broken_bodies_are_refused(client):
    for path, body in (("/prob", b"{"), ("/prob", b"[" * 100_000), ("/get_feedback", b"\xc1"), ("/get_feedback", b"")):
        answer = client.post(path, content=body)
        assert answer.status_code == 400
        assert "expected application/" in answer.json()["error"]
    assert client.get("/prob").status_code == 405


@pytest.mark.parametrize("client", [(ORACLE, ServerSettings(), "")], indirect=True)
def test_the_size_of_groups_must_be_known(client):
    answer = post(client, "/get_reward", 400, query=["xa"], prompts=["x"])
    assert "start the server with --group_size" in answer["error"]


@pytest.mark.parametrize("client", [(Silent(), ServerSettings(group_size=2), "")], indirect=True)
def test_no_answer_of_the_oracle_is_no_number(client):
    assert post(client, "/prob", prompts=["x"], first=["a"], second=["b"]) == {"prob": [0.75]}
    error = post(client, "/prob", 502, prompts=["x"], first=["?"], second=["b"])["error"]
    assert "no answered comparison" in error
    assert "the judge is gone" in post(client, "/get_reward", 502, query=["xgone", "xa"], prompts=["x"] * 2)["error"]
    assert post(client, "/get_reward", query=["xb", "xa"], prompts=["x"] * 2)["rewards"] in ([0.75, 0.25], [0.25, 0.75])


@pytest.mark.parametrize("client", [(ORACLE, ServerSettings(group_size=3), "secret")], indirect=True)
def test_a_token_is_asked_for(client):
    question = {"prompts": ["x"], "first": ["a"], "second": ["b"]}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
        assert client.post("/prob", json=question, headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
    assert client.post("/prob", json=question, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.post("/prob", json=question, auth=("duel", "secret")).status_code == 200


def test_pages_of_other_sites_are_refused(client):
    assert client.post("/prob", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/prob", json={}, headers={"Host": "evil.example"}).status_code == 400


def test_metrics_are_prometheus_text(client):
    post(client, "/get_reward", query=["xa", "xb", "xc"], prompts=["x"] * 3)
    lines = client.get("/metrics").text.splitlines()
    assert 'duel_requests_total{path="/get_reward",status="200"} 1' in lines
    assert 'duel_cohorts_total{answered="yes"} 1' in lines
    assert "duel_oracle_questions_total 3" in lines
    assert "duel_kept 0" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 11
    assert all(line.startswith("#") or line.rsplit(" ", 1)[0].partition("{")[0] in names for line in lines)


@pytest.mark.parametrize(
    ("field", "value"), [("group_size", 1), ("batch_size", 0), ("wait", 0.0), ("retry", -1.0), ("wait", float("nan"))]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"--{field}"):
        ServerSettings(**{field: value})


@pytest.fixture
def port():
    with serving.in_thread(RewardServer(HashedOracle(), ServerSettings(group_size=8, wait=0.4))) as port:
        yield port


def test_the_rewards_of_interleaved_duplicated_delayed_and_broken_requests_are_those_of_whole_groups(port):
    planned = groups(8, 8, seed=0)
    planned[3].lost = planned[4].lost = 2
    asyncio.run(play(port, planned, clients=16, disturbed=True, seed=0))
    found = check(HashedOracle(), planned)
    assert found["wrong"] == 0
    assert found["rewards"] >= 48
    assert found["refused"] >= 42


@pytest.mark.slow
def test_a_thousand_requests_of_64_clients_at_once_are_answered_as_whole_groups(capsys):
    assert serving.main(["--oracle", "benchmarks.serving:Hashed", "--requests", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "calm:      1,000 rewards, 0 refused, 0 wrong" in printed
    assert re.search(r"disturbed: 1,\d+ rewards, \d+ refused, 0 wrong", printed)
    first, _, last = map(int, re.findall(r"\d+", printed.split("memory:")[1].split("MiB")[0]))
    assert last < first + 30


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "runners.serve", "--oracle", "bt", "--task", "symbols", "--port", "0"]
    with subprocess.Popen([*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "judge:   bt\n"
        address = re.fullmatch(r"address: http://duel:(\S+)@\S+:(\d+)\n", server.stdout.readline())
        url = f"http://127.0.0.1:{address[2]}/prob"
        question = {"prompts": ["0"], "first": ["aa"], "second": ["aa"]}
        assert httpx.post(url, json=question).status_code == 401
        assert httpx.post(url, json=question, auth=("duel", address[1])).json() == {"prob": [0.5]}
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130


def test_the_flags_name_all_schedules_and_aggregates():
    assert get_args(Schedule) == serve.SCHEDULES
    assert get_args(Aggregate) == serve.AGGREGATES


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--oracle", "pairm"], 2, "unknown oracle 'pairm'; did you mean 'pairrm'?"),
        (["--oracle", "human"], 1, "people answer on their page"),
        (["--oracle", "pairrm", "--group_size", "1"], 1, "--group_size must be at least 2"),
        (["--oracle", "cyclic"], 1, "prompts"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(words, code, message, capsys):
    assert serve.main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(("given", "kept"), [(None, "0"), ("64", "64")])
def test_one_dnn_keeps_no_shapes_while_the_server_runs_unless_told(given, kept, monkeypatch):
    monkeypatch.setenv(serve.ONEDNN_SHAPES, given or "")  # restored after the test
    if given is None:
        monkeypatch.delenv(serve.ONEDNN_SHAPES)
    seen = []
    monkeypatch.setattr(RewardServer, "run", lambda *_: seen.append(os.environ.get(serve.ONEDNN_SHAPES)))
    assert serve.main(["--oracle", "benchmarks.serving:Hashed"]) == 0
    assert seen == [kept]


def test_a_port_in_use_is_told(capsys):
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main(["--oracle", "benchmarks.serving:Hashed", "--port", port]) == 1
    assert "choose another port" in capsys.readouterr().err
