"""Hostile programs: each is stopped in every sandbox there is, the next one runs, and `why` says what was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from unforgotten.sandbox.base import Outcome, Program, Sandbox

REFUSED = r"(PermissionError|FileNotFoundError|OSError): \[Errno \d+\]"


def stopped(outcome: Outcome) -> Outcome:
    """Whatever it was, it did not get through, and one line says why."""
    assert not outcome.passed, "the program did what it was to be stopped from"
    assert len(outcome.why) > 5 and "\n" not in outcome.why
    return outcome


def run(sandbox: Sandbox, text: str, **settings) -> Outcome:
    """The outcome of a hostile program; afterwards the sandbox still works."""
    outcome = sandbox.run(text, **{"timeout_s": 30.0, **settings})
    assert sandbox.run("x = 1", timeout_s=30.0).passed
    return stopped(outcome)


FILES = {
    "read a secret": "open({secret!r}).read()",
    "read it by its descriptor's path": "import os; os.open({secret!r}, os.O_RDONLY)",
    "list the folder": "import os; os.listdir({folder!r})",
    "write": "open({folder!r} + '/new', 'w').write('x')",
    "append": "open({secret!r}, 'a').write('x')",
    "empty by opening to read": "import os; os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "empty by truncate": "import os; os.truncate({secret!r}, 0)",
    "remove": "import os; os.unlink({secret!r})",
    "rename": "import os; os.rename({secret!r}, 'here')",
    "hard link": "import os; os.link({secret!r}, 'here'); print(open('here').read())",
    "symbolic link": "import os; os.symlink({secret!r}, 'here'); open('here').read()",
    "symbolic link to a folder": "import os; os.symlink({folder!r}, 'd'); open('d/new', 'w')",
    "dot dot": "import os; open(os.path.relpath({secret!r})).read()",
    "make a folder": "import os; os.mkdir({folder!r} + '/new')",
    "make a pipe": "import os; os.mkfifo({folder!r} + '/new')",
    "make a link there": "import os; os.symlink('x', {folder!r} + '/new')",
    "change modes": "import os; os.chmod({secret!r}, 0)",
    "change times": "import os; os.utime({secret!r}, (0, 0))",
    "change attributes": "import os; os.setxattr({secret!r}, 'user.x', b'x')",
    "change the root": "import os; os.chroot('.')",
    "read the machine's passwords": "open('/etc/shadow').read()",
    "read the machine's users": "open('/etc/passwd').read()",
    "list the processes": "import os; os.listdir('/proc')",
    "read its own first environment": "open('/proc/self/environ').read()",
    "read the memory of init": "open('/proc/1/mem', 'rb').read(1)",
    "write to a terminal": "open('/dev/tty', 'w').write('x')",
    "read the disk": "open('/dev/vda', 'rb').read(1)",
    "read the project": "open({project!r}).read()",
    "list the home": "import os; os.listdir({home!r})",
    "change Python": "import os; open(os.__file__, 'a')",
    "empty Python": "import os; os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "remove Python": "import os; os.unlink(os.__file__)",
    "close Python": "import os; fd = os.open(os.__file__, os.O_RDONLY); os.fchmod(fd, 0)",
}


def test_files_outside(sandbox, outside) -> None:
    project = Path(__file__).parents[2] / "unforgotten" / "errors.py"
    library = Path(os.__file__).read_bytes()
    names = {"secret": str(outside / "secret"), "folder": str(outside), "project": str(project)}
    programs = [text.format(**names, home=str(Path.home())) for text in FILES.values()]
    for what, outcome in zip(FILES, sandbox.run_many([*programs, "x = 1"], jobs=2), strict=False):
        assert re.match(REFUSED, stopped(outcome).why), (what, outcome)
    assert Path(os.__file__).read_bytes() == library


NETWORK = {
    "internet": "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "internet, datagrams": "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "unix": "import socket; socket.socket(socket.AF_UNIX)",
    "kernel": "import socket; socket.socket(16, socket.SOCK_RAW)",
    "a pair": "import socket; socket.socketpair()",
    "a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
}


def test_network(sandbox) -> None:
    for what, outcome in zip(NETWORK, sandbox.run_many(NETWORK.values(), jobs=2), strict=True):
        assert stopped(outcome).status == "failed" and "not permitted" in outcome.why, (what, outcome)


PROCESSES = {
    "fork": "import os; os.fork()",
    "fork bomb": "import os\nwhile True: os.fork()",
    "daemon that outlives": (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\n"
    ),
    "spawn": "import os; os.posix_spawn('/bin/sh', ['sh', '-c', 'echo'], {})",
    "a command": "import subprocess; subprocess.run(['/bin/sh', '-c', 'echo'])",
    "another Python": "import subprocess, sys; subprocess.run([sys.executable or '/usr/bin/python3', '-c', ''])",
    "become another program": "import os; os.execv('/bin/sh', ['sh'])",
    "a session of its own": "import os; os.setsid()",
    "kill the parent": "import os, signal; os.kill(os.getppid() or 1, signal.SIGKILL)",
    "kill the caller": "import os, signal; os.kill({caller}, signal.SIGKILL)",
    "kill everything": "import os, signal; os.kill(-1, signal.SIGKILL)",
    "kill the group": "import os, signal; os.killpg(0, signal.SIGKILL)",
    "signal by ownership of a file": "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, {caller})",
    "starve the caller": "import resource; resource.prlimit({caller}, resource.RLIMIT_NOFILE, (0, 0))",
    "slow the caller": "import os; os.sched_setaffinity({caller}, [0])",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); bytearray(4 << 30)",
    "become root": "import os; os.setuid(0); assert os.getuid() != 0, 'root'",
    "shared memory": "import os; os.memfd_create('x')",
}


@pytest.mark.parametrize("what", PROCESSES)
def test_processes(sandbox, what) -> None:
    before = processes()
    began = time.monotonic()
    outcome = run(sandbox, PROCESSES[what].replace("{caller}", str(os.getpid())))
    assert outcome.status in ("failed", "memory") and "Error" in outcome.why, outcome
    assert time.monotonic() - began < 60
    assert within(2, lambda: processes() <= before), "nothing is left behind"


def processes() -> set[int]:
    """Those that run programs, by what they were started with."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"marshal.load(sys.stdin.buffer)" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:  # gone meanwhile
            pass
    return found


