"""Chat templates are rendered in a process of their own, which is bounded and killed where it goes beyond.

There is one such process for each process of ours, started when it is first needed and again after it was killed. The
bounds hold for one request, which is all renderings of one row.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from unforgotten.errors import DataError, TemplateError

SECONDS = 2.0
"""Of processor time for the renderings of one row; of real time as well, unless the machine is busy."""
BUSY = 1.5
"""So many times as much real time is given where other work holds the processor."""
MEMORY_BYTES = 512 * 2**20
"""Address space of the process."""
CHARACTERS = 16 * 2**20
"""Written for one row, all its renderings together."""
TEMPLATE_CHARACTERS = 2**20
"""The longest template; vendors' own have up to 40,000 characters."""
START_SECONDS = 60.0
TEMPLATES = 32
"""Compiled at a time; beyond that the process is started anew."""
PROGRAM = Path(__file__).with_name("jinja_program.py")

Rendering = tuple[str, list[tuple[int, int]]]


class OverLimit(TemplateError):
    """A template that takes more time, memory or text than a row may."""


class JinjaProcess:
    """One process, and the templates that it has compiled. Not for use by two threads at once."""

    def __init__(self) -> None:
        import jinja2
        import markupsafe

        places = {str(Path(str(module.__file__)).parent.parent) for module in (jinja2, markupsafe)}
        settings = {
            "path": sorted(places), "memory": MEMORY_BYTES, "characters": CHARACTERS,
            "last_seconds": int(BUSY * SECONDS) + 2,
        }  # fmt: skip
        self.numbers: dict[str, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            bufsize=0, env={}, cwd="/", close_fds=True,
            start_new_session=True,  # an interrupt at the terminal is ours alone
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._to, self._of = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._of, False)
        self.ask({"read": ""}, START_SECONDS)

    def ask(self, request: dict[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
        """The process's answer. Raises OverLimit, after which this process is no more."""
        body = _as_json(request)
        try:
            answer = json.loads(self._exchange(len(body).to_bytes(8, "big") + body, seconds))
        except (OSError, ValueError, EOFError):
            self.close()
            raise OverLimit("it ended the process that rendered it") from None
        except BaseException:  # an answer that is read by half would be taken for the next one
            self.close()
            raise
        assert isinstance(answer, dict)
        return answer

    def _exchange(self, out: bytes, seconds: float) -> bytes:
        start, spent = time.monotonic(), self._processor_seconds()
        sent, got = memoryview(out), bytearray()
        while len(got) < 8 or len(got) < 8 + int.from_bytes(got[:8], "big"):
            left = start + seconds - time.monotonic()
            if left <= 0 and self._is_late(start, spent, seconds):
                raise OverLimit(f"it takes more than {seconds:g} seconds for one row")
            ready = self._ready(bool(sent), max(left, 0.05))
            if self._to in ready:
                sent = sent[os.write(self._to, sent[:65536]) :]
            if self._of in ready:
                piece = os.read(self._of, 2**20)
                if not piece:
                    raise EOFError
                got += piece
            if len(got) > 8 and int.from_bytes(got[:8], "big") > 7 * CHARACTERS:
                raise OverLimit(f"it writes more than {CHARACTERS:,} characters for one row")
        return bytes(got[8:])

    def _ready(self, sending: bool, seconds: float) -> list[int]:
        """The streams that can be read or written now."""
        poll = select.poll()
        poll.register(self._of, select.POLLIN)
        if sending:
            poll.register(self._to, select.POLLOUT)
        return [stream for stream, _ in poll.poll(1000 * seconds)]

    def _is_late(self, start: float, spent: float, seconds: float) -> bool:
        """Is the time over? Where other work holds the processor, more real time is given."""
        return time.monotonic() - start > BUSY * seconds or self._processor_seconds() - spent >= seconds * 0.95

    def _processor_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return float("-inf") if sys.platform == "linux" else time.monotonic()

    def close(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self.abandon()
        with suppress(OSError):
            self._process.wait(timeout=5)

    def abandon(self) -> None:
        """Closes this side alone: after a fork the process belongs to the parent."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert stream
                stream.close()


_lock = threading.Lock()
_current: JinjaProcess | None = None


def read(text: str) -> tuple[set[str], list[str]]:
    """The variables that a template reads from outside, and its string constants. Raises TemplateError."""
    if len(text) > TEMPLATE_CHARACTERS:
        raise TemplateError(
            f"The chat template has {len(text):,} characters; {TEMPLATE_CHARACTERS:,} are allowed. Give a shorter one."
        )
    with _lock:
        answer = _asked({"read": text}, "")
    if "syntax" in answer:
        line, what = answer["syntax"]
        raise TemplateError(f"The chat template does not parse: line {line}: {what}")
    if "found" not in answer:
        raise TemplateError(f"The chat template does not parse: {_over(answer)}.")
    return set(answer["found"]["names"]), list(answer["found"]["constants"])


def render(
    text: str,
    talks: Sequence[Sequence[dict[str, Any]]],
    jobs: Sequence[tuple[int, int, bool]],
    *,
    tools: list[dict[str, Any]] | None = None,
    specials: dict[str, Any] | None = None,
    marked: bool = False,
    name: str = "the conversation",
) -> list[Rendering | str]:
    """One rendering for each job: (which of the talks, how many of its messages, with the generation prompt or not).

    A rendering is the text and the spans that it marks with {% generation %}; a string is what the template said when
    it refused. Raises OverLimit, which names the row, and DataError for values that are not JSON.
    """
    request = {"talks": talks, "jobs": jobs, "tools": tools, "marked": marked, "specials": _texts(specials or {})}
    with _lock:
        process = _running()
        if text not in process.numbers and len(process.numbers) >= TEMPLATES:
            process = _restarted()
        new = text not in process.numbers
        number = process.numbers.setdefault(text, len(process.numbers))
        answer = _asked({**request, "number": number, **({"text": text} if new else {})}, name)
        if "found" not in answer:
            process.numbers.pop(text, None)
            process.numbers |= {f"\0{number}": number}  # its number is not given again
    if "found" in answer:
        return [
            each["error"] if isinstance(each, dict) else (each[0], [(a, b) for a, b in each[1]])
            for each in answer["found"]
        ]
    if "over" in answer:
        raise OverLimit(f"{name}: the chat template is stopped: {_over(answer)}.")
    raise TemplateError(f"{name}: the chat template fails: {_over(answer)}")


def _over(answer: dict[str, Any]) -> str:
    if "syntax" in answer:
        return "line {}: {}".format(*answer["syntax"])
    if "over" not in answer:
        return str(answer.get("error"))
    return {
        "memory": f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory for one row",
        "output": f"it writes more than {CHARACTERS:,} characters for one row",
        "nesting": "it is nested too deeply, or has an endless recursion",
    }[answer["over"]]


def _asked(request: dict[str, Any], name: str) -> dict[str, Any]:
    global _current
    try:
        return _running().ask(request)
    except OverLimit as error:
        _current = None
        raise OverLimit(f"{name}: the chat template is stopped: {error}." if name else
                        f"The chat template does not parse: {error}.") from None  # fmt: skip
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except BaseException:
        _current = None
        raise


def _running() -> JinjaProcess:
    global _current
    if _current is not None and _current._process.poll() is not None:
        _current.abandon()
        _current = None
    if _current is None:
        _current = JinjaProcess()
    return _current


def _restarted() -> JinjaProcess:
    global _current
    if _current is not None:
        _current.close()
    _current = None
    return _running()


def _texts(specials: dict[str, Any]) -> dict[str, Any]:
    """Special tokens as plain text: tokenizers may hold them as objects."""
    return {k: [str(x) for x in v] if isinstance(v, (list, tuple)) else str(v) for k, v in specials.items()}


def _as_json(request: dict[str, Any]) -> bytes:
    try:
        return json.dumps(request).encode("ascii")
    except RecursionError:
        raise DataError("its values are nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"no template can print a value that is not JSON: {error}") from None


def _after_fork() -> None:
    """A forked process starts its own: two readers of one pipe would take each other's answers."""
    global _current, _lock
    if _current is not None:
        _current.abandon()
        _current._process.returncode = 0  # not ours to wait for
    _current, _lock = None, threading.Lock()


def _at_exit() -> None:
    global _current
    if _current is not None:
        _current.close()
    _current = None


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
