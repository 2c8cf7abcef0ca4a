"""The page on which people judge, and its server."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import secrets
import threading
from collections.abc import Awaitable, Callable
from importlib.resources import files
from json import JSONDecodeError
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from oracles.human.listener import LOOPBACK, LOOPBACK_NAMES, address_of, listen, same
from oracles.human.verdict_store import CHOICES, VerdictStore

LONGEST_NAME = 80
_PARTS = re.compile(r"<(style|script)>(.*?)</\1>", flags=re.DOTALL)
_REFUSED = "The question was answered by others meanwhile; your verdict was not counted."
_NO_UNDO = "Nothing to undo: verdicts that were used already stay."
_WRONG_TOKEN = "The address lacks the right token: open the one that the program printed."

Act = Callable[[str, dict[str, Any]], str]
"""Does what a person wants, by a request's content; returns a notice for the person, or ""."""


def make_app(store: VerdictStore, token: str = "", planned: int | None = None) -> Starlette:
    """Returns the web application.

    Args:
        store: of the questions and verdicts.
        token: a secret that every request must bring; "": none, and only requests to a loopback address are served.
        planned: verdicts of the whole run at most; None: not known.
    """
    page = files("oracles.human").joinpath("page.html").read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": _policy(page), "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

    async def show(request: Request) -> Response:
        if not same(request.query_params.get("token", ""), token):
            return PlainTextResponse(_WRONG_TOKEN, 403)
        return HTMLResponse(page, headers=headers)

    def answer(person: str, content: dict[str, Any]) -> str:
        question, choice = content.get("question"), content.get("choice")
        if choice not in CHOICES or not isinstance(question, int):
            raise ValueError(f"expected the number of a question and one of {CHOICES}, got {question!r} and {choice!r}")
        return "" if store.answer(person, question, choice) else _REFUSED

    acts: dict[str, Act] = {
        "/next": lambda person, content: "",
        "/verdict": answer,
        "/undo": lambda person, content: "" if store.undo(person) else _NO_UNDO,
    }
    routes = [Route("/", show)]
    routes += [Route(path, _respond(act, store, token, planned), methods=["POST"]) for path, act in acts.items()]
    # Without a token, another site could point a name of its own at this machine.
    guard = [] if token else [Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES, www_redirect=False)]
    return Starlette(routes=routes, middleware=guard)


def _respond(
    act: Act, store: VerdictStore, token: str, planned: int | None
) -> Callable[[Request], Awaitable[Response]]:
    """Returns an endpoint at which a person does something and gets what its page shows next."""

    async def respond(request: Request) -> Response:
        if not same(request.headers.get("x-token", ""), token):
            return JSONResponse({"error": _WRONG_TOKEN}, 403)
        if not request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse({"error": "expected JSON"}, 415)  # which no form of another site can send
        try:
            content = await request.json()
            person = _name(content)
            notice = act(person, content)
        except (JSONDecodeError, UnicodeDecodeError):
            return JSONResponse({"error": "broken JSON"}, 400)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(_state(store, person, planned) | {"notice": notice})

    return respond


class PageServer:
    """Serves the page in a thread of its own.

    Attributes:
        address: to open in a browser, with the token if it needs one.

    Args:
        store: of the questions and verdicts.
        host: interface to listen on; beyond loopback a token is needed, which is drawn.
        port: to listen on; 0: any that is free.
        planned: verdicts of the whole run at most; None: not known.

    Raises:
        OSError: if the port can't be had.
    """

    def __init__(self, store: VerdictStore, host: str, port: int, planned: int | None = None) -> None:
        token = "" if host in LOOPBACK else secrets.token_urlsafe(16)
        listener = listen(host, port)
        query = f"/?token={token}" if token else "/"
        self.address = f"http://{address_of(listener, host)}{query}"
        config = uvicorn.Config(
            make_app(store, token, planned), log_config=None, log_level="error", access_log=False, lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server."""
        self._server.should_exit = True
        self._thread.join(timeout=5)


def _name(content: Any) -> str:
    """Returns the person's name.

    Raises:
        ValueError: if there is none.
    """
    name = content.get("person") if isinstance(content, dict) else None
    name = " ".join(name.split()) if isinstance(name, str) else ""
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"Please enter a name of 1 to {LONGEST_NAME} characters.")
    return name


def _state(store: VerdictStore, person: str, planned: int | None) -> dict[str, Any]:
    """Returns what a person's page shows."""
    question = store.question(person)
    return {
        "question": None if question is None else dataclasses.asdict(question),
        "progress": dataclasses.asdict(store.progress(person)),
        "given": store.given(),
        "planned": planned,
    }


def _policy(page: str) -> str:
    """Returns a content security policy under which only the page's own script and style work."""
    hashes = {
        part: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for part, text in _PARTS.findall(page)
    }
    sources = "; ".join(f"{part}-src 'sha256-{digest}'" for part, digest in hashes.items())
    none = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {sources}; connect-src 'self'; {none}"
