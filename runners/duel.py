"""`python -m runners.duel`: a policy learns from an oracle's verdicts, duel by duel."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from envs import processes
from envs.keyed import hash_seed
from envs.preference_files import FileArena
from envs.registry import UnknownNameError
from envs.tasks import Task
from envs.types import Duel
from oracles import Oracle
from oracles.base import Unanswered
from runners.bystander import Bystander
from runners.checkpoint import Checkpoint, load, steps
from runners.cli import PROGRAM, Command, parse
from runners.interrupt import Interrupt
from runners.players import Players, choose_device, gather, judge
from runners.progress import Progress
from runners.record import Record, default_directory, read_config, require_new
from runners.settings import RunConfig
from runners.summary import summary

TRACEBACK = "DUEL_TRACEBACK"
MEMORY = (
    "lower --policy.micro_tokens (tokens in one pass), or set --policy.checkpointing True; weights take less with "
    "--policy.lora.rank 16 --policy.dtype bfloat16, without --agent.average, or spread over processes by torchrun and "
    "--run.parallel fsdp; an oracle's network reads less at once with a lower token_budget"
)
"""What a run that did not fit can be told."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Returns:
        0 after the last step; 1 after an error and 2 after a wrong command line, both told in one line; 128 + the
        signal's number after an interruption.
    """
    wrong = 2
    try:
        command = parse(arguments)
        wrong = 1
        return run(command)
    except KeyboardInterrupt as error:
        return _tell(error, "interrupted", 130)
    except UnknownNameError as error:
        return _tell(error, f"error: {error}", 2)
    except (ValueError, OSError) as error:
        return _tell(error, f"error: {error}", wrong)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        return _tell(error, f"error: out of memory: {(str(error) or 'this machine').splitlines()[0]}\n{MEMORY}", 1)


def run(command: Command) -> int:
    """Builds the players and plays until the last step; returns the exit code of `main`."""
    device = choose_device(command.settings.run.device)
    with processes.together(device), _said_once():
        return _run(command, device)


def _run(command: Command, device: str) -> int:
    settings = command.settings
    directory = command.resume or (Path(settings.run.dir) if settings.run.dir else default_directory(settings))
    if command.resume is None:
        require_new(directory)
    elif (made := steps(directory)) and settings.run.steps < made[-1]:
        raise ValueError(f"--run.steps {settings.run.steps}: the run has made {made[-1]} steps already; ask for more")
    threads = settings.run.threads if command.resume is None else int(read_config(directory)["threads"])
    if threads is not None:
        torch.set_num_threads(threads)
    directory = Path(processes.agreed(str(directory)))
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, dir=str(directory)))
    players = gather(settings, device)
    print(f"judge: {judge(settings, players.oracle)}", flush=True)
    record = None
    if processes.rank() == 0:
        record = Record(directory, settings, command.arguments, device, torch.get_num_threads())
    processes.agreed(directory)  # which is made by now
    record = record or Bystander(directory)
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
        error.add_note(f"the run goes on after {after} with: {_program()} --resume {directory}")
        raise
    finally:
        record.close()


def play(players: Players, run: RunConfig, record: Record | Bystander, interrupt: Interrupt) -> int:
    """Plays from the last checkpoint to the last step or query, or to the end of the step in which it was interrupted.

    Returns:
        The last step; its checkpoint is written.
    """
    done = _restore(players, record)
    with Progress(done, run.steps) as progress:
        if record.saved is None and (run.eval_every or run.eval_queries):
            progress.evaluated(0, _evaluate(players, record, 0))
        while not over(run, done, players.arena.queries or 0) and interrupt.signal is None:
            arena, asked = players.arena.state_dict(), players.arena.queries or 0
            try:
                scalars, duel = one_step(players, hash_seed(run.seed, "step", done + 1))
            except Unanswered:
                players.arena.load_state_dict(arena)  # the agent has learned nothing of this step
                if record.saved != done and processes.count() == 1:
                    _save(players, record, done)
                raise
            done += 1
            record.log(done, scalars)
            progress.stepped(done, scalars)
            if _due(done, run.duel_every):
                record.duels(done, duel, run.duel_prompts)
            if evaluation_due(run, done, asked, players.arena.queries or 0):
                progress.evaluated(done, _evaluate(players, record, done))
            if _due(done, run.save_every):
                _save(players, record, done)
            interrupt.agree()
        if record.saved is None or record.saved < done:
            _save(players, record, done)
    return done


def one_step(players: Players, seed: int) -> tuple[dict[str, float], Duel]:
    """Makes one pass through the loop: reset, propose, play, update.

    Args:
        players: who plays.
        seed: of torch's global generator, which nothing of ours reads; layers of other people (dropout) may.

    Returns:
        The step's scalars by tag, and the duel.
    """
    _reseed(seed)
    forget(players.oracle)
    agent, arena = players.agent, players.arena
    prompts = arena.reset()
    start = time.perf_counter()
    if isinstance(arena, FileArena):
        sampled, duel = start, arena.play()
    else:
        proposal = agent.propose(prompts)
        sampled = time.perf_counter()
        duel = arena.play(proposal)
    asked = time.perf_counter()
    scalars = agent.update(duel)
    updated = time.perf_counter()
    times = {"time/sample_s": sampled - start, "time/oracle_s": asked - sampled, "time/update_s": updated - asked}
    return {**scalars, **describe(duel), **queries(players), **times}, duel


def _reseed(seed: int) -> None:
    """Does what torch.manual_seed does, which formats three stacks for devices that are not there."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def forget(oracle: Oracle) -> None:
    """Calls an oracle's own `forget()`, where it has a memory.

    What is remembered is left out of a batch, and a network's answers depend on their batch in the last bits: the
    memory may not reach back further than a resumed run could know.
    """
    clear = getattr(oracle, "forget", None)
    if clear is not None:
        clear()


