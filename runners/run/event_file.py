"""TensorBoard's event file, written at once and in this thread: what was logged is there, a full disk is an error."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

Event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue] - made when the module is imported
Summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue] - likewise
PATTERN = "events.out.tfevents.*"


class EventFile:
    """One new event file of a directory, in the layout that torch's SummaryWriter leaves too.

    Args:
        directory: where TensorBoard looks.
    """

    def __init__(self, directory: Path) -> None:
        name = PATTERN.replace("*", f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0")
        self._file = (directory / name).open("xb", buffering=0)
        self._writer = RecordWriter(self._file)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def scalars(self, step: int, wall_time: float, scalars: Mapping[str, float]) -> None:
        """Writes float32 scalars by tag.

        Args:
            step: the updates made.
            wall_time: seconds since the epoch.
            scalars: values by tag.
        """
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = Event(step=step, wall_time=wall_time, summary=Summary(value=values))
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
