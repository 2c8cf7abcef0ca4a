"""One run from its command line to its end: directory, record, training loop, summary."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from envs.arena import questions
from envs.tasks.task import Task
from preference_duel import distributed
from preference_duel.protocols import attended
from preference_duel.types import Unanswered
from runners.run.build import Experiment, build_experiment, choose_device, judge
from runners.run.checkpoint import steps
from runners.run.cli import PROGRAM, Command
from runners.run.config import RunConfig, Settings
from runners.run.config_file import read_config
from runners.run.loop import over, play
from runners.run.ranks import NullRecord
from runners.run.record import Record, changed_files, default_directory, require_new, title
from runners.run.signals import Interrupt
from runners.run.summary import summary


def run(command: Command) -> int:
    """Builds the experiment and runs it to the last step; returns the exit code of `main`."""
    device = choose_device(command.settings.run.device)
    with distributed.together(device), _repeatable(command.settings.run.deterministic, device), _said_once():
        return _run(command, device)


@contextlib.contextmanager
def _repeatable(wanted: bool, device: str) -> Iterator[None]:
    """Has torch and vLLM take only operations inside the block that repeat their results, if that is wanted.

    Raises:
        ValueError: if an operation has no such form.
    """
    if not wanted:
        yield
        return
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        os.environ.setdefault("VLLM_BATCH_INVARIANT", "1")  # read when vLLM starts; its engine of the CPU has none
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(". ")[0].removesuffix(".")
        raise ValueError(f"--run.deterministic: {reason}; leave it out, or take other parts") from error
    finally:
        torch.use_deterministic_algorithms(before)


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
    experiment = build_experiment(settings, device)
    print(f"judge: {judge(settings, experiment.oracle)}", flush=True)
    for reading in experiment.readings:
        print(f"data:  {reading}", flush=True)
    record = None
    if distributed.rank() == 0:
        record = Record(directory, settings, command.arguments, device, torch.get_num_threads())
    distributed.agreed(directory)  # which is made by now
    record = record or NullRecord(directory)
    print(f"run:   {directory}\n{_task_line(experiment.task)}", flush=True)
    try:
        with Interrupt() as interrupt:
            done = _play(experiment, settings.run, record, interrupt)
        if interrupt.signal is None or over(settings.run, done, experiment.arena.queries or 0):
            print(summary(experiment, record, settings.run), flush=True)
            return 0
        print(f"stopped after step {done}; go on with: {_program()} --resume {directory}", flush=True)
        return 128 + interrupt.signal
    except (KeyboardInterrupt, Exception) as error:
        error.add_note(_advice(error, settings, record.saved))
        raise
    finally:
        record.close()


def _play(experiment: Experiment, run: RunConfig, record: Record | NullRecord, interrupt: Interrupt) -> int:
    """Plays the run; if people are the oracle, their page is open meanwhile, and an interruption ends the waiting.

    Returns:
        The last step that was saved.
    """
    people = attended(experiment.oracle)
    if people is None:
        return play(experiment, run, record, interrupt)
    people.keep_in(record.directory, title(record.directory))
    learning, measuring = _planned(experiment, run, record.saved or 0)
    print(
        f"asks:  at most {learning + measuring:,} pairs: {learning:,} to learn from, and {measuring:,} in "
        f"evaluations (--run.eval_every {run.eval_every})",
        flush=True,
    )
    try:
        people.start(lambda: interrupt.signal is not None, learning + measuring)
        return play(experiment, run, record, interrupt)
    except Unanswered:
        if interrupt.signal is None:
            raise
        return record.saved or 0
    finally:
        people.close()


def _planned(experiment: Experiment, run: RunConfig, done: int) -> tuple[int, int]:
    """Returns the pairs that the steps and the evaluations from here on ask the oracle about, at most."""
    agent, arena, task = experiment.agent, experiment.arena, experiment.task
    steps, learning = run.steps - done, 0
    if not arena.offline:
        before = agent.state_dict(), arena.state_dict()
        each = questions(agent.propose(arena.reset()))
        agent.load_state_dict(before[0])
        arena.load_state_dict(before[1])
        if run.queries is not None and each:
            steps = min(steps, math.ceil(run.queries / (each * run.votes)))
        learning = each * steps
        if task.responses is not None:
            count = len(task.responses)
            learning = min(learning, len(task.prompts) * count * (count - 1) // 2)
    evaluations = 0
    if run.eval_queries:
        evaluations = 2 + learning * run.votes // run.eval_queries
    elif run.eval_every:
        evaluations = 1 + math.ceil(steps / run.eval_every)
    return learning, experiment.evaluation.questions(evaluations, 1 if agent.average is None else 2)


def is_memory_error(error: BaseException) -> bool:
    """Returns whether memory ran out; torch's processor allocator raises a plain RuntimeError."""
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


def _advice(error: BaseException, settings: Settings, saved: int | None) -> str:
    """Returns how to go on after an error: by --resume only if the same step need not end in the same way."""
    after = "the start" if saved is None else f"step {saved}"
    goes_on = f"the run goes on after {after} with: {_program()} --resume {settings.run.dir}"
    if is_memory_error(error):
        return f"with other settings this is a new run; with more memory, or more processes, {goes_on}"
    if isinstance(error, OSError | KeyboardInterrupt):
        return goes_on
    outside = any(":" in name and not name.startswith("hf:") for name in settings.names.values())
    if isinstance(error, ValueError) and not outside:
        return (
            "a resumed run keeps its settings and data, and the same step ends in this way again unless the cause lies "
            "outside of them: start a new run"
        )
    return f"the same step ends in this way again; once the code is mended, {goes_on}"


def _task_line(task: Task) -> str:
    cut = f", {task.cut} of them cut to {task.max_prompt_tokens} tokens" if task.cut else ""
    read = f"\nread:  {task.reading}" if task.reading else ""
    measured = f", {len(task.held_out)} held out" if task.has_held_out else " and to be measured on"
    return f"task:  {task.name}, {len(task.prompts)} prompts to learn from{measured}{cut}{read}"


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
