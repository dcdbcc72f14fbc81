"""One JSON message a line, over two pipes, with a time limit on the answer. Standard library only."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

MOST_BYTES = 64 << 20
"""A longer message is not read: whoever sent it has failed."""


class Channel:
    """Sends and receives messages on file descriptors."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self._read = bytearray()
        self._searched = 0

    def send(self, message: Any) -> None:
        """Raises OSError where the other end is gone."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            rest = rest[os.write(self.write_fd, rest) :]

    def receive(self, seconds: float | None = None) -> Any:
        """The next message. Raises EOFError, TimeoutError, or ValueError for what is no message."""
        until = None if seconds is None else time.monotonic() + seconds
        while (end := self._read.find(b"\n", self._searched)) < 0:
            self._searched = len(self._read)
            if self._searched > MOST_BYTES:
                raise ValueError(f"a message of more than {MOST_BYTES >> 20} MiB")
            if until is not None:
                left = until - time.monotonic()
                if left <= 0 or not select.select([self.read_fd], [], [], left)[0]:
                    raise TimeoutError
            if not (more := os.read(self.read_fd, 1 << 16)):
                raise EOFError
            self._read += more
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        self._searched = 0
        return json.loads(line)