def describe(duel: Duel) -> dict[str, float]:
    """Returns what the duel alone says: spread and mean of the verdicts that were asked, tokens per response."""
    scalars = {}
    prob = duel.prob[duel.asked].double()
    if len(prob):
        scalars["duel/prob_std"] = prob.std(correction=0).item()
        scalars["duel/advantage"] = (prob - 0.5).mean().item()
    seats = (duel.left,) if duel.self_play else (duel.left, duel.right)
    lengths = [len(response.tokens) for seat in seats for row in seat for response in row if response.tokens]
    if lengths:
        scalars["policy/length"] = sum(lengths) / len(lengths)
    return scalars


def queries(players: Players) -> dict[str, float]:
    """Returns the queries so far; nothing where whole laws are played, which no oracle could be asked."""
    return {} if players.arena.queries is None else {"duel/queries": players.arena.queries}


def _restore(players: Players, record: Record | Bystander) -> int:
    """Loads the last checkpoint into the players; returns how many steps are done."""
    saved = load(record.directory)
    if saved is None:
        return 0
    players.agent.load_state_dict(saved.agent)
    players.arena.load_state_dict(saved.arena)
    return saved.step


def _save(players: Players, record: Record | Bystander, step: int) -> None:
    state = Checkpoint(step, players.agent.state_dict(), players.arena.state_dict())
    record.save(state, players.agent.policy)
    processes.agreed(step)  # which is on the disk by now


def _evaluate(players: Players, record: Record | Bystander, step: int) -> dict[str, float]:
    forget(players.oracle)
    scalars = players.evaluation.scalars(players.agent.policy, players.agent.average)
    record.log(step, scalars)
    record.laws(step, players.evaluation.laws(players.agent.policy, players.agent.average))
    return scalars


def _task_line(task: Task) -> str:
    cut = f", {task.cut} of them cut to {task.max_prompt_tokens} tokens" if task.cut else ""
    return f"task:  {task.name}, {len(task.prompts)} prompts to learn from, {len(task.held_out)} held out{cut}"


def over(run: RunConfig, done: int, queries: int) -> bool:
    """Returns whether a run has made all steps, or asked all queries."""
    return done >= run.steps or (run.queries is not None and queries >= run.queries)


def evaluation_due(run: RunConfig, done: int, before: int, queries: int) -> bool:
    """Returns whether a run is measured after a step, before which it had asked so many queries."""
    if run.eval_queries:
        return over(run, done, queries) or queries // run.eval_queries > before // run.eval_queries
    return _due(done, run.eval_every) or (run.eval_every > 0 and over(run, done, queries))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _is_memory(error: BaseException) -> bool:
    """Returns whether memory ran out; torch's processor allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _program() -> str:
    """Returns what a run of as many processes is started with."""
    if processes.count() == 1:
        return PROGRAM
    return f"torchrun --nproc-per-node {processes.count()} {PROGRAM.removeprefix('python ')}"


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keeps all processes but the first from printing what goes well."""
    with contextlib.ExitStack() as stack:
        if processes.rank() > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def _tell(error: BaseException, message: str, code: int) -> int:
    """Prints what ended the run and how to go on, and where it arose if the user asked for that."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    print("\n".join([message, *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
