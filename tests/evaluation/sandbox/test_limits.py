"""Memory, threads, time, output and files without end: each limit stops them in every sandbox, and `why` names it."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import pytest

from tests.evaluation.sandbox.stopped import run

MEMORY = {
    "at once": "x = bytearray(4 << 30)",
    "little by little": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "by doubling": "x = 'x'\nwhile True: x += x",
    "mapped": "import mmap; x = mmap.mmap(-1, 4 << 30); x.write(b'x')",
    "a number": "x = 1 << (1 << 36)",
}


@pytest.mark.parametrize("what", MEMORY)
def test_memory(sandbox, what) -> None:
    outcome = run(sandbox, MEMORY[what], memory_bytes=256 << 20)
    if what == "mapped":
        assert outcome.why == "OSError: [Errno 12] Cannot allocate memory"
    else:
        assert outcome.status == "memory" and outcome.why.endswith("(limit: 256 MiB)"), outcome


def test_threads_without_end(sandbox) -> None:
    text = "import threading, time\nfor _ in range(1000): threading.Thread(target=time.sleep, args=(600,)).start()"
    began = time.monotonic()
    outcome = run(sandbox, text, threads=16, memory_bytes=8 << 30)
    assert outcome.why == "RuntimeError: can't start new thread" and time.monotonic() - began < 60
    assert sandbox.run(
        "import threading\nt = threading.Thread(target=print, args=('in a thread',)); t.start(); t.join()"
    )


TIME = {
    "a loop": "while True: pass",
    "a loop that catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleep": "import time; time.sleep(600)",
    "deaf to signals": (
        "import signal, time\n"
        "for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)\n"
        "while True: time.sleep(600)"
    ),
    "one long call in C": "x = 10 ** 10 ** 8 % 7; (1 << 10 ** 9) ** 3",
    "a pattern": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "a thread that holds on": (
        "import threading, time\nt = threading.Thread(target=time.sleep, args=(600,)); t.start(); t.join()"
    ),
    "a class whose end never comes": "class A:\n    def __del__(self):\n        while True: pass\nA()",
    "stopped by itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("what", TIME)
def test_time(sandbox, what) -> None:
    began = time.monotonic()
    outcome = sandbox.run(TIME[what], timeout_s=0.5, memory_bytes=4 << 30)
    assert outcome.status == "timeout" and outcome.why == "still running after 0.5 s", outcome
    assert 0.5 <= outcome.seconds < 10 and time.monotonic() - began < 60


def test_what_an_exit_handler_or_a_daemon_thread_would_do_is_not_waited_for(sandbox) -> None:
    text = "import atexit, time; atexit.register(time.sleep, 600)"
    began = time.monotonic()
    assert sandbox.run(text, timeout_s=20.0).passed and time.monotonic() - began < 60


OUTPUT = {
    "lines": "while True: print('x' * 100_000)",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
    "bytes": "import os\nwhile True: os.write(1, b'x' * 100_000)",
}


@pytest.mark.parametrize("what", OUTPUT)
def test_output_without_end(sandbox, what) -> None:
    outcome = run(sandbox, OUTPUT[what], output_bytes=2 << 20)
    assert (outcome.status, outcome.why) == ("output", "printed more than 2 MiB")
    assert len(outcome.output) == 16 << 10


SCRATCH = {
    "one file": "f = open('x', 'wb')\nwhile True: f.write(b'x' * 100_000)",
    "many files": "import time\nfor i in range(999):\n    open(str(i), 'wb').write(b'x' * 10 ** 6); time.sleep(0.01)",
    "a file of holes": "open('x', 'wb').truncate(4 << 30)",
}


@pytest.mark.parametrize("what", SCRATCH)
def test_scratch_without_end(sandbox, what, tmp_path, monkeypatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = run(sandbox, SCRATCH[what], scratch_bytes=4 << 20)
    assert outcome.status == "scratch" and re.search(r"4 MiB", outcome.why), outcome
    assert not list(tmp_path.iterdir()), "the scratch folder is gone"


LITTER = {
    "nested": "import os\nfor _ in range(200): os.mkdir('d'); os.chdir('d')",
    "closed": "import os; os.makedirs('a/b'); open('a/b/f', 'w'); os.umask(0o777); os.mkdir('a/c')",
    "links": "import os; os.symlink('/', 'root'); os.symlink('.', 'self'); os.mkdir('r'); os.symlink('..', 'r/up')",
    "names like those of sweeping": "import os; n = os.path.basename(os.getcwd())\n"
    "for d in ('a', 'b', *(f'{n}.{i}' for i in range(9))): os.makedirs(d + '/' + d)",
    "odd names": "import os\nfor n in (b'\\xff\\xfe', b'-rf', b' ', b'a\\nb'): open(n, 'w'); os.mkdir(n + b'd')",
}


@pytest.mark.parametrize("what", LITTER)
def test_litter_is_swept_up(sandbox, what, tmp_path, monkeypatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = sandbox.run(LITTER[what])
    # A folder that its owner closed may be found by who measures, if that is no other than the owner.
    assert outcome.passed or outcome.why == "left a closed folder in its scratch folder"
    assert not list(tmp_path.iterdir()) and Path("/etc").is_dir()


def test_many_empty_files(sandbox) -> None:
    for text in (
        "for i in range(1001): open(str(i), 'w').close()",  # and then its end: what is there then counts
        "for i in range(1001): os.mkdir(str(i))",
        "open('x', 'w')\nfor i in range(1001): os.link('x', str(i))",
        "i = 0\nwhile True: i += 1; os.symlink('/', str(i))",
        # Out of sight, below a path that is too long to be opened.
        "for _ in range(300): os.mkdir('d' * 50); os.chdir('d' * 50)\nfor i in range(100): open(str(i), 'w').close()",
    ):
        outcome = run(sandbox, "import os\n" + text)
        assert outcome.status == "scratch", outcome
        assert re.fullmatch(
            r"left (more than 1000 files|folders too deep to be measured) in its scratch folder", outcome.why
        )
