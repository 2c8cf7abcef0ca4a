"""Executors of a benchmark's cells: processes of this machine, or on a cluster by Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol

from runners.benchmark.cells import Played, play_cells
from runners.benchmark.suites import Cell

Batch = Sequence[Cell]


class Engine(Protocol):
    """Plays batches of cells somewhere."""

    def submit(self, batch: Batch) -> Any:
        """Starts a batch; returns what stands for it."""
        ...

    def finished(self, under_way: Sequence[Any]) -> tuple[Any, list[Played]]:
        """Waits for one of these; returns it and what became of it.

        Raises:
            OSError: if it can't be known.
        """
        ...


def played(engine: Engine, batches: Sequence[Batch]) -> Iterator[list[Played]]:
    """Plays batches and yields what became of each; a cell that failed in company is played alone."""
    under_way = [engine.submit(batch) for batch in batches]
    while under_way:
        one, found = engine.finished(under_way)
        under_way.remove(one)
        under_way += [engine.submit([result.cell]) for result in found if result.retry_alone]
        if known := [result for result in found if not result.retry_alone]:
            yield known


class Local:
    """A pool of processes.

    Args:
        pool: of them.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def submit(self, batch: Batch) -> Any:
        """Queues a batch."""
        return self._pool.submit(play_cells, batch)

    def finished(self, under_way: Sequence[Any]) -> tuple[Any, list[Played]]:
        """Waits for one of these."""
        one = next(iter(wait(under_way, return_when=FIRST_COMPLETED).done))
        try:
            return one, one.result()
        except BrokenProcessPool as error:
            raise OSError(f"a process died (killed, or out of memory); call again to go on: {error}") from error


def _end_with_parent() -> None:
    """Lets a process of the pool end at Ctrl-C, and when the one that it works for was killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def local(processes: int) -> Iterator[Engine]:
    """Yields an engine of so many processes.

    Raises:
        ValueError: if there is none.
    """
    if processes < 1:
        raise ValueError(f"--processes must be at least 1, got {processes}")
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield Local(pool)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for what has not begun


class Ray:
    """A cluster; what a worker that died was playing is played again by another one.

    Args:
        ray: the package.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._play = ray.remote(num_cpus=1, max_retries=5)(play_cells)

    def submit(self, batch: Batch) -> Any:
        """Hands a batch to the cluster."""
        return self._play.remote(batch)

    def finished(self, under_way: Sequence[Any]) -> tuple[Any, list[Played]]:
        """Waits for one of these."""
        (one,), _ = self._ray.wait(list(under_way), num_returns=1)
        try:
            return one, self._ray.get(one)
        except self._ray.exceptions.RayError as error:
            raise OSError(f"the cluster lost a cell, call again to go on: {error}") from error


@contextlib.contextmanager
def ray(address: str | None) -> Iterator[Engine]:
    """Yields an engine on a Ray cluster: "auto", an address, or None for one of this machine's own.

    Raises:
        ValueError: if Ray is not installed.
        OSError: if there is no cluster.
    """
    try:
        import ray as package
    except ImportError as error:
        raise ValueError("--engine ray needs Ray: pip install 'preference-duel[ray]'") from error
    try:
        package.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = "; where the cluster has a token, set RAY_AUTH_MODE=token"
        raise OSError(f"no Ray cluster at {address!r}: {error}{told}") from error
    try:
        yield Ray(package)
    finally:
        package.shutdown()


def batches(cells: Sequence[Cell], size: int) -> list[list[Cell]]:
    """Returns cells in batches of those that may learn as one: same entrant, feedback and command line but for seeds.

    Args:
        cells: in order; one whose policy is exploited learns alone.
        size: of a batch at most.
    """
    alike: dict[Any, list[Cell]] = {}
    for cell in cells:
        game = cell.game
        if game.exploiter:  # of one policy, not of replicas
            alike[cell] = [cell]
            continue
        alike.setdefault((cell.entrant, game.feedback, game.options, game.gap, cell.options), []).append(cell)
    return [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]


ENGINES: dict[str, Callable[..., Any]] = {"local": local, "ray": ray}