CALLS = {
    # By number, x86_64 and aarch64 each: what no Python module offers.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "pidfd_open": (434, 434),
    "shmget": (29, 194),
    "personality": (135, 92),
    "sethostname": (170, 161),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "init_module": (175, 105),
    "mknodat": (259, 33),
    "seccomp": (317, 277),
    "capset": (126, 91),
    "timer_create": (222, 107),
    "rt_sigqueueinfo": (129, 138),
}


def test_calls_that_no_module_offers(sandbox) -> None:
    column = 1 if os.uname().machine == "aarch64" else 0
    numbers = {name: pair[column] for name, pair in CALLS.items()}
    text = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
got = {{}}
for name, number in {numbers!r}.items():
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    got[name] = (result, ctypes.get_errno())
assert all(g == (-1, 1) for g in got.values()), {{n: g for n, g in got.items() if g != (-1, 1)}}  # EPERM
result = libc.syscall(ctypes.c_long(462), 0, 0, 0)
assert (result, ctypes.get_errno()) == (-1, 38)  # newer than the table: ENOSYS, so that a C library falls back
"""
    outcome = sandbox.run(text, timeout_s=30.0)
    assert outcome.passed, outcome


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 and int 0x80 are ways of x86_64")
def test_the_same_calls_by_other_numbers(sandbox) -> None:
    x32 = "import ctypes; assert ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 41), 2, 1, 0) == -1; 1 / 0"
    assert run(sandbox, x32).why.startswith("ZeroDivisionError")
    # mov eax, 20 (getpid of 32 bit); int 0x80; ret
    old = (
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n"
        "raise SystemExit('still there')\n"
    )
    outcome = run(sandbox, old)
    assert outcome.status == "killed" and "SIG" in outcome.why, outcome


def test_no_environment(sandbox, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_CALLER", "secret")
    outcome = sandbox.run("import os; print(dict(os.environ)); assert not os.environ")
    assert outcome.passed and outcome.output == "{}\n"
    text = (
        "import ctypes; print(ctypes.CDLL(None).getenv(b'TOKEN_OF_THE_CALLER')); import sys; print(sys.argv, sys.path)"
    )
    outcome = sandbox.run(text)
    assert outcome.passed and outcome.output.startswith("0\n['-c']") and "site-packages" not in outcome.output


def test_no_packages_of_the_caller(sandbox) -> None:
    for name in ("torch", "unforgotten.errors", "pytest"):
        assert re.match("ModuleNotFoundError|ImportError", run(sandbox, f"import {name}").why)


def test_not_root(sandbox) -> None:
    outcome = sandbox.run("import os; print(os.getresuid(), os.getresgid(), os.getgroups())")
    if os.geteuid() == 0:
        assert re.match(r"\((\d{5,}), \1, \1\) \((\d{5,}), \2, \2\) \[\]", outcome.output), outcome


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
    "odd names": "import os\nfor n in (b'\\xff\\xfe', b'-rf', b' ', b'a\\nb'): open(n, 'w'); os.mkdir(n + b'd')",
}


@pytest.mark.parametrize("what", LITTER)
def test_litter_is_swept_up(sandbox, what, tmp_path, monkeypatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = sandbox.run(LITTER[what])
    # A folder that its owner closed may be found by who measures, if that is no other than the owner.
    assert outcome.passed or outcome.why == "wrote a closed folder into its scratch folder"
    assert not list(tmp_path.iterdir()) and Path("/etc").is_dir()


def test_many_empty_files(sandbox) -> None:
    text = "import time\nfor i in range(2000): open(str(i), 'w').close()\ntime.sleep(0.2)"
    outcome = sandbox.run(text, timeout_s=20.0)
    if sandbox.name == "landlock":  # the other has a file system of its own
        assert (outcome.status, outcome.why) == ("scratch", "wrote more than 1000 files into its scratch folder")


def test_death(sandbox) -> None:
    outcome = run(sandbox, "import ctypes; ctypes.string_at(0)")
    assert (outcome.status, outcome.why) == ("killed", "died of SIGSEGV")
    outcome = run(sandbox, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (outcome.status, outcome.why) == ("killed", "died of SIGKILL")
    outcome = run(sandbox, "import os; os.closerange(0, 4096); x = 1")
    assert outcome.status == "failed"


def test_a_message_moves_no_terminal(sandbox) -> None:
    outcome = run(sandbox, r"print('\x1b[2J\x07'); raise ValueError('a\x1b[31m\nb' + 'x' * 10_000)")
    assert outcome.why.startswith("ValueError: a\N{REPLACEMENT CHARACTER}[31m b") and len(outcome.why) <= 300
    assert "\x1b" not in outcome.output


def test_many_at_once_keep_their_order(sandbox) -> None:
    programs = [
        "x = 1",
        "while True: pass",
        "import os; os._exit(0)",
        Program(text="def f(n): return n", check="assert candidate(3) == 3", entry_point="f", timeout_s=30.0),
        "x = bytearray(4 << 30)",
        "import os\nwhile True: os.fork()",
    ] * 2
    outcomes = sandbox.run_many(
        [p if isinstance(p, Program) else Program(text=p, timeout_s=2.0) for p in programs], jobs=3
    )
    assert [o.status for o in outcomes] == ["passed", "timeout", "failed", "passed", "memory", "failed"] * 2


def test_it_dies_with_its_caller(sandbox, tmp_path) -> None:
    """The process that runs a program is killed: the program is not left running."""
    caller = (
        "from unforgotten.sandbox import open_sandbox\n"
        f"sandbox = open_sandbox({sandbox.name!r})\n"
        "print('opened', flush=True)\n"
        "sandbox.run('import time; time.sleep(60)', timeout_s=60)\n"
    )
    before = processes()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", caller], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"opened\n"
        assert within(20, lambda: processes() - before)
        time.sleep(1)
        assert processes() - before
        process.kill()
    assert within(10, lambda: processes() <= before)


def within(seconds: float, holds) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False
