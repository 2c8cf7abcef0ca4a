"""A policy and its card on a hub of this machine, which speaks as the Hugging Face hub does."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import yaml

from runners.publishing.model_card import read_saved_policy, settings_file
from runners.push import main
from runners.run.cli import parse
from runners.run.config_file import read_settings
from runners.run.record import Record
from tests.tiny_models import write_model

LINES = {
    "text": "--task chat --agent ipo --oracle bt --run.steps 1",
    "finite": "--task symbols --policy tiny --agent sppo --oracle cyclic --run.steps 1",
    "table": "--task symbols --policy tabular --agent sppo --oracle cyclic --run.steps 1",
}
RATE = {"eval/win_rate_vs_ref": 0.5, "eval/win_rate_low": 0.4, "eval/win_rate_high": 0.6}
BOUND = {f"eval/exploitability_lower{end}": p for end, p in (("", 0.25), ("_low", 0.125), ("_high", 0.375))}
MEASURES = {
    "text": ({**RATE, **BOUND}, {**RATE, "eval/win_rate_vs_ref": 0.55, **BOUND, "eval/exploitability_lower": 0.2}),
    "finite": ({**RATE, "game/exploitability": 0.3}, {**RATE, "game/exploitability": 0.1}),
    "table": (),
}


class Handler(BaseHTTPRequestHandler):
    """Takes a repository and a commit: small files in the commit, weights by LFS, as the hub asks for them."""

    def do_POST(self):
        hub, content = self.server.hub, self.rfile.read(int(self.headers["content-length"]))
        hub.asked.append(self.path)
        if hub.refusal is not None:
            return self.answer(hub.refusal, {"error": "you can't write here"})
        if self.headers["authorization"] != "Bearer hf_token":
            return self.answer(401, {"error": "no token"})
        if self.path == "/api/repos/create":
            hub.created = json.loads(content)
            return self.answer(200, {"url": f"{hub.address}/my-lab/first"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/models/my-lab/first/preupload/main":
            names = [one["path"] for one in json.loads(content)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            rows = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return self.answer(200, {"files": rows})
        if self.path == "/my-lab/first.git/info/lfs/objects/batch":
            objects = json.loads(content)["objects"]
            upload = [{**one, "actions": {"upload": {"href": f"{hub.address}/put/{one['oid']}"}}} for one in objects]
            return self.answer(200, {"transfer": "basic", "objects": upload})
        assert self.path == "/api/models/my-lab/first/commit/main"
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                hub.files[line["value"]["path"]] = hub.stored[line["value"]["oid"]]
        return self.answer(200, {"commitUrl": f"{hub.address}/my-lab/first/commit/abc", "commitOid": "abc"})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.hub.stored[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, {})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Hub:
    """What was sent to it; `refusal` is the status that it answers everything with."""

    def __init__(self):
        self.asked, self.files, self.stored, self.created, self.refusal = [], {}, {}, None, None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub, self.server.daemon_threads = self, True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def hub(monkeypatch):
    one = Hub()
    for name, value in {"ENDPOINT": one.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories as a run leaves them, after a step that changed nothing."""
    folder = tmp_path_factory.mktemp("runs")
    for name, line in LINES.items():
        command = parse(line.split())
        record = Record(folder / name, command.settings, command.arguments, "cpu", 1)
        for step, scalars in enumerate(MEASURES[name]):
            record.log(step, {"duel/queries": 1000 * step, **scalars})
        record.close()
        policy = folder / name / "step-1" / "policy"
        policy.mkdir(parents=True)
        if name != "table":
            write_model(policy)
    return folder


