"""The web application that answers trainers, and its server."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgpack
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from oracles.human.listener import LOOPBACK_NAMES, address_of, listen, same
from oracles.serving import wire
from oracles.serving.batches import PROB, Batches, OracleError, Reduction
from oracles.serving.cohorts import Cohorts, ConflictError, DisconnectedError, MissingSiblingsError
from preference_duel.protocols import Oracle

Act = Callable[[Any, asyncio.Future[Any]], Awaitable[Any]]
"""Answers a request's content; the future is done as soon as the caller is gone."""
MSGPACK = "application/msgpack"
JSON = "application/json"
STATUS: dict[type[Exception], int] = {
    ValueError: 400,  # the request does not fit
    ConflictError: 409,
    DisconnectedError: 499,  # which nobody reads
    OracleError: 502,
    MissingSiblingsError: 503,
}


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server's rewards.

    Attributes:
        group_size: completions of a prompt that make a group, if a request does not say; None: it must.
        reduction: which of them meet, and what the comparisons are worth.
        wait: seconds that a request waits for its group to be whole.
        retry: seconds for which a completion without an open request is kept.
        batch_size: completions that are asked about together at most.
        ends: texts at the first of which OpenRLHF's responses end.
    """

    group_size: int | None = None
    reduction: Reduction = PROB
    wait: float = 120.0
    retry: float = 10.0
    batch_size: int = 256
    ends: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.group_size is not None and self.group_size < 2:
            raise ValueError(f"--group_size must be at least 2, got {self.group_size}: one has no other to beat")
        if self.batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {self.batch_size}")
        if not self.wait > 0 or not self.retry >= 0:
            raise ValueError(
                f"--wait must be above 0 and --retry at least 0 seconds, got {self.wait:g}, {self.retry:g}"
            )


class RewardServer:
    """Answers trainers: see docs/serve.md.

    Args:
        oracle: answers.
        settings: how groups are rewarded.
        token: a secret that every request must bring; "": none, and only requests to a loopback address are served.

    Attributes:
        app: the web application.
        batches: of questions.
        cohorts: the groups that are not whole.
        answered: requests by path and status.
    """

    def __init__(self, oracle: Oracle, settings: ServerSettings, token: str = "") -> None:
        self.settings, self._token = settings, token
        self.batches = Batches(oracle, settings.batch_size)
        self.cohorts = Cohorts(self._score, wait=settings.wait, retry=settings.retry)
        self.answered: Counter[tuple[str, int]] = Counter()
        acts: dict[str, Act] = {
            "/prob": self._prob,
            "/get_reward": self._reward,
            "/compare": self._compare,
            "/verify": self._verify,
            "/seed_session": self._seed_session,
            "/get_feedback": self._feedback,
        }
        routes = [Route(path, self._endpoint(path, act), methods=["POST"]) for path, act in acts.items()]
        routes.append(Route("/metrics", self._metrics))
        # Without a token, another site could point a name of its own at this machine.
        local = Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES, www_redirect=False)
        self.app = Starlette(routes=routes, middleware=[] if token else [local], lifespan=self._lifespan)

    def run(self, host: str, port: int, announce: Callable[[str], None] = print) -> None:
        """Serves until Ctrl-C.

        Args:
            host: interface to listen on.
            port: 0: any that is free.
            announce: is told the address.

        Raises:
            OSError: if the port can't be had.
        """
        listener = listen(host, port)
        login = f"duel:{self._token}@" if self._token else ""
        announce(f"http://{login}{address_of(listener, host)}")
        config = uvicorn.Config(
            self.app, log_config=None, log_level="error", access_log=False, timeout_graceful_shutdown=1,
            timeout_keep_alive=75,  # longer than trainers' pools keep an idle connection, so that they close it first
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])

    async def _prob(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        del gone
        return {"prob": await self._pairs(*wire.read_prob(content))}

    async def _feedback(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        del gone
        return wire.write_feedback(await self._pairs(*wire.read_feedback(content)))

    async def _reward(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        samples = wire.read_reward(content, self.settings.group_size, self.settings.ends)
        return wire.write_reward(await self.cohorts.rewards(samples, gone) if samples else [])

    async def _verify(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        sample = wire.read_verify(content, self.settings.group_size)
        (reward,) = await self.cohorts.rewards([sample], gone)
        return wire.write_verify(content, reward)

    async def _compare(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        del gone
        prompt, completions = wire.read_compare(content)
        return wire.write_compare(await self.batches.rewards([prompt], [completions], self.settings.reduction))

    async def _seed_session(self, content: Any, gone: asyncio.Future[Any]) -> Any:
        """Answers NeMo-Gym's agents, which begin every rollout with it."""
        del content, gone
        return {}

    async def _pairs(self, prompts: list[str], pairs: list[tuple[str, str]]) -> list[float]:
        return (await self.batches.rewards(prompts, pairs, PROB)).rewards[:, 0].tolist() if prompts else []

    async def _score(self, prompt: str, completions: list[str]) -> list[float]:
        return (await self.batches.rewards([prompt], [completions], self.settings.reduction)).rewards[0].tolist()

    def _endpoint(self, path: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        packed = path == "/get_feedback"

        async def respond(request: Request) -> Response:
            status, content = self._refusal(request) or await _outcome(request, act, packed)
            self.answered[path, status] += 1
            if packed and status == 200:
                return Response(msgpack.packb(content), media_type=MSGPACK)
            headers = {"Retry-After": "1"} if status == 503 else None
            return Response(json.dumps(content), status, headers, JSON)

        return respond

    def _refusal(self, request: Request) -> tuple[int, dict[str, str]] | None:
        """Returns why a request is not served."""
        if request.headers.get("origin"):
            return 403, {"error": "a page in a browser can't ask: trainers send no Origin header"}
        if not same(_password(request.headers.get("authorization", "")), self._token):
            return 401, {"error": "the token is missing or wrong: use the address that the program printed"}
        return None

    async def _metrics(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return PlainTextResponse(refusal[1]["error"], refusal[0])
        return PlainTextResponse(self.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def metrics(self) -> str:
        """Returns all numbers in Prometheus' text format."""
        cohorts, batches = self.cohorts.counts, self.batches.counts
        answered = {f'path="{path}",status="{status}"': n for (path, status), n in sorted(self.answered.items())}
        families: list[tuple[str, str, str, dict[str, float]]] = [
            ("requests_total", "counter", "Requests that were answered.", dict(answered)),
            (
                "cohorts_total",
                "counter",
                "Groups that came one by one and were whole, by whether the oracle answered.",
                {'answered="yes"': cohorts["whole"], 'answered="no"': cohorts["failed"]},
            ),
            ("shared_total", "counter", "Requests for a completion that had come before.", {"": cohorts["shared"]}),
            ("incomplete_total", "counter", "Requests whose group was not whole in time.", {"": cohorts["incomplete"]}),
            ("dropped_total", "counter", "Requests that the caller broke off.", {"": cohorts["dropped"]}),
            ("kept", "gauge", "Completions that wait, or are kept for a retry.", {"": self.cohorts.kept}),
            ("oracle_batches_total", "counter", "Batches that the oracle answered.", {"": batches["batches"]}),
            ("oracle_groups_total", "counter", "Groups and pairs that were compared.", {"": batches["groups"]}),
            ("oracle_questions_total", "counter", "Questions to the oracle.", {"": batches["questions"]}),
            ("oracle_unanswered_total", "counter", "Comparisons that it left open.", {"": batches["unanswered"]}),
            ("oracle_seconds_total", "counter", "Seconds that the oracle took.", {"": self.batches.seconds}),
        ]
        lines = []
        for name, kind, text, values in families:
            lines += [f"# HELP duel_{name} {text}", f"# TYPE duel_{name} {kind}"]
            lines += [f"duel_{name}{f'{{{label}}}' if label else ''} {value:.10g}" for label, value in values.items()]
        return "\n".join([*lines, ""])

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        self.batches.close()


async def _outcome(request: Request, act: Act, packed: bool) -> tuple[int, Any]:
    """Returns the status and the content of an answer."""
    body = await request.body()
    gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # which now gives nothing but the end
    try:
        return 200, await act(_decoded(body, packed), gone)
    except tuple(STATUS) as error:
        return next(status for kind, status in STATUS.items() if isinstance(error, kind)), {"error": str(error)}
    finally:
        gone.cancel()


def _decoded(body: bytes, packed: bool) -> Any:
    try:
        return msgpack.unpackb(body) if packed else json.loads(body)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"expected {MSGPACK if packed else JSON}, got {body[:40]!r}: {error}") from error


def _password(authorization: str) -> str:
    """Returns the secret of an Authorization header: a bearer's, or the password of an address http://duel:TOKEN@..."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except ValueError:
            return ""
    return value
