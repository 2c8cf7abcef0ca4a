"""One run from its command line to its end: directory, record, training loop, summary."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from envs.tasks.task import Task
from preference_duel import distributed
from runners.run.build import choose_device, gather, judge
from runners.run.checkpoint import steps
from runners.run.cli import PROGRAM, Command
from runners.run.loop import over, play
from runners.run.ranks import NullRecord
from runners.run.record import Record, changed_files, default_directory, read_config, require_new
from runners.run.signals import Interrupt
from runners.run.summary import summary


def run(command: Command) -> int:
    """Builds the players and plays until the last step; returns the exit code of `main`."""
    device = choose_device(command.settings.run.device)
    with distributed.together(device), _said_once():
        return _run(command, device)


def _run(command: Command, device: str) -> int:
    settings = command.settings
    directory = command.resume or (Path(settings.run.dir) if settings.run.dir else default_directory(settings))
    if command.resume is None:
        require_new(directory)
    elif (made := steps(directory)) and settings.run.steps < made[-1]:
        raise ValueError(f"--run.steps {settings.run.steps}: the run has made {made[-1]} steps already; ask for more")
    if command.resume is not None and (changed := changed_files(directory, settings)):
        raise ValueError(f"{directory}: {'; '.join(changed)}; put back what the run began with, or start a new run")
    threads = settings.run.threads if command.resume is None else int(read_config(directory)["threads"])
    if threads is not None:
        torch.set_num_threads(threads)
    directory = Path(distributed.agreed(str(directory)))
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, dir=str(directory)))
    players = gather(settings, device)
    print(f"judge: {judge(settings, players.oracle)}", flush=True)
    if players.reading is not None:
        print(f"data:  {players.reading}", flush=True)
    record = None
    if distributed.rank() == 0:
        record = Record(directory, settings, command.arguments, device, torch.get_num_threads())
    distributed.agreed(directory)  # which is made by now
    record = record or NullRecord(directory)
    print(f"run:   {directory}\n{_task_line(players.task)}", flush=True)
    try:
        with Interrupt() as interrupt:
            done = play(players, settings.run, record, interrupt)
        if interrupt.signal is None or over(settings.run, done, players.arena.queries or 0):
            print(summary(players, record, settings.run), flush=True)
            return 0
        print(f"stopped after step {done}; go on with: {_program()} --resume {directory}", flush=True)
        return 128 + interrupt.signal
    except (KeyboardInterrupt, Exception) as error:
        after = "the start" if record.saved is None else f"step {record.saved}"
        again = "the same step ends in this way again; once the cause is mended, " if type(error) is ValueError else ""
        error.add_note(f"{again}the run goes on after {after} with: {_program()} --resume {directory}")
        raise
    finally:
        record.close()


def _task_line(task: Task) -> str:
    cut = f", {task.cut} of them cut to {task.max_prompt_tokens} tokens" if task.cut else ""
    read = f"\nread:  {task.reading}" if task.reading else ""
    return f"task:  {task.name}, {len(task.prompts)} prompts to learn from, {len(task.held_out)} held out{cut}{read}"


def _program() -> str:
    """Returns what a run of as many processes is started with."""
    if distributed.count() == 1:
        return PROGRAM
    return f"torchrun --nproc-per-node {distributed.count()} {PROGRAM.removeprefix('python ')}"


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keeps all processes but the first from printing what goes well."""
    with contextlib.ExitStack() as stack:
        if distributed.rank() > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
