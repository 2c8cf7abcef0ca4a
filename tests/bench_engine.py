"""An engine of the benchmark that plays in the test's own process, which saves the start of another."""

import contextlib

import torch

from runners.benchmark.cells import play_cells


class InProcess:
    """Plays each batch when its result is asked for."""

    def submit(self, batch):
        return batch

    def finished(self, under_way):
        return under_way[0], play_cells(under_way[0])


@contextlib.contextmanager
def in_process(monkeypatch):
    """Puts the engine in the place of worker processes, and the number of threads back at the end."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("runners.benchmark.executors.local", lambda processes: contextlib.nullcontext(InProcess()))
    yield
    torch.set_num_threads(threads)
