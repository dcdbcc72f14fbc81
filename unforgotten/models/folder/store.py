"""A private store of model files by their content: copied once, checked, and readable by this user alone.

models/ in the cache folder (0700)
  blobs/<sha256>     a large file's bytes
  folders/<digest>/  one model as it is loaded: links to large files, small ones as they are
  parts/             what is being copied; removed when the copy fails, or is a day old
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unforgotten.errors import ModelError
from unforgotten.runs import atomic, digests

_CLONE = 0x40049409  # FICLONE [linux/fs.h]: one copy on disk, two files
CHUNK = 1 << 20
SMALL = 1 << 20
SPARE = 500_000_000
"""Bytes of disk that a copy must leave free."""
TOLD = 100_000_000
"""Copies of at least this many bytes are logged."""


@dataclass(frozen=True)
class Item:
    """One file of a model as it is to be loaded."""

    name: str
    sha256: str
    content: bytes | None = None
    """Bytes of a small file, exactly as they will be read."""
    link: Path | None = None
    """A large file: its blob, or a file of a folder that only this user can write."""


def home() -> Path:
    """The store's folder. Raises ModelError where it cannot be this user's alone."""
    folder = digests.cache_folder() / "models"
    try:
        atomic.private_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise ModelError(
                f"{folder} does not belong to this user. Remove it, or set UNFORGOTTEN_CACHE to another folder."
            )
        if stat.S_IMODE(facts.st_mode) != 0o700:
            folder.chmod(0o700)
        for part in ("blobs", "folders", "parts", "digests"):
            (folder / part).mkdir(exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"Models are loaded from a private copy, but {folder} cannot be written: {error.strerror}. Set "
            "UNFORGOTTEN_CACHE to a writable folder."
        ) from error
    return folder


def small(descriptor: int) -> bytes:
    """A whole file's bytes; closes the file."""
    with os.fdopen(descriptor, "rb") as source:
        return source.read()


def sha256(descriptor: int, *, again: bool) -> str:
    """Of a file's bytes; remembered by device, inode, size and both times of change, of which one cannot be set.

    again: every byte is read, whatever is remembered.
    """
    facts = os.fstat(descriptor)
    key = digests.digest(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    noted = home() / "digests" / key
    if not again and facts.st_size > SMALL and noted.is_file():
        return noted.read_text()
    with os.fdopen(os.dup(descriptor), "rb") as source:
        source.seek(0)
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    _note(descriptor, facts, noted, digest)
    return digest


def _note(descriptor: int, before: os.stat_result, noted: Path, digest: str) -> None:
    """Remembers a digest, unless the file changed while it was read, or so lately that its times may not tell."""
    after = os.fstat(descriptor)
    same = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
    if same and after.st_size > SMALL and time.time() - after.st_ctime > 2:
        atomic.put(noted, digest)


def blob(descriptor: int, *, again: bool) -> tuple[str, Path, int]:
    """A private copy of a file: its digest, where it is, and how many bytes were copied. Raises ModelError."""
    root, size = home(), os.fstat(descriptor).st_size
    digest = sha256(descriptor, again=again)
    target = root / "blobs" / digest
    if target.is_file() and target.stat().st_size == size:
        if not again or _whole(target, digest):
            return digest, target, 0
    _room(root, size)
    with _part(root) as part:
        digest = _copied(descriptor, part)
        target = root / "blobs" / digest
        part.chmod(0o444)
        os.replace(part, target)
    return digest, target, size


def _whole(target: Path, wanted: str) -> bool:
    with target.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == wanted


def _room(root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size + SPARE:
        raise ModelError(
            f"A private copy of the model takes {(size + SPARE) / 1e9:.1f} GB with spare room, but the disk of {root} "
            f"has {free / 1e9:.1f} GB. Set UNFORGOTTEN_CACHE to a larger disk, or remove {root}, which is made again."
        )


@contextmanager
def _part(root: Path) -> Iterator[Path]:
    for old in (root / "parts").iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.lstat().st_mtime > 86_400:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    part = root / "parts" / uuid.uuid4().hex
    try:
        yield part
    except OSError as error:
        raise ModelError(f"The model cannot be copied to {root}: {error.strerror}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _copied(descriptor: int, part: Path) -> str:
    """Copies, as a clone where the disk can, and returns the digest of the bytes that the copy has."""
    with part.open("xb") as out, os.fdopen(os.dup(descriptor), "rb") as source:
        source.seek(0)
        if _cloned(source.fileno(), out.fileno()):
            with part.open("rb") as clone:
                return hashlib.file_digest(clone, "sha256").hexdigest()
        hasher = hashlib.sha256()
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            out.write(chunk)
        return hasher.hexdigest()


def _cloned(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _CLONE, source)
    except OSError:
        return False
    return True


def folder(items: list[Item]) -> Path:
    """One model's files together in a private folder, made once for the same content."""
    root = home()
    facts = [(item.name, item.sha256, None if item.link is None else str(item.link)) for item in items]
    name = hashlib.sha256(repr(sorted(facts)).encode()).hexdigest()
    target = root / "folders" / name
    if target.is_dir() and all(_stands(target / item.name, item) for item in items):
        return target
    with _part(root) as part:
        part.mkdir()
        for item in items:
            file = part / item.name
            file.parent.mkdir(parents=True, exist_ok=True)
            if item.content is not None:
                file.write_bytes(item.content)
            elif item.link is not None:
                file.symlink_to(item.link)
        if target.exists():  # a link in it leads nowhere any more
            os.rename(target, root / "parts" / uuid.uuid4().hex)
        try:
            os.rename(part, target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    return target


def _stands(file: Path, item: Item) -> bool:
    if item.content is not None:
        return file.is_file() and file.stat().st_size == len(item.content)
    assert item.link is not None
    return file.exists() and file.samefile(item.link)


@contextmanager
def scratch() -> Iterator[Path]:
    """A path in the store for a file that is gone afterwards."""
    with _part(home()) as part:
        yield part


def hashed(content: bytes) -> str:
    """SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()
