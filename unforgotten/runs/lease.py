"""One process at a time works on a folder, also where several machines share the disk; what a dead one held goes on.

    <parent>/.leases/<name>/7       the lease of <parent>/<name>: {"host", "pid", "place", "started", "stale_seconds"}

A lease is a file with a number. Whoever holds it touches it every few seconds; whoever is done adds a line, `free`. To
take it is to create the next number with its content, by a hard link or, where a file system has none, O_CREAT|O_EXCL;
neither needs flock. That is allowed where the highest number is free, where its process is known to be dead (same
machine, same boot, same process table), or where nobody touched it while the taker looked on for `stale_seconds` by its
own clock: clocks are never compared.

Why two cannot both win a number. Only numbers below one's own are removed, so once n was created there is always a
file with a number of n or more. If n is created twice, it was removed in between, by someone whose higher number was
then there; and whoever created a number looks again, and withdraws where it is not the highest. So the second one
withdraws. Why a wrong guess does no harm: a holder that was silent too long (suspended, a file system that hung) may
live on, but its file is gone or no longer the highest; `check` sees that, and is called at each step, before each
checkpoint and before results are written. Between a check and the write that follows it a process could still be
suspended: what is read by others is renamed into its place whole, and both would write the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from unforgotten.errors import LeaseLost
from unforgotten.runs import bars
from unforgotten.runs.atomic import private_folder

FOLDER = ".leases"
BEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
"""Several times what file systems keep of a file's facts without asking the server: 60 s on NFS."""
CHECK_SECONDS = 1.0
"""`watch` asks the file system no more often."""

_held: dict[tuple[Path, int], Lease] = {}
"""What this process holds, by place and thread: the thread that holds a folder may enter it again."""


class Lease:
    """The lease of a folder or file, which need not exist yet. One object is used by one thread."""

    def __init__(self, target: Path, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS) -> None:
        self.target = target
        self.folder = target.parent.resolve() / FOLDER / target.name
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self.seen: tuple[Any, float] | None = None
        """The holder's last sign of life, and when this machine's clock first saw it; may be told to another process
        of the machine."""
        self.alive = False
        """Whether who held it at the last `take` was then seen to live; else nothing is known of them yet."""
        self.holder = ""
        """Who that was."""
        self.pid = os.getpid()
        """The process that made it."""
        self._mine = 0
        self._checked = 0.0
        self._ended = threading.Event()

    def take(self) -> bool:
        """Takes the lease if nobody else holds it. Called again and again, it finds out that a holder is silent."""
        private_folder(self.folder)
        top = self._top()
        if not self._may_follow(top):
            return False
        if not _create(self._file(top + 1), json.dumps(identity() | {"stale_seconds": self.stale_seconds}) + "\n"):
            return False
        if self._top() != top + 1:  # a look from before: this number had been used
            self._file(top + 1).unlink(missing_ok=True)
            return False
        self._mine, self._checked = top + 1, time.monotonic()
        for number in self._numbers():
            if number < self._mine:
                self._file(number).unlink(missing_ok=True)
        _held[self.folder, threading.get_ident()] = self
        self._ended = threading.Event()
        threading.Thread(target=self._beat, args=(self._ended,), daemon=True, name=f"lease {self.target.name}").start()
        return True

    def could(self) -> bool:
        """Whether `take` would have a chance now. Looks, and takes nothing."""
        private_folder(self.folder)
        return self._may_follow(self._top())

    def check(self) -> None:
        """Raises LeaseLost where another process has taken over."""
        self._checked = time.monotonic()
        try:
            os.utime(self._file(self._mine))
            lost = self._top() != self._mine
        except FileNotFoundError:
            lost = True
        if lost:
            raise LeaseLost(
                f"Another process took over {self.target}, since this process gave no sign of life for "
                f"{self.stale_seconds:g} s (suspended, or a disk that hung). The other process continues; this "
                "process stops."
            )

    def watch(self) -> None:
        """The same for loops: asks the file system once a second at most."""
        if time.monotonic() - self._checked > CHECK_SECONDS:
            self.check()

    def release(self) -> None:
        """Lets go of it; without a word where it is lost."""
        self._ended.set()
        _held.pop((self.folder, threading.get_ident()), None)
        try:
            file = os.open(self._file(self._mine), os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return
        with os.fdopen(file, "w") as out:
            out.write("free\n")

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self.beat_seconds):
            try:
                self.check()
            except LeaseLost:
                return  # the thread that works finds out by itself
            except OSError:
                continue  # a file system that is away for a while

    def _may_follow(self, number: int) -> bool:
        """Whether the holder of a number is done, dead, or was silent for too long."""
        self.alive, self.holder = False, ""
        if number == 0:
            return True
        try:
            facts, free = _read(self._file(number))
            sign = (number, self._file(number).stat().st_mtime_ns)
        except FileNotFoundError:  # someone has just gone on from there
            return False
        if free:
            return True
        self.holder = f"{facts.get('host', 'unknown')}, process {facts.get('pid', 'unknown')}"
        here = facts.get("place") == _place()
        if is_dead(facts):
            return True
        now = time.monotonic()
        if self.seen is None or self.seen[0] != sign:
            self.alive = self.seen is not None
            self.seen = (sign, now)
        self.alive = self.alive or here
        return now - self.seen[1] > facts.get("stale_seconds", self.stale_seconds)

    def _file(self, number: int) -> Path:
        return self.folder / str(number)

    def _numbers(self) -> list[int]:
        return [int(name) for name in os.listdir(self.folder) if name.isdecimal()]

    def _top(self) -> int:
        return max(self._numbers(), default=0)


