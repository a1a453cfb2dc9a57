"""TensorBoard's event files, written by no thread: what the file system refuses is known where it happens."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from costgrad.rl.files import writing

MOST_WAITING = 1000  # events that wait for a disk that is full


class Events:
    """The events of a run. A file that could be written in part only is left, and another one begun.

    Args:
        folder: of the run.
    """

    _count = 0  # of files of this process

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder
        self._file: BinaryIO | None = None
        self._waiting: list[bytes] = []
        self._begin()

    def add(self, event: Event) -> None:
        """Writes an event, and those that could not be written before. Raises WriteError."""
        self._waiting = [*self._waiting, event.SerializeToString()][-MOST_WAITING:]
        self.write()

    def write(self) -> None:
        """Writes what waits. Raises WriteError."""
        if not self._waiting:
            return
        if self._file is None or not self.path.exists():  # the folder was removed
            self._begin()
        self._records(self._waiting)
        self._waiting = []

    def sync(self) -> None:
        """Waits until the disk holds what was written. Raises WriteError."""
        self.write()
        if self._file is not None:
            with writing(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _begin(self) -> None:
        self.close()
        Events._count += 1
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{Events._count}"
        self.path = self.folder / name
        with writing(self.path):
            self._file = self.path.open("xb", buffering=0)
        self._records([Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()])

    def _records(self, records: list[bytes]) -> None:
        """Writes all records or none that would be read. Raises WriteError."""
        parts = _Parts()
        for record in records:
            RecordWriter(parts).write(record)
        data = b"".join(parts)
        try:
            with writing(self.path):
                assert self._file is not None
                while data:  # a disk that fills up takes a part
                    data = data[self._file.write(data) :]
        except Exception:
            self.close()  # what it holds of the last record ends what a reader sees of it
            raise


class _Parts(list[bytes]):
    """What a `RecordWriter` writes to."""

    def write(self, data: bytes) -> None:
        self.append(data)
