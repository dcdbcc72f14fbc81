"""One confined process seen from outside: its order goes in, its report and output come out, and it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Sequence

from unforgotten.evaluation.sandbox import interpreter

KEPT_BYTES = 16 << 10
"""What is kept of the output; the rest is counted."""
READY = b"ready\n"


class Child:
    """A process in a group of its own. Use as a context manager: afterwards, nothing of it is left."""

    def __init__(self, command: Sequence[str], inherited: Iterable[int] = ()) -> None:
        self.report_fd, self.their_report_fd = os.pipe()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(*inherited, self.their_report_fd),
                env=interpreter.ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self.report_fd)
            raise
        finally:
            os.close(self.their_report_fd)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.order_fd, self.output_fd = self.process.stdin.fileno(), self.process.stdout.fileno()
        for fd in (self.report_fd, self.order_fd, self.output_fd):
            os.set_blocking(fd, False)
        self.order = memoryview(b"")
        self.report = bytearray()
        self.lines = 0
        self.reported = False
        """Its report is at an end: it is gone, or has closed it."""
        self.output = bytearray()
        self.printed_bytes = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # what was left of the order
                pass
        os.close(self.report_fd)

    @property
    def ready(self) -> bool:
        """It is confined and about to run what it was given."""
        return self.lines >= 1 and self.report.startswith(READY)

    @property
    def message(self) -> bytes | None:
        """The line that it reported after that, once it is whole."""
        if self.lines < 2 or not self.ready:
            return None
        return bytes(self.report[len(READY) : self.report.index(b"\n", len(READY))])

    def write_order(self) -> bool:
        """Hands over as much of its order as it takes. True after the last byte: then its standard input is closed."""
        try:
            while self.order:
                self.order = self.order[os.write(self.order_fd, self.order) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self.order = memoryview(b"")
        assert self.process.stdin is not None
        self.process.stdin.close()
        return True

    def read_report(self, most_bytes: int) -> bool:
        """Takes what there is of the report. True at its end."""
        more = _read(self.report_fd)
        self.report += more or b""
        self.lines += (more or b"").count(b"\n")
        self.reported = more == b"" or len(self.report) > most_bytes
        return self.reported

    def read_output(self) -> bool:
        """Takes what there is of the output, and keeps its beginning. True at its end."""
        more = _read(self.output_fd)
        self.printed_bytes += len(more or b"")
        self.output += (more or b"")[: KEPT_BYTES - len(self.output)]
        return more == b""

    def kill(self) -> int:
        """Ends the whole group; returns the exit status, negative for a signal."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        return self.process.wait()


def _read(fd: int) -> bytes | None:
    """What is there, b"" at the end, None where there is nothing yet."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None
