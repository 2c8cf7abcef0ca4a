"""People who judge by a rule, through the same requests as the page's."""

import socket
import threading
import time

import httpx


class Scripted:
    """A person in a thread of its own, from `with` to its end.

    Args:
        address: of the page.
        rule: (prompt, left, right) -> "left", "right" or "tie".
        person: the name.
        most: verdicts after which the person leaves.

    Attributes:
        questions: the numbers of the questions that were answered.
    """

    def __init__(self, address, rule, person="ann", most=None):
        self.address, self.rule, self.person, self.most = address, rule, person, most
        self.questions = []
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._judge)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._leave.set()
        self._thread.join()

    def _judge(self):
        with httpx.Client(base_url=self.address, verify=False) as client:
            while not self._leave.is_set() and len(self.questions) != self.most:
                try:
                    question = client.post("/next", json={"person": self.person}).json()["question"]
                    if question is None:
                        time.sleep(0.02)
                        continue
                    choice = self.rule(question["messages"][-1]["content"], question["left"], question["right"])
                    verdict = {"person": self.person, "question": question["number"], "choice": choice}
                    client.post("/verdict", json=verdict).raise_for_status()
                    self.questions.append(question["number"])
                except httpx.TransportError:  # the run has not begun, or is over
                    time.sleep(0.02)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
