"""A sandbox is opened because hostile programs failed in it, never because it is installed; else nothing is run."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from unforgotten.errors import SandboxError
from unforgotten.evaluation.sandbox import open_sandbox, probe, scratch
from unforgotten.evaluation.sandbox.bubblewrap import Bubblewrap
from unforgotten.evaluation.sandbox.inside import kernel, syscalls
from unforgotten.evaluation.sandbox.landlock import Landlock
from unforgotten.evaluation.sandbox.program import ProcessPlace


@pytest.fixture
def sandboxes(monkeypatch):
    """`sandboxes(A, B)`: these are all that there are."""

    def offer(*kinds):
        monkeypatch.setattr(probe, "SANDBOXES", kinds)

    yield offer
    probe._fault.cache_clear()


class Missing(Bubblewrap):
    name = "missing"

    @contextmanager
    def place(self, program):
        with scratch.fresh() as folder:
            yield ProcessPlace(prefix=("/no/such/bwrap",), scratch="/scratch", watched=folder, landlock=False)


class Open(Landlock):
    """Starts programs and confines nothing: the lock is left out by a stand-in for the module that shuts it."""

    name = "open"


def test_the_first_that_holds_is_taken(sandboxes) -> None:
    if probe._fault(Landlock):
        pytest.skip(f"Landlock does not hold here: {probe._fault(Landlock)}")
    sandboxes(Missing, Landlock)
    assert open_sandbox().name == "landlock" and open_sandbox("landlock").name == "landlock"


def test_where_none_holds_the_error_says_why_and_what_to_do(sandboxes) -> None:
    sandboxes(Missing)
    with pytest.raises(SandboxError) as error:
        open_sandbox()
    text = str(error.value)
    assert "not run without one" in text and "/no/such/bwrap" in text and "apt install bubblewrap" in text


def test_an_unknown_name() -> None:
    with pytest.raises(SandboxError, match="no sandbox 'docker'. There are: bubblewrap, landlock"):
        open_sandbox("docker")


@pytest.mark.parametrize("what", ["kernel.seccomp()", 'kernel.landlock(settings["readable"], [".", "/dev/null"])'])
def test_a_wall_with_a_hole_is_found_out(sandboxes, monkeypatch, what) -> None:
    """With one of its two locks left open, the probe sees it."""
    if why := probe._fault(Landlock):
        pytest.skip(f"Landlock does not hold here: {why}")
    from unforgotten.evaluation.sandbox import interpreter

    def unlocked():
        modules = []
        for name, code in real():
            if name.endswith(".lockdown"):
                from pathlib import Path

                text = (Path(interpreter.__file__).parent / "inside" / "lockdown.py").read_text()
                assert what in text
                code = compile(text.replace(what, "pass"), "lockdown.py", "exec")
            modules.append((name, code))
        return modules

    real = interpreter._modules
    monkeypatch.setattr(interpreter, "_modules", unlocked)
    sandboxes(Open)
    with pytest.raises(SandboxError, match="opened a socket" if "seccomp" in what else "read a file outside"):
        open_sandbox()


def test_a_kernel_that_refuses(sandboxes, monkeypatch) -> None:
    from unforgotten.evaluation.sandbox import interpreter

    real = interpreter._modules

    def old():
        text = "raise OSError(95, 'this kernel has no Landlock')"
        return [(n, compile(text, "k", "exec") if n.endswith(".kernel") else c) for n, c in real()]

    monkeypatch.setattr(interpreter, "_modules", old)
    sandboxes(Open)
    with pytest.raises(SandboxError, match="could not be set up: OSError: .*no Landlock"):
        open_sandbox()


def test_elsewhere_than_linux_nothing_is_tried(sandboxes, monkeypatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    sandboxes(Open)
    with pytest.raises(SandboxError, match="no Linux"):
        open_sandbox()


def test_a_filter_is_made_for_both_architectures() -> None:
    for machine in syscalls.ARCHITECTURES:
        program = b"".join(kernel._filter(machine, 4321))
        assert len(program) % 8 == 0 and len(program) // 8 < 4096  # BPF_MAXINSNS
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        list(kernel._filter("riscv64", 1))


def test_the_filter_decides_as_the_table_says() -> None:
    """The filter, run by an interpreter of its own for the six instructions that it uses."""
    for machine, (column, audit) in syscalls.ARCHITECTURES.items():
        program = list(kernel._filter(machine, 4321))
        allow, eperm, enosys, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000

        def call(number, *arguments, arch=audit, program=program):
            return interpret(program, number, arch, [*arguments, 0, 0, 0, 0, 0, 0])

        for numbers in syscalls.FREE.values():
            if numbers[column] is not None:
                assert call(numbers[column]) == allow
        assert call(syscalls.FREE["read"][column], arch=0x40000003) == kill
        assert call(syscalls.CLONE3[column]) == enosys and call(500) == enosys
        one_of = {name: numbers[column] for name, (numbers, _, _) in syscalls.ONE_OF.items()}
        masked = {name: numbers[column] for name, (numbers, *_) in syscalls.MASKED.items()}
        assert call(one_of["kill"], 4321, 9) == allow and call(one_of["kill"], 1, 9) == eperm
        assert call(one_of["kill"], (1 << 32) - 1, 9) == eperm and call(one_of["kill"], 0, 9) == eperm
        assert call(one_of["tgkill"], 4321, 4322, 9) == allow and call(one_of["tgkill"], 1, 1, 9) == eperm
        assert call(one_of["fcntl"], 3, 8) == eperm and call(one_of["fcntl"], 3, 3) == allow  # F_SETOWN, F_GETFL
        assert (
            call(one_of["ioctl"], 0, 0x5412) == eperm and call(one_of["ioctl"], 0, 0x5401) == allow
        )  # TIOCSTI, TCGETS
        assert call(one_of["prctl"], 1) == eperm and call(one_of["prctl"], 15) == allow  # PDEATHSIG, NAME
        assert call(one_of["prlimit64"], 0) == allow and call(one_of["prlimit64"], 77) == eperm
        thread = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000
        assert call(masked["clone"], thread) == allow and call(masked["clone"], 17) == eperm  # SIGCHLD: a fork
        assert call(masked["clone"], thread | 0x10000000) == eperm  # a namespace of users
        assert call(masked["openat"], 0, 0, 0o1000) == eperm and call(masked["openat"], 0, 0, 0o1001) == allow
        assert call(masked["openat"], 0, 0, 0) == allow


def interpret(program: list[bytes], number: int, arch: int, arguments: list[int]) -> int:
    import struct

    data = struct.pack("=IIQ6Q", number, arch, 0, *(a & (1 << 64) - 1 for a in arguments[:6]))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack("HBBI", program[at])
        at += 1
        if code == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code in (0x15, 0x35):
            at += if_true if (accumulator == value if code == 0x15 else accumulator >= value) else if_false
        elif code == 0x06:
            return value
        else:
            raise AssertionError(hex(code))
