"""`python -m benchmarks.serving`: correctness and speed of `runners.serve` under load.

64 clients send the completions of many groups interleaved, each group spread over as many clients as it has
completions: first all of them once, to be timed against the oracle that is called directly in batches; then with
duplicates, delays, connections that break and come again, and completions that never come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
import uvicorn

from benchmarks.timing import machine
from envs.tasks.task import make_task
from oracles.group_rewards import group_rewards
from oracles.human.listener import listen
from oracles.registry import make
from oracles.serving.reward_server import RewardServer
from preference_duel.protocols import Oracle, forget
from runners.serve import keep_no_shapes

TOLERANCE = 1e-5
"""Largest difference that a batch's other rows make to a network's answer."""
FATES = "twice", "plain", "late", "broken"
"""A completion is sent twice at the same time; once; after a pause; or broken off and sent again."""
LOST = 0.02
"""Share of groups of which one completion never comes."""
TRIES = {True: 3, False: 30}
"""Requests for a completion that is refused, by whether its group can't be whole."""


@dataclass(frozen=True)
class Hashed:
    """An oracle that takes no time: P is a number made of the texts."""

    def build(self, *, prompts: Any = None, responses: Any = None, device: str = "cpu") -> HashedOracle:
        """Returns the oracle."""
        del prompts, responses, device
        return HashedOracle()


class HashedOracle:
    """See `Hashed`."""

    antisymmetric = True

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """Returns [N] P(first beats second)."""
        left, right = (
            [zlib.crc32(f"{prompt}{text}".encode()) / 2**32 for prompt, text in zip(prompts, texts, strict=True)]
            for texts in (first, second)
        )
        return (1 + torch.tensor(left, dtype=torch.float64) - torch.tensor(right, dtype=torch.float64)) / 2


