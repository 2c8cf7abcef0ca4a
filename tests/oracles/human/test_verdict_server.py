import socket

import pytest
from starlette.testclient import TestClient

from oracles.human.verdict_server import PageServer, make_app
from oracles.human.verdict_store import VerdictStore


@pytest.fixture
def store(tmp_path):
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    store.ask([("prompt", "a", "b"), ("prompt", "a", "c")])
    yield store
    store.close()


@pytest.fixture
def client(store):
    return TestClient(make_app(store, planned=7), base_url="http://127.0.0.1:8765")


def post(client, path, status=200, **content):
    answer = client.post(path, json={"person": "ann", **content})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_person_gets_a_question_judges_and_gets_the_next_one(client, store):
    state = post(client, "/next")
    question = state["question"]
    assert question["messages"] == [{"role": "user", "content": "prompt"}]
    assert {question["left"], question["right"]} == {"a", "b"}
    assert state["progress"] == {"given": 0, "total": 2, "own": 0}
    assert (state["given"], state["planned"]) == (0, 7)
    assert post(client, "/next")["question"] == question
    state = post(client, "/verdict", question=question["number"], choice="tie")
    assert state["progress"] == {"given": 1, "total": 2, "own": 1}
    assert {state["question"]["left"], state["question"]["right"]} == {"a", "c"}
    assert store.share(question["number"], "a") == 0.5
    state = post(client, "/undo")
    assert state["question"] == question
    assert post(client, "/undo")["notice"].startswith("Nothing to undo")


def test_a_verdict_on_the_question_of_another_person_is_refused(client, store):
    question = post(client, "/next")["question"]["number"]
    state = post(client, "/verdict", person="bob", question=question, choice="left")
    assert "answered by others" in state["notice"]
    assert state["question"]["number"] != question
    assert store.given() == 0


@pytest.mark.parametrize("person", ["", "  ", None, 3, "x" * 81])
def test_a_name_is_needed(client, person):
    assert "Please enter a name" in post(client, "/next", 400, person=person)["error"]


def test_names_that_look_alike_are_one_person(client):
    question = post(client, "/next")["question"]
    assert post(client, "/next", person=" ann \n")["question"] == question


def test_a_broken_request_is_refused_and_keeps_nothing(client, store):
    for content in ({"question": 1, "choice": "both"}, {"question": "1", "choice": "left"}, {"choice": "left"}):
        assert "expected the number of a question" in post(client, "/verdict", 400, **content)["error"]
    assert client.post("/next", content="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post("/next", json=[1]).status_code == 400
    assert client.post("/next", content='{"person": "ann"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.get("/next").status_code == 405
    assert post(client, "/verdict", question=99, choice="left")["notice"]
    assert store.given() == 0


def test_without_a_token_only_requests_to_this_machine_are_served(store):
    app = make_app(store)
    for host, status in (("127.0.0.1", 200), ("localhost:8765", 200), ("evil.example", 400)):
        assert TestClient(app, base_url=f"http://{host}").get("/").status_code == status


def test_a_wrong_token_opens_nothing(store):
    client = TestClient(make_app(store, token="secret"), base_url="http://machine.example")
    assert client.get("/?token=secret").status_code == 200
    for address in ("/", "/?token=", "/?token=wrong", "/?token=s%C3%A9cret"):
        answer = client.get(address)
        assert (answer.status_code, answer.text.count("token")) == (403, 1)
    assert "token" in post(client, "/next", 403)["error"]
    assert client.post("/next", json={"person": "ann"}, headers={"X-Token": "secret"}).status_code == 200


def test_the_page_allows_no_script_but_its_own(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert "innerHTML" not in page.text
    assert page.text.count("<script>") == 1


def test_beyond_loopback_the_address_has_a_token(store):
    for host, needs in (("127.0.0.1", False), ("0.0.0.0", True)):
        server = PageServer(store, host, 0)
        assert ("?token=" in server.address) == needs
        server.close()


def test_a_port_in_use_is_refused_in_a_line(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"can't listen on port {port} of 127.0.0.1: Address already in use; choose"):
            PageServer(store, "127.0.0.1", port)