@contextmanager
def alone(target: Path, say: Callable[[str], None]) -> Iterator[Lease]:
    """Holds a folder's lease: two processes would delete each other's checkpoints. A dead holder holds nobody up."""
    lease = Lease(target)
    mine = _held.get((lease.folder, threading.get_ident()))
    if mine is not None and mine.pid == os.getpid():  # a forked child has the parent's memory, not its leases
        yield mine
        return
    pause = 0.0
    while not lease.take():
        if lease.holder and pause == 0:
            say(f"Another process is at work on {target} ({lease.holder}); waiting until it is done.")
            bars.phase("waiting for another process")
            pause = 0.05
        time.sleep(pause := min(1.0, 1.5 * pause))
    try:
        yield lease
    finally:
        lease.release()


def holder(target: Path) -> str:
    """Whose the lease of a folder is by its file, dead or alive; empty where it is nobody's."""
    lease = Lease(target)
    try:
        facts, free = _read(lease._file(lease._top()))
    except FileNotFoundError:
        return ""
    return "" if free else str(facts.get("host", "unknown"))


def host() -> str:
    """What this machine is called in leases."""
    return socket.gethostname()


def _create(file: Path, text: str) -> bool:
    """Makes a file with its content at once, so that a kill leaves none without; False where there is one already."""
    draft = file.with_name(f".{uuid.uuid4().hex}")
    draft.write_text(text, encoding="utf-8")
    try:
        os.link(draft, file)
    except FileExistsError:
        return draft.stat().st_nlink == 2  # NFS may have made the link and lost the answer
    except OSError:  # a file system without hard links
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write(text)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _read(file: Path) -> tuple[dict[str, Any], bool]:
    """What a lease says of its holder, and whether it is free. What was cut off by a kill says nothing."""
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        facts = json.loads(lines[0])
    except ValueError:
        facts = {}
    return facts if isinstance(facts, dict) else {}, "free" in lines[1:]


TOKEN = uuid.uuid4().hex
"""This process, beside its number, which was another's before in a container that is started again."""


def identity() -> dict[str, Any]:
    """This process as others can tell it from all that were or are."""
    pid = os.getpid()
    return {"host": host(), "pid": pid, "place": _place(), "started": _facts_of(pid)[1], "token": TOKEN}


def is_dead(facts: dict[str, Any]) -> bool:
    """Whether the process of these facts is known to have ended; of one in another place nothing is known."""
    return facts.get("place") == _place() and not _lives(facts)


@cache
def _place() -> str:
    """One machine from its start to its end, and one table of processes on it: containers have their own.

    Machines cloned from a running one share the boot's id and the number of the first process table, so that their
    names, ids and network cards are asked, too. If two names of one machine differ, a
    run waits in vain; if two machines share a name, one may take over the other's run.
    """
    facts = [socket.gethostname(), _line("/etc/machine-id"), *_cards()]
    try:
        facts += [_line("/proc/sys/kernel/random/boot_id"), os.readlink("/proc/self/ns/pid")]
    except OSError:
        facts += [f"{uuid.getnode():x}"]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _line(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _cards() -> list[str]:
    """The addresses of the network cards; those that only software makes come and go with containers."""
    cards = [card for card in Path("/sys/class/net").glob("*") if (card / "device").exists()]
    return sorted(_line(str(card / "address")) for card in cards)


def _lives(facts: dict[str, Any]) -> bool:
    """Whether a process of this machine is there and is the one that was meant, not another with its number."""
    pid = int(facts["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    state, started = _facts_of(pid)
    if not started and pid == os.getpid():
        return facts.get("token") in (None, TOKEN)
    return state not in ("Z", "X") and started in ("", facts.get("started"))


def _facts_of(pid: int) -> tuple[str, str]:
    """A process's state and when it began, in ticks since the machine's start; empty where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # its name, in brackets, may hold blanks
    return fields[0], fields[19]