def front_matter(card):
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_policy_lies_on_the_hub_as_it_was_saved_with_a_card(hub, runs, capsys):
    assert main([str(runs / "text"), "my-lab/first", "--license", "mit", "--private"]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.address}/my-lab/first"
    assert hub.created == {"name": "first", "organization": "my-lab", "visibility": "private"}
    folder = runs / "text" / "step-1" / "policy"
    saved = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert saved.items() <= hub.files.items()
    assert hub.files.keys() - saved.keys() == {"README.md", "preference_duel.json"}
    assert "model.safetensors" in saved
    front, text = front_matter(hub.files["README.md"].decode())
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["preference-duel", "ipo", "bt"],
    }
    assert "| win rate against the start | 0.500 [0.400, 0.600] | 0.550 [0.400, 0.600] |\n" in text
    assert "| exploitability, at least | 0.250 [0.125, 0.375] | 0.200 [0.125, 0.375] |\n" in text
    assert "after 1 updates and 1,000 oracle queries" in text
    assert f"```\npython -m runners.duel {LINES['text']}\n```\n" in text
    assert f"transformers {json.loads(hub.files['preference_duel.json'])['versions']['transformers']}" in text


def test_the_settings_on_the_hub_are_those_of_the_run(hub, runs, tmp_path):
    assert main([str(runs / "finite"), "my-lab/first"]) == 0
    (tmp_path / "run.json").write_bytes(hub.files["preference_duel.json"])
    again, ran = parse(["--config", str(tmp_path / "run.json")]).settings, read_settings(runs / "finite")
    assert (again.names, again.configs) == (ran.names, ran.configs)
    assert again.run == ran.run
    assert str(runs) not in hub.files["preference_duel.json"].decode()


def test_a_finite_task_has_its_exact_exploitability_on_the_card(runs, capsys):
    assert main([str(runs / "finite"), "my-lab/first", "--dry_run", "--base_model", "lab/base"]) == 0
    front, text = front_matter(capsys.readouterr().out)
    assert front["base_model"] == "lab/base"
    assert "license" not in front
    assert "| exploitability, exact | 0.300 | 0.100 |\n" in text
    assert "at least" not in text


def test_the_model_on_the_hub_that_was_trained_is_named_and_no_token_in_an_address(runs, tmp_path, capsys):
    config = json.loads((runs / "finite" / "config.json").read_text())
    config["names"]["policy"] = "Qwen/Qwen3-0.6B"
    config["command"] += ["--oracle.of", "https://me:secret@judge.example/v1"]
    config["oracle"]["of"] = "https://me:secret@judge.example/v1"
    (tmp_path / "step-1" / "policy").mkdir(parents=True)
    (tmp_path / "step-1" / "policy" / "config.json").touch()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main([str(tmp_path), "my-lab/first", "--dry_run"]) == 0
    card = capsys.readouterr().out
    assert front_matter(card)[0]["base_model"] == "Qwen/Qwen3-0.6B"
    assert "https://judge.example/v1" in card
    assert "secret" not in card
    assert "did not evaluate its policy at step 1" in card
    assert "secret" not in settings_file(read_saved_policy(tmp_path))


@pytest.mark.parametrize(
    ("run", "repository", "message"),
    [
        ("none", "my-lab/first", "none is no run directory"),
        ("table", "my-lab/first", "policy is no transformers folder (--policy tabular, --agent sppo)"),
        ("text", "first", "the repository must be OWNER/NAME, such as my-lab/sppo-tiny, got 'first'"),
    ],
)
def test_what_can_not_be_published_is_told_before_the_hub_is_asked(hub, runs, capsys, run, repository, message):
    assert main([str(runs / run), repository]) == 1
    assert message in capsys.readouterr().err
    assert hub.asked == []


def test_a_hub_that_can_not_be_written_is_told_in_one_line(hub, runs, capsys, monkeypatch, tmp_path):
    def error():
        assert main([str(runs / "text"), "my-lab/first"]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    hub.refusal = 403
    assert f"{hub.address} refuses my-lab/first with 403: you can't write here; may this token write" in error()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "offline: HF_HUB_OFFLINE is set, and my-lab/first was not changed" in error()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 can't be reached (ConnectError" in error()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token of the hub: log in with `hf auth login`, or set HF_TOKEN" in error()
    assert not hub.files
