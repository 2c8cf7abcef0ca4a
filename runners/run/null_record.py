"""What the other processes of a run have in place of its record: only the first one writes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from preference_duel.protocols import Policy
from runners.run.checkpoint import Checkpoint, steps
from runners.run.record import read_lines


class Bystander:
    """Knows where a run is written and writes nothing.

    Attributes:
        directory: of the run.
        saved: the step of the last checkpoint; None where there is none.

    Args:
        directory: of the run, which the first process has made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.saved = max(steps(directory), default=None)

    def log(self, *_: Any) -> None:
        """Does nothing."""

    duels = laws = log

    def save(self, state: Checkpoint, policy: Policy) -> None:
        """Takes part in gathering a policy whose parameters are spread over processes."""
        with tempfile.TemporaryDirectory() as folder:
            policy.save(Path(folder))
        self.saved = state.step

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        return read_lines(self.directory / "metrics.jsonl")

    def close(self) -> None:
        """Does nothing."""
