"""Processes that share work, as torchrun starts them, forked from the one that tests: nothing is imported again."""

import multiprocessing
import os
import socket
import time
import traceback
from importlib import import_module
from multiprocessing.connection import wait

import torch

LATEST = 240
"""Seconds after which processes that wait for each other are ended."""


def joined(count, function, *arguments):
    """Calls a function in each of some processes that have joined; returns their exit codes, negative of signals.

    What one raised is printed. When one fails the others are ended, as torchrun does.
    """
    for module in ("torch.distributed.fsdp", "torch.distributed.nn"):
        import_module(module)  # once for all
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")  # forks have no autograd
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_join, args=(i, count, port, function, arguments)) for i in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + LATEST
    while any(process.is_alive() for process in processes):
        if time.monotonic() > deadline or any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
        wait([process.sentinel for process in processes if process.is_alive()], 1)
    return [process.exitcode for process in processes]


def _join(rank, count, port, function, arguments):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    code = 1
    try:
        if function(*arguments) in (None, 0):
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # a thread of torch that still runs when Python ends may abort the process
