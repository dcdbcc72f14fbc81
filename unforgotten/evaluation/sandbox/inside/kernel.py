"""Landlock, seccomp and what goes with them, through ctypes. Linux, x86_64 and aarch64; standard library only.

Sources: the kernel's Documentation/userspace-api/landlock.rst and seccomp_filter.rst, include/uapi/linux/{landlock,
seccomp,filter,prctl,capability}.h. Every function raises OSError with the name of the call that the kernel refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence

from unforgotten.evaluation.sandbox.inside import syscalls

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# ── Landlock ──

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_ABI_1 = (1 << 13) - 1
_TCP = 0b11  # bind and connect
_SCOPES = 0b11  # abstract unix sockets and signals of processes outside
_READ = _READ_FILE | _READ_DIR
_CHANGE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE
_OF_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE


def landlock_abi() -> int:
    """The kernel's version of Landlock, from 1; 0 where there is none or it is switched off."""
    if sys.platform != "linux":
        return 0
    try:
        return _call("landlock_create_ruleset", _CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def landlock(readable: Sequence[str], writable: Sequence[str]) -> int:
    """From now on, files and folders are read only below `readable`, and changed only below `writable`; for good.

    Nothing may be executed. What the kernel is too old to handle is left to seccomp. Returns the ABI.
    """
    if not (abi := landlock_abi()):
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock")
    handled = _ALL_OF_ABI_1 | (abi >= 2) * _REFER | (abi >= 3) * _TRUNCATE | (abi >= 5) * _IOCTL_DEV
    attributes = struct.pack("QQQ", handled, (abi >= 4) * _TCP, (abi >= 6) * _SCOPES)
    size = 8 if abi < 4 else 16 if abi < 6 else 24  # older kernels know shorter ones
    ruleset = _call("landlock_create_ruleset", _CREATE_RULESET, attributes, size, 0)
    try:
        for paths, rights in ((readable, _READ), (writable, _CHANGE)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= ~0 if os.path.isdir(path) else _OF_A_FILE
        _call(f"landlock_add_rule for {path}", _ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


# ── seccomp ──

_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # classic BPF, linux/filter.h
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE = _FAIL | errno.EPERM
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_PR_SET_SECCOMP, _FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def seccomp() -> None:
    """From now on, this process makes only the calls of syscalls.py; any other fails with EPERM. For good."""
    instructions = b"".join(_filter(platform.machine(), os.getpid()))
    program = _Program(len(instructions) // 8, instructions)
    prctl("seccomp", _PR_SET_SECCOMP, _FILTER, ctypes.addressof(program))


def _filter(machine: str, pid: int) -> Iterator[bytes]:
    if machine not in syscalls.ARCHITECTURES:
        raise OSError(errno.EOPNOTSUPP, f"no table of system calls for {machine}")
    column, architecture = syscalls.ARCHITECTURES[machine]
    # A call in another ABI (32 bit) has other numbers: it ends the process. x32 is above AFTER_THE_LAST.
    yield from (_op(_LOAD, _ARCH), _op(_JUMP_IF_EQUAL, architecture, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NR))
    for numbers in syscalls.FREE.values():
        if (number := numbers[column]) is not None:
            yield from _when(number, [_op(_RETURN, _ALLOW)])
    yield from _when(syscalls.CLONE3[column], [_op(_RETURN, _FAIL | errno.ENOSYS)])
    for own, n, values in syscalls.ONE_OF.values():
        body = [_op(_LOAD, _ARGUMENTS + 8 * n)]
        for value in values:
            body += _when(pid if value == syscalls.OWN_PID else value, [_op(_RETURN, _ALLOW)])
        yield from _when(own[column], [*body, _op(_RETURN, _REFUSE)])
    for numbers, n, mask, value, allowed in syscalls.MASKED.values():
        if (number := numbers[column]) is not None:
            equal, other = (_ALLOW, _REFUSE) if allowed else (_REFUSE, _ALLOW)
            body = [_op(_LOAD, _ARGUMENTS + 8 * n), _op(_AND, mask)]
            yield from _when(number, [*body, *_when(value, [_op(_RETURN, equal)]), _op(_RETURN, other)])
    yield from (_op(0x35, syscalls.AFTER_THE_LAST, 0, 1), _op(_RETURN, _FAIL | errno.ENOSYS))  # jump if ≥
    yield _op(_RETURN, _REFUSE)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _when(value: int, body: Sequence[bytes]) -> list[bytes]:
    """The body where the accumulator equals the value, else past it."""
    return [_op(_JUMP_IF_EQUAL, value, 0, len(body)), *body]


# ── the rest ──

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 8, 38
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
_CAP_VERSION = 0x20080522
_CAP_CALLS = {"x86_64": (125, 126), "aarch64": (90, 91)}  # capget, capset


def prctl(what: str, option: int, value: int, other: int = 0) -> None:
    """prctl(2); `what` is for the message."""
    if _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(v) for v in (value, other, 0, 0))):
        raise OSError(ctypes.get_errno(), f"the kernel refused {what}: {os.strerror(ctypes.get_errno())}")


def capabilities() -> int:
    """The capabilities that this process may switch on, one bit each."""
    data = ctypes.create_string_buffer(24)  # (effective, permitted, inheritable), low words, then high words
    _call("capget", _CAP_CALLS[platform.machine()][0], struct.pack("Ii", _CAP_VERSION, 0), data)
    words = struct.unpack("6I", data.raw)
    return words[1] | words[4] << 32


def keep_capability(number: int) -> None:
    """This capability is switched on, and every other is given up."""
    bit = 1 << number
    data = struct.pack("6I", bit, bit, 0, 0, 0, 0)
    _call("capset", _CAP_CALLS[platform.machine()][1], struct.pack("Ii", _CAP_VERSION, 0), data)


def _call(what: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"the kernel refused {what}: {os.strerror(ctypes.get_errno())}")
    return int(result)
