"""A stranger's file as a stream of bytes: regular, unpacked where it is packed, and no more of it than is allowed.

Nothing is held but a piece, so that a file that unpacks to a thousand times its size costs no memory.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from unforgotten.errors import DataError
from unforgotten.runs.bounds import bounds, over

PIECE = 1 << 16
FREE_BYTES = 16 << 20
"""What every packed file may unpack to, whatever the ratio."""
_XZ_MEMORY_BYTES = 256 << 20
"""The dictionary that an .xz may ask for; `xz -9` takes 65 MiB."""
_KINDS: dict[int, str] = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def kind_of_file(file: Path) -> str:
    """`a named pipe`, `a device` and so on; empty for a regular file, or where there is nothing."""
    try:
        return _KINDS.get(stat.S_IFMT(file.stat().st_mode), "")
    except (OSError, ValueError):  # nothing there, or a name that no file can have
        return ""


def regular(name: str, file: Path) -> io.BufferedReader[io.FileIO]:
    """The file, opened without waiting. Raises DataError where it is a pipe, a device or a folder, or is too large."""
    try:
        number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError:
        raise DataError(f"{name!r} is not a file name.") from None
    except OSError as error:
        known = {errno.EISDIR: "it is a folder", errno.ENXIO: "it is not a regular file"}
        raise DataError(f"{name} cannot be read: {known.get(error.errno or 0, error.strerror)}.") from None
    raw = io.BufferedReader(io.FileIO(number, "rb"), PIECE)
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode):
        raw.close()
        raise DataError(f"{name} is {_KINDS.get(stat.S_IFMT(facts.st_mode), 'no regular file')}, not a file of rows.")
    if facts.st_size > (most := bounds().file_bytes):
        raw.close()
        raise DataError(f"{name} has {facts.st_size:,} bytes; {over('file_bytes', most)}. Split it.")
    return raw


def stream(name: str, file: Path) -> BinaryIO:
    """The file's bytes, gzip and xz unpacked. Reading raises DataError where a limit is passed or the file is cut."""
    return io.BufferedReader(_Stream(_bounded(name, file)), PIECE)


def _bounded(name: str, file: Path) -> Iterator[bytes]:
    limits, given = bounds(), 0
    with regular(name, file) as raw:
        size = os.fstat(raw.fileno()).st_size
        most_inflated = max(FREE_BYTES, limits.inflation * size)
        head = raw.peek(6)[:6]
        kind = "gzip" if head.startswith(b"\x1f\x8b") else "xz" if head.startswith(b"\xfd7zXZ\x00") else ""
        pieces = _unpackers[kind](raw) if kind else iter(lambda: raw.read(PIECE), b"")
        try:
            for piece in pieces:
                given += len(piece)
                if given > limits.file_bytes:
                    what = "unpacks to" if kind else "has"
                    raise DataError(
                        f"{name} {what} more than {limits.file_bytes:,} bytes; "
                        f"{over('file_bytes', limits.file_bytes)}. Split it."
                    )
                if kind and given > most_inflated:
                    raise DataError(
                        f"{name} unpacks to more than {limits.inflation} times its {size:,} bytes; "
                        f"{over('inflation', limits.inflation)}. Unpack it yourself if you trust it."
                    )
                yield piece
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{name} is not a complete {kind} file: {error}.") from None
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}.") from None


def _gunzipped(raw: BinaryIO) -> Iterator[bytes]:
    """The members of a gzip file. zlib reads their headers itself, however long the names in them are."""
    engine, begun = zlib.decompressobj(31), False
    while data := raw.read(PIECE):
        while data:
            begun = True
            yield engine.decompress(data, PIECE)
            data = engine.unconsumed_tail
            if engine.eof:
                data, begun = engine.unused_data.lstrip(b"\0"), False
                engine = zlib.decompressobj(31)
    if begun:
        yield engine.flush()
        if not engine.eof:
            raise EOFError("it ends too early")


def _unxzed(raw: BinaryIO) -> Iterator[bytes]:
    engine, begun = _xz(), False
    while data := raw.read(PIECE):
        while data or not engine.needs_input:
            begun = True
            yield engine.decompress(data, PIECE)
            data = b""
            if engine.eof:
                data, begun = engine.unused_data.lstrip(b"\0"), False
                engine = _xz()
    if begun:
        raise EOFError("it ends too early")


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


_unpackers: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {"gzip": _gunzipped, "xz": _unxzed}


class _Stream(io.RawIOBase):
    """Pieces as a file, for its buffering and its lines."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n = min(len(into), len(self._rest))
        into[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n
