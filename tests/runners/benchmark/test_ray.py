"""A Ray cluster plays the cells of a benchmark with the numbers of this machine, whoever of it dies."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from runners.bench import main

FILE = """
from runners.benchmark.suites import Entrant, Game, Suite, tabular
GAMES = tuple(Game("cyclic", lam) for lam in (0.0, 1.0))
SUITE = Suite("small", "a test", tuple(Entrant(one, one) for one in ("dpo", "ipo")), GAMES, 2, tabular(6000, 1, 2))
"""
RAY = Path(sys.executable).with_name("ray")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster():
    """Yields the address and the environment of a cluster of two workers on this machine."""
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    common = ["--num-cpus=1", "--disable-usage-stats", "--block"]
    port, where = free_port(), tempfile.mkdtemp(prefix="r")  # pytest's folder can be too long for the names of sockets
    head = [str(RAY), "start", "--head", f"--port={port}", f"--temp-dir={where}", "--include-dashboard=false", *common]
    nodes = []
    try:
        for line in (head, [str(RAY), "start", f"--address=127.0.0.1:{port}", *common]):
            nodes.append(subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True))
            while "Ray runtime started" not in (said := nodes[-1].stdout.readline()):
                assert said, "ray did not start"
        yield f"127.0.0.1:{port}", env
    finally:
        for node in reversed(nodes):
            for child in psutil.Process(node.pid).children(recursive=True):
                child.kill()
            node.kill()
            node.wait(60)
        shutil.rmtree(where, ignore_errors=True)


def bench(suite, folder, *more):
    return [sys.executable, "-m", "runners.bench", "--suite", str(suite), "--dir", str(folder), *more]


def workers():
    """Returns the processes that play cells."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            found += [one] if one.cmdline()[:1] == ["ray::play_cells"] else []
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes start on two cores
def test_a_cluster_gives_the_same_numbers_and_survives_the_death_of_a_worker(cluster, tmp_path):
    address, env = cluster
    suite = tmp_path / "small.py"
    suite.write_text(FILE)
    assert main(bench(suite, tmp_path / "here", "--processes", "1")[3:]) == 0
    line = bench(suite, tmp_path / "there", "--engine", "ray", "--ray.address", address)
    run = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (found := workers()):
        assert time.monotonic() < until, "no worker began"
        time.sleep(0.1)
    found[0].send_signal(signal.SIGKILL)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 0, said
    here, there = (json.loads((tmp_path / one / "results.json").read_text())["cells"] for one in ("here", "there"))
    assert len(here) == 8
    for one, other in zip(here, there, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_machine_without_ray_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["--dir", str(tmp_path), "--engine", "ray"]) == 1
    assert "--engine ray needs Ray: pip install 'preference-duel[ray]'" in capsys.readouterr().err
