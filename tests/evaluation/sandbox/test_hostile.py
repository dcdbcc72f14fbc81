"""Hostile programs: each is stopped in every sandbox there is, the next one runs, and `why` says what was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluation.sandbox.stopped import descendants, processes, run, stopped, within
from unforgotten.evaluation.sandbox.inside import syscalls

REFUSED = r"(PermissionError|FileNotFoundError|OSError): \[Errno \d+\]"


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
    "read its own memory": "open('/proc/self/mem', 'rb').read(1)",
    "write its own memory": "open('/proc/self/mem', 'r+b')",
    "read its own descriptors": "import os; os.listdir('/proc/self/fd')",
    "read what the caller prints": "open('/proc/{caller}/fd/1')",
    "read the caller's environment": "open('/proc/{caller}/environ').read()",
    "read the kernel's settings": "open('/sys/kernel/mm/transparent_hugepage/enabled').read()",
    "write to shared memory": "open('/dev/shm/x', 'w')",
    "name shared memory": "from multiprocessing import shared_memory as s; s.SharedMemory(create=True, size=9)",
    "remove the scratch folder": "import os; os.rmdir(os.getcwd())",
    "move the scratch folder": "import os; os.rename(os.getcwd(), os.getcwd() + 'x')",
    "write beside it": "open('../beside', 'w')",
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
    project = Path(__file__).parents[3] / "unforgotten" / "errors.py"
    library = Path(os.__file__).read_bytes()
    names = {"secret": str(outside / "secret"), "folder": str(outside), "project": str(project)}
    programs = [text.format(**names, caller=os.getpid(), home=str(Path.home())) for text in FILES.values()]
    for what, outcome in zip(FILES, sandbox.map(sandbox.run, programs), strict=True):
        assert re.match(REFUSED, stopped(outcome).why), (what, outcome)
    assert Path(os.__file__).read_bytes() == library


NETWORK = {
    "internet": "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "internet, datagrams": "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "unix": "import socket; socket.socket(socket.AF_UNIX)",
    "kernel": "import socket; socket.socket(16, socket.SOCK_RAW)",
    "abstract": "import socket; socket.socket(socket.AF_UNIX).connect('\\0name')",
    "a pair": "import socket; socket.socketpair()",
    "an event loop": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
}


def test_network(sandbox) -> None:
    for what, outcome in zip(NETWORK, sandbox.map(sandbox.run, NETWORK.values()), strict=True):
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
    left = processes() - before  # those of other tests that run beside this one end by themselves
    assert within(60, lambda: not left & processes()), "nothing is left behind"


CALLS = {
    # By number, x86_64 and aarch64 each: what no Python module offers.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "inotify_init1": (294, 26),
    "memfd_create": (319, 279),
    "execveat": (322, 281),
    "pidfd_getfd": (438, 438),
    "landlock_create_ruleset": (444, 444),
    "vmsplice": (278, 75),
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


def test_every_call_that_the_table_lacks_is_refused(sandbox) -> None:
    column = syscalls.ARCHITECTURES[os.uname().machine][0]
    tables = (*syscalls.FREE.values(), *(t[0] for t in (*syscalls.ONE_OF.values(), *syscalls.MASKED.values())))
    free = {numbers[column] for numbers in (*tables, syscalls.CLONE3)}
    # uretprobe and uprobe: the kernel asks no filter, and ends with SIGILL whoever calls them by himself.
    free |= {335, 336} if column == 0 else set()
    text = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
got = [(n, libc.syscall(ctypes.c_long(n), 0, 0, 0, 0, 0, 0), ctypes.get_errno()) for n in range(600) if n not in {free}]
assert len(got) > 300
assert all(g[1:] == (-1, 1 if g[0] < {syscalls.AFTER_THE_LAST} else 38) for g in got), got
"""
    assert sandbox.run(text, timeout_s=30.0).passed


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
        ("x = 1", {"timeout_s": 30.0}),
        ("while True: pass", {}),
        ("import os; os._exit(0)", {"timeout_s": 30.0}),
        ("def f(n): return n", {"check": "assert candidate(3) == 3", "entry_point": "f", "timeout_s": 30.0}),
        ("x = bytearray(4 << 30)", {"timeout_s": 30.0}),
        ("import os\nwhile True: os.fork()", {"timeout_s": 30.0}),
    ] * 2
    outcomes = sandbox.map(lambda p: sandbox.run(p[0], **{"timeout_s": 2.0, **p[1]}), programs, jobs=3)
    assert [o.status for o in outcomes] == ["passed", "timeout", "failed", "passed", "memory", "failed"] * 2


def test_it_dies_with_its_caller(sandbox, tmp_path) -> None:
    """The process that runs a program is killed: the program is not left running."""
    caller = (
        "from unforgotten.evaluation.sandbox import open_sandbox\n"
        f"sandbox = open_sandbox({sandbox.name!r})\n"
        "print('opened', flush=True)\n"
        "sandbox.run('import time; time.sleep(60)', timeout_s=60)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", caller], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"opened\n"
        assert within(60, lambda: descendants(process.pid))
        time.sleep(1)
        assert (started := descendants(process.pid) & processes())
        process.kill()
    assert within(10, lambda: not started & processes())
