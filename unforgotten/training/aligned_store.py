"""What θ_safe determines, built once: anchors and stored states, kept on disk under a digest of what they follow from.

A resumed run only reads them: its live weights are no longer θ_safe, so what is missing then cannot be made again.
Everything is written to a temporary file and renamed; a shard that exists was whole when it was written. Each file
holds the sha256 of its name and its tensors (in safetensors' own metadata), and is read back only if they agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unforgotten.errors import TrainingError
from unforgotten.runs import atomic

SHA = "sha256"
Tensors = dict[str, Tensor]


class DamagedFile(Exception):
    """A stored file that is not what was written."""


def write(path: Path, tensors: Tensors, label: str = "") -> None:
    """Safetensors, whole or not at all; with a label, also the sha256 of that and of the tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = atomic.part_of(path)
    plain = {n: t.detach().contiguous().cpu() for n, t in tensors.items()}
    try:
        save_file(plain, part, metadata={SHA: sha256(label, plain)} if label else None)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, label: str) -> Tensors:
    """What `write` wrote there under this label. A file without a digest is taken.

    Raises DamagedFile for anything else.
    """
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(SHA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"it cannot be read: {error}") from None
    if written is not None and written != sha256(label, tensors):
        raise DamagedFile("its tensors changed after they were written")
    return tensors


def sha256(label: str, tensors: Tensors) -> str:
    """Over the label, and each tensor's name, type, shape and bytes."""
    hasher = hashlib.sha256(label.encode())
    for name, tensor in sorted(tensors.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def digest(*facts: Any) -> str:
    """16 hex digits over JSON-like facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint(tensors: Iterable[tuple[str, Tensor]], samples: int = 4096) -> str:
    """Tells one set of weights from another by up to `samples` evenly spaced elements of each tensor.

    Not a proof of equality, but any training step changes nearly every element, and hashing 14 GB would take longer
    than it is worth.
    """
    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // samples)].to("cpu", torch.float64)
        hasher.update(f"{name}{tuple(tensor.shape)}".encode())
        hasher.update(some.numpy().tobytes())
    return hasher.hexdigest()[:16]


class Once:
    """A folder of things that θ_safe determines; `key` is the digest of θ_safe, memory and arguments."""

    def __init__(
        self, folder: Path, key: str, *, may_build: bool, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """warn: is called with a message for each damaged file that is computed again."""
        self.folder, self.key, self.may_build, self.warn = folder, key, may_build, warn

    def __call__(self, name: str, build: Callable[[], Tensors]) -> Tensors:
        """The stored tensors called `name`, or `build()`, stored."""
        return self._stored(self._file(name), name, build)

    def has(self, name: str) -> bool:
        """Whether there is a whole file of that name."""
        try:
            read(self._file(name), self._label(self._file(name)))
        except DamagedFile:
            return False
        return True

    def shards(
        self, name: str, count: int, build: Callable[[int], Tensors], only: Iterable[int] | None = None
    ) -> Tensors:
        """`build(i)` for i < count (or the i in `only`), each stored as it is made: a kill loses one shard at most."""
        tensors: Tensors = {}
        for i in range(count) if only is None else only:
            path = self._folder(name) / f"{i:05d}-of-{count:05d}.safetensors"
            tensors |= self._stored(path, name, partial(build, i))
        return tensors

    def count(self, name: str) -> int | None:
        """How many shards `name` was made in, where all of them are there."""
        names = [file.stem for file in self._folder(name).glob("*-of-*.safetensors")]
        counts = {int(stem.rpartition("-")[2]) for stem in names if stem.rpartition("-")[2].isdecimal()}
        return next((n for n in sorted(counts) if all(f"{i:05d}-of-{n:05d}" in names for i in range(n))), None)

    def drop_shards(self, name: str) -> None:
        """Removes the shards of `name`, once what follows from them is stored."""
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def refuse_late(self, name: str) -> None:
        if not self.may_build:
            raise TrainingError(
                f"{name!r} of the aligned model is not in {self.folder} for this model, memory and setting. A resumed "
                "run cannot compute it again, since its weights have changed. Resume with the same model, safety "
                "data and method as before, or start anew with an empty output folder."
            )

    def _stored(self, path: Path, name: str, build: Callable[[], Tensors]) -> Tensors:
        if path.exists():
            try:
                return read(path, self._label(path))
            except DamagedFile as damage:
                if not self.may_build:
                    raise TrainingError(
                        f"{path} is damaged: {damage}. It holds {name!r} of the aligned model. A resumed run cannot "
                        f"compute it again, since its weights have changed. Put the file back, or move {self.folder} "
                        "and the checkpoints away and start anew."
                    ) from None
                self.warn(f"{path} is damaged ({damage}) and is computed again")
        self.refuse_late(name)
        write(path, build(), self._label(path))
        return read(path, self._label(path))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}-{self.key}.safetensors"

    def _folder(self, name: str) -> Path:
        return self.folder / f"{name}-{self.key}"

    def _label(self, path: Path) -> str:
        """A file's place in the folder, so that one shard in another's place is seen."""
        return path.relative_to(self.folder).as_posix()
