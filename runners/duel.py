"""`python -m runners.duel`: a policy learns from an oracle's verdicts, duel by duel."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from preference_duel.names import UnknownNameError
from runners.run.cli import TRACEBACK, parse

MEMORY = (
    "lower --policy.micro_tokens (tokens in one pass), or set --policy.checkpointing True; weights take less with "
    "--policy.lora.rank 16 --policy.dtype bfloat16, with --agent.no-average, or spread over processes by torchrun and "
    "--run.parallel fsdp; an oracle's network reads less at once with a lower token_budget"
)
"""Advice for a run that did not fit into memory."""


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
        from runners.run.session import run  # torch takes more than a second, which a wrong name need not wait for

        return run(command)
    except KeyboardInterrupt as error:
        return _tell(error, "interrupted", 130)
    except UnknownNameError as error:
        return _tell(error, f"error: {error}", 2)
    except (ValueError, OSError) as error:
        return _tell(error, f"error: {error}", wrong)
    except (MemoryError, RuntimeError) as error:
        from runners.run.session import is_memory_error

        if not is_memory_error(error):
            raise
        return _tell(error, f"error: out of memory: {(str(error) or 'this machine').splitlines()[0]}\n{MEMORY}", 1)


def _tell(error: BaseException, message: str, code: int) -> int:
    """Prints what ended the run and how to go on, and where it arose if the user asked for that."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    print("\n".join([message, *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