@dataclass
class Group:
    """Completions of one prompt, and what the server said.

    Attributes:
        number: its id.
        prompt: the question.
        texts: the completions.
        named: whether requests name the completion, in /verify, or are OpenRLHF's, which do not.
        lost: the completion that never comes; None: all come.
        rewards: by completion, each answer that was a reward.
        refused: answers of 503.
        broken: completions whose connection is still to break.
    """

    number: int
    prompt: str
    texts: list[str]
    named: bool
    lost: int | None = None
    rewards: dict[int, list[float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)


class Connection:
    """One connection to the server, of HTTP/1.1."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, path: str, content: Any) -> asyncio.StreamReader:
        """Sends a request; returns where the answer is to be read."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = json.dumps(content).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return reader

    async def post(self, path: str, content: Any) -> tuple[int, Any]:
        """Returns status and content of the answer."""
        reader = await self.send(path, content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        return int(head.split(" ", 2)[1]), json.loads(await reader.readexactly(int(length[1])))

    def close(self) -> None:
        """Breaks the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def request(group: Group, i: int) -> tuple[str, dict[str, Any]]:
    """Returns path and content of the request for a completion."""
    if not group.named:
        return "/get_reward", {"query": [group.prompt + group.texts[i]], "prompts": [group.prompt], "labels": [""]}
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": group.texts[i]}]}]
    return "/verify", {
        "responses_create_params": {"input": [{"role": "user", "content": group.prompt}]},
        "response": {"id": "r", "object": "response", "output": output},
        "_ng_task_index": group.number,
        "_ng_rollout_index": i,
    }


def groups(count: int, size: int, seed: int) -> list[Group]:
    """Returns groups with prompts of the shipped task, made different by their number, and completions of its words."""
    chance = random.Random(seed)
    prompts = make_task("chat").prompts
    words = sorted({word for prompt in prompts for word in prompt.split()})
    return [
        Group(
            number,
            f"{chance.choice(prompts)} ({number})",
            [" ".join(chance.choices(words, k=chance.randint(3, 12))) for _ in range(size)],
            named=number % 2 == 0,
        )
        for number in range(count)
    ]


async def play(port: int, planned: Sequence[Group], clients: int, disturbed: bool, seed: int) -> float:
    """Lets the clients send all completions; returns the seconds.

    Waves of as many requests as there are clients hold whole groups: a client may be waves ahead of others, but all
    groups of the earliest wave can be whole, so that no client waits for ever.
    """
    chance = random.Random(seed)
    size = len(planned[0].texts)
    plans: list[list[tuple[Group, int, str]]] = [[] for _ in range(clients)]
    for start in range(0, len(planned), clients // size):
        wave = [(group, i) for group in planned[start : start + clients // size] for i in range(size)]
        for client, (group, i) in zip(chance.sample(range(clients), len(wave)), wave, strict=True):
            plans[client].append((group, i, _fate(group, i, chance) if disturbed else "plain"))
    start = time.perf_counter()
    await asyncio.gather(*(_client(port, plan, random.Random(f"{seed} {i}")) for i, plan in enumerate(plans)))
    return time.perf_counter() - start


def _fate(group: Group, i: int, chance: random.Random) -> str:
    """Draws what happens to a request.

    None of OpenRLHF's is sent twice at the same time, which would be two completions: nothing tells them apart.
    """
    fate = chance.choice(FATES if group.named else FATES[1:])
    if not group.named and i == 0:
        return "last"
    if fate == "broken":
        group.broken.add(i)
    return fate


async def _client(port: int, plan: Sequence[tuple[Group, int, str]], chance: random.Random) -> None:
    connection, aside = Connection(port), []
    for group, i, fate in plan:
        if group.lost is not None:
            if group.lost != i:  # in the background, or the refusals of one group would hold up others
                aside.append(asyncio.create_task(_answer(Connection(port), group, i)))
            continue
        if fate == "twice":
            aside.append(asyncio.create_task(_answer(Connection(port), group, i)))
        if fate == "late":
            await asyncio.sleep(chance.uniform(0, 0.2))
        if fate == "broken":
            await connection.send(*request(group, i))
            await asyncio.sleep(chance.uniform(0, 0.05))
            connection.close()
            group.broken.discard(i)
            await asyncio.sleep(chance.uniform(0.05, 0.2))
        while fate == "last" and group.broken:  # a reward that was sent and lost could not be asked for again
            await asyncio.sleep(0.01)
        await _answer(connection, group, i)
    connection.close()
    await asyncio.gather(*aside)


async def _answer(connection: Connection, group: Group, i: int) -> None:
    for _ in range(TRIES[group.lost is not None]):
        status, content = await connection.post(*request(group, i))
        if status == 200:
            group.rewards.setdefault(i, []).append(content["reward"] if group.named else content["rewards"][0])
            return
        if status != 503:
            raise AssertionError(f"status {status}: {content}")
        group.refused.append(content["error"])
    connection.close()


def check(oracle: Oracle, planned: Sequence[Group]) -> Counter[str]:
    """Compares every answer with `group_rewards` of the whole group; counts rewards, refusals and what is wrong.

    Wrong are another reward, a reward of a group that was never whole, a completion of a whole group without a reward,
    and a refusal that does not name what is missing.
    """
    found: Counter[str] = Counter(rewards=0, refused=0, wrong=0)
    for group in planned:
        answers = [(i, reward) for i, rewards in group.rewards.items() for reward in rewards]
        found["rewards"] += len(answers)
        found["refused"] += len(group.refused)
        named = rf"missing: .*\b{group.lost}\b" if group.named and group.lost is not None else "missing: "
        found["wrong"] += sum(re.search(named, error) is None for error in group.refused)
        if group.lost is not None:
            found["wrong"] += len(answers) + (len(group.refused) < TRIES[True] * (len(group.texts) - 1))
            continue
        expected = group_rewards(oracle, [group.prompt], [group.texts]).rewards[0]
        forget(oracle)
        found["wrong"] += sum(abs(reward - float(expected[i])) > TOLERANCE for i, reward in answers)
        found["wrong"] += len(group.texts) - len(group.rewards)
    return found


def direct(oracle: Oracle, planned: Sequence[Group], batch: int) -> tuple[float, float]:
    """Returns the seconds, and those of the processor, in which the oracle itself rewards groups in batches."""
    start, work = time.perf_counter(), time.process_time()
    for first in range(0, len(planned), batch):
        part = planned[first : first + batch]
        group_rewards(oracle, [group.prompt for group in part], [group.texts for group in part])
        forget(oracle)
    return time.perf_counter() - start, time.process_time() - work


@contextmanager
def served(oracle: str, *flags: str) -> Iterator[tuple[int, psutil.Process]]:
    """Starts `runners.serve`; gives its port and its process."""
    command = [sys.executable, "-m", "runners.serve", "--oracle", oracle, "--port", "0", "--device", "cpu", *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        yield int(server.stdout.readline().rsplit(":", 1)[1]), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


@contextmanager
def in_thread(server: RewardServer) -> Iterator[int]:
    """Serves in a thread of this process; gives the port."""
    listener = listen("127.0.0.1", 0)
    web = uvicorn.Server(uvicorn.Config(server.app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        web.should_exit = True
        thread.join(10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints speed and faults; returns 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--oracle", default="pairrm", help="without fields (default: pairrm)")
    parser.add_argument("--requests", type=int, default=10000, help="of either kind (default: 10000)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: 64)")
    parser.add_argument("--group_size", type=int, default=8, help="completions of a prompt (default: 8)")
    parser.add_argument("--wait", type=float, default=2.0, help="seconds until a group is refused (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    keep_no_shapes()  # the oracle called directly is that of the server
    clients, size, seed = options.clients, options.group_size, options.seed
    number, batch = options.requests // size, clients // size
    oracle = make(options.oracle)
    planned = groups(2 * number + 4 * batch, size, seed)
    calm, disturbed, warm = planned[:number], planned[number : 2 * number], planned[2 * number :]
    chance = random.Random(seed)
    for group in chance.sample(disturbed, max(1, round(LOST * number))):
        group.lost = chance.randrange(size)
    with served(options.oracle, "--group_size", str(size), "--wait", str(options.wait)) as (port, process):
        direct(oracle, warm, batch)
        asyncio.run(play(port, warm, clients, False, seed))
        before = direct(oracle, calm[: number // 2], batch)
        memory, work = [process.memory_info().rss], -sum(process.cpu_times()[:2])
        wall = asyncio.run(play(port, calm, clients, False, seed))
        work += sum(process.cpu_times()[:2])
        memory.append(process.memory_info().rss)
        after = direct(oracle, calm[number // 2 :], batch)
        asyncio.run(play(port, disturbed, clients, True, seed))
        memory.append(process.memory_info().rss)
    alone, alone_work = before[0] + after[0], before[1] + after[1]
    print(f"{options.oracle}, {clients} clients, groups of {size}; {machine()}")
    print(f"served:    {size * number / wall:.0f} requests/s, {alone / wall:.2f} of the oracle's speed called directly")
    print(
        f"processor: {1000 * work / size / number:.2f} ms a request, {1000 * alone_work / size / number:.2f} of it the "
        f"oracle's: {alone_work / work:.2f}"
    )
    print(f"memory:    {', '.join(f'{used / 2**20:.0f}' for used in memory)} MiB before, between and after the two:")
    wrong = 0
    for name, part in (("calm", calm), ("disturbed", disturbed)):
        found = check(oracle, part)
        wrong += found["wrong"]
        print(f"{name + ':':10} {found['rewards']:,} rewards, {found['refused']:,} refused, {found['wrong']:,} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
