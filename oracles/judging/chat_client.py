"""Requests to an OpenAI-compatible endpoint, repeated after failures and adapted to what it refuses."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from functools import cache
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from oracles.judging.endpoint_config import EndpointConfig
from preference_duel.deferred import deferred
from preference_duel.types import Unanswered

with deferred("httpx"):
    import httpx

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger(__name__)
_ACCOUNT = 401, 402, 403
"""Answers that another key or more credit mends."""
_FEWER = 5
"""Log-probabilities that are asked for if an endpoint refuses more: the limit of OpenAI's."""
_GARBAGE = KeyError, TypeError, IndexError, AttributeError, JSONDecodeError, UnicodeDecodeError
"""Errors of reading an answer that is not in the expected form."""


@cache
def _certificates() -> ssl.SSLContext:
    """Returns one context of TLS for all clients: each would read the list of authorities for 20 ms."""
    return httpx.create_ssl_context()


class ChatClient:
    """Asks an endpoint.

    If it refuses max_tokens, temperature or the number of log-probabilities by name, the request goes on without, which
    is logged.

    Args:
        address: of the endpoint, such as http://localhost:8000/v1.
        config: requests.
    """

    def __init__(self, address: str, config: EndpointConfig) -> None:
        self.address, self.config = address, config
        self._parameters, self._lock, self._asked = config.parameters, threading.Lock(), 0
        key = os.environ.get(config.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout, verify=_certificates())

    def first_model(self) -> str:
        """Returns the name of the first model that the endpoint lists.

        Raises:
            Unanswered: if it lists none.
        """
        return self._send("GET", "/models", None, lambda answer: answer["data"][0]["id"])

    def ask(self, content: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        """Returns what `read` makes of the answer to a question, whose other fields are the configuration's.

        Raises:
            Unanswered: if there is no answer after all repetitions, or the budget is spent.
            ValueError: if the endpoint refuses the question.
        """
        with self._lock:
            if self._asked == self.config.budget:
                raise Unanswered(
                    f"the budget of {self._asked} questions to {self.address} is spent (--oracle.endpoint.budget); "
                    f"a resumed run has as many again, and --oracle.endpoint.cache keeps answers from being asked twice"
                )
            self._asked += 1
        return self._send("POST", "/chat/completions", content, read)

    def _send(self, verb: str, path: str, content: Any, read: Callable[[Any], Any]) -> Any:
        """Returns what `read` makes of an answer, repeated after a failure."""
        wait, failure = self.config.backoff, ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(wait)
                wait = min(30.0, 2 * wait)
            try:
                response = self._request(verb, path, content)
                if response.is_success:
                    return read(response.json())
                failure = f"{response.status_code}: {response.text[:200]}"
                if response.status_code in _ACCOUNT:
                    raise Unanswered(f"{self.address}{path} refuses the account or its key with {failure}")
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    raise ValueError(
                        f"{self.address}{path} refuses the question with {failure}; fields of the request are set by "
                        f"--oracle.endpoint.max_tokens, temperature, top_logprobs, logprobs and extra"
                    )
                with contextlib.suppress(KeyError, ValueError):
                    wait = min(30.0, max(wait, float(response.headers["retry-after"])))
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {error}"
            except _GARBAGE as error:
                failure = f"no answer in the expected form ({type(error).__name__}: {error})"
        raise Unanswered(f"{self.address}{path} failed {self.config.retries + 1} times, the last time with {failure}")

    def _request(self, verb: str, path: str, content: Any) -> httpx.Response:
        """Returns the answer to one request, sent again with other parameters as long as one is refused by name."""
        while True:
            sent = self._parameters
            body = None if content is None else sent | content
            response = self._client.request(verb, self.address + path, json=body)
            if body is None or response.status_code not in (400, 422) or not self._step_down(sent, response.text):
                return response

    def _step_down(self, sent: dict[str, Any], refusal: str) -> bool:
        """Replaces a parameter that was refused by its name, each once; returns whether to ask again."""
        named = _refused(refusal)
        with self._lock:
            if self._parameters is not sent:
                return True  # another question was refused first
            if "max_tokens" in named and "max_tokens" in sent:
                name, new = "max_tokens", {"max_completion_tokens": sent["max_tokens"]}
            elif "temperature" in named and "temperature" in sent:
                name, new = "temperature", {}
            elif "top_logprobs" in named and sent.get("top_logprobs", 0) > _FEWER:
                name, new = "top_logprobs", {"top_logprobs": _FEWER}
            else:
                return False
            self._parameters = {key: value for key, value in sent.items() if key != name} | new
        instead = ", ".join(f"{key}={value}" for key, value in new.items()) or f"the endpoint's own {name}"
        _log.warning("%s refuses %s=%s, so %s is taken: %s", self.address, name, sent[name], instead, refusal[:200])
        return True


def _refused(refusal: str) -> set[str]:
    """Returns the names in a refusal: the parameter if it says which, else all words of it."""
    with contextlib.suppress(*_GARBAGE):
        if isinstance(name := json.loads(refusal)["error"]["param"], str):
            return {name}
    return set(re.findall(r"\w+", refusal))
