"""A chat endpoint on this machine that answers and misbehaves as it is told."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from preference_duel.keyed_random import hash_seed


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.served` says."""

    def do_GET(self):
        self.answer(200, {"data": [{"id": "referee"}]})

    def do_POST(self):
        served = self.server.served
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with served.lock:
            served.asked += 1
            misdeed = served.misdeeds.pop(served.asked, served.misdeeds.get("always"))
            served.questions.append((content, {name.lower(): value for name, value in self.headers.items()}))
            served.under_way += 1
            served.most = max(served.most, served.under_way)
        if misdeed == "slow":
            time.sleep(0.8)
        with served.lock:
            served.under_way -= 1  # before the answer: the next question may follow it at once
        refusal = next((text for name, text in served.refusals.items() if refused(name, content)), None)
        if refusal is not None:
            self.answer(400, {"error": refusal})
        elif misdeed in (None, "slow"):
            self.judge(content)
        else:
            self.misbehave(misdeed)

    def misbehave(self, misdeed):
        if misdeed == "garbage":
            self.write(200, b"<html>busy</html>")
        elif misdeed == "binary":
            self.write(200, bytes(range(256)))
        elif misdeed == "list":
            self.answer(200, {"choices": ["B"]})
        elif misdeed == "empty":
            self.answer(200, {"choices": []})
        elif misdeed == "half":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        else:
            self.answer(misdeed, {"error": "not now"})

    def judge(self, content):
        served = self.server.served
        if served.say is not None:
            choice = {"message": {"content": served.say(content)}, "finish_reason": served.finish}
            return self.answer(200, {"choices": [choice]})
        chance = served.chance(content["messages"][0]["content"])
        tops = [
            {"token": letter, "logprob": math.log(max(served.mass * p, 1e-9))}
            for letter, p in zip(served.letters, (chance, 1 - chance), strict=True)
        ]
        choice = {"message": {"content": served.text or served.letters[chance < 0.5]}}
        if served.logprobs:
            choice["logprobs"] = {"content": [{"top_logprobs": tops}] if served.mass else []}
        return self.answer(200, {"choices": [choice]})

    def answer(self, status, content):
        self.write(status, json.dumps(content).encode())

    def write(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def refused(name, content):
    """Whether an endpoint that takes no `name`, or less of it, refuses a request."""
    name, _, most = name.partition(">")
    return name in content and (not most or content[name] > int(most))


class Patient(ThreadingHTTPServer):
    """Keeps all questions waiting: beyond five the system would drop them, to be sent again after a second."""

    request_queue_size = 64


class Served:
    """An OpenAI-compatible server whose every misdeed is set from outside.

    `say` returns the text of the answer to a request, `finish` is why it ends; None: letters with log-probabilities.
    """

    def __init__(self):
        self.asked, self.questions = 0, []
        self.misdeeds = {}
        self.refusals = {}
        self.logprobs, self.letters, self.bias, self.mass, self.text = True, ("A", "B"), 0.0, 1.0, None
        self.say, self.finish = None, "stop"
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        self.server = Patient(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.served = True, self
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"

    def chance(self, text):
        """What it thinks of the first answer: any number of the two, and something for standing first."""
        first, second = (text.split(f"[Answer {label}]\n")[1].split("\n\n[")[0] for label in "AB")
        worth = [hash_seed(one) / 2**63 for one in (first, second)]
        return 1 / (1 + math.exp(worth[1] - worth[0] - self.bias))
