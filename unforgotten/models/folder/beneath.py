"""Files opened beneath one folder, whatever links and names say: a path that leads out of it is refused.

Linux opens with openat2 and RESOLVE_BENEATH [man 2 openat2]; elsewhere each part of the path is opened by itself,
without following, and links are read and walked by hand.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unforgotten.errors import ModelError

_OPENAT2 = 437  # the same number on every architecture [linux: arch/*/entry/syscalls]
_BENEATH, _NO_MAGIC_LINKS = 0x08, 0x02
_MOST_LINKS = 40
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not make us wait


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextmanager
def root(folder: Path) -> Iterator[int]:
    """A descriptor of the folder that nothing may lead out of."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(top: int, path: str, called: str) -> int | None:
    """A descriptor of the regular file `path` beneath `top`; None where there is none.

    called: the folder's name in errors. Raises ModelError for what leads out, and for what is no regular file.
    """
    descriptor = _opened(top, path, _READ, called)
    if descriptor is None:
        return None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise ModelError(f"{called}: {path} is not a regular file. Put the file itself there.")
    if facts.st_nlink > 1 and facts.st_uid not in (os.fstat(top).st_uid, os.geteuid(), 0):
        os.close(descriptor)
        raise ModelError(f"{called}: {path} is a hard link to another owner's file. Copy the file itself.")
    return descriptor


def names(top: int, path: str, called: str, most: int = 100) -> list[str]:
    """What a folder beneath `top` holds, sorted; nothing where there is no such folder."""
    descriptor = _opened(top, path, _READ | os.O_DIRECTORY, called)
    if descriptor is None:
        return []
    try:
        files = sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)
    if len(files) > most:
        raise ModelError(f"{called}: {path} holds {len(files)} files, more than {most}. Remove unused files.")
    return files


def _opened(top: int, path: str, flags: int, called: str) -> int | None:
    try:
        return _openat2(top, path, flags) if _has_openat2() else _walk(top, path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise ModelError(
                f"{called}: {path} points out of the folder. Files outside a model's folder are not read. Put the "
                "file itself there."
            ) from None
        raise ModelError(f"{called}: {path} cannot be read: {error.strerror}.") from error


_known: bool | None = None


def _has_openat2() -> bool:
    global _known
    if _known is None:
        _known = False
        if sys.platform == "linux" and platform.machine() != "alpha":
            try:
                with root(Path("/")) as top:
                    os.close(_openat2(top, ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                _known = True
            except OSError:  # an old kernel, or a container that forbids the call
                pass
    return _known


def _openat2(top: int, path: str, flags: int) -> int:
    how = _How(flags, 0, _BENEATH | _NO_MAGIC_LINKS)
    call = ctypes.CDLL(None, use_errno=True).syscall
    for _ in range(32):
        descriptor = call(_OPENAT2, top, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        if (code := ctypes.get_errno()) not in (errno.EAGAIN, errno.EINTR):  # something above was renamed meanwhile
            raise OSError(code, os.strerror(code), path)
    raise OSError(errno.EXDEV, "the folder is renamed again and again", path)


def _walk(top: int, path: str, flags: int) -> int:
    """The same by hand: folders from `top` to where we stand are kept open, so that `..` never leaves `top`."""
    todo, links = path.split("/")[::-1], 0
    stack = [os.dup(top)]
    if path.startswith("/"):
        os.close(stack[0])
        raise OSError(errno.EXDEV, "absolute", path)
    try:
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(stack) == 1:
                    raise OSError(errno.EXDEV, "leads out", path)
                os.close(stack.pop())
                continue
            if stat.S_ISLNK(os.stat(part, dir_fd=stack[-1], follow_symlinks=False).st_mode):
                links += 1
                target = os.readlink(part, dir_fd=stack[-1])
                if links > _MOST_LINKS or target.startswith("/"):
                    raise OSError(errno.EXDEV, "leads out", path)
                todo += target.split("/")[::-1]
                continue
            last = not any(p not in ("", ".") for p in todo)
            how = (flags if last else os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) | os.O_NOFOLLOW
            stack.append(os.open(part, how, dir_fd=stack[-1]))
        return os.dup(stack[-1])
    finally:
        for descriptor in stack:
            os.close(descriptor)
