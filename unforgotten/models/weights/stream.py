"""A safetensors file written tensor by tensor, so that a whole model is never in memory.

The format [huggingface/safetensors, README: Format]: 8 bytes, little-endian, the header's length; the header, JSON of
name -> dtype, shape, data_offsets; then the tensors' bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from unforgotten.models.weights.base import DTYPES, ByRows, Source
from unforgotten.runs.atomic import part_of

CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5 * 10**9
"""As `save_pretrained` splits."""


def stream(
    like: Source,
    edits: Iterable[tuple[str, Tensor | ByRows]],
    folder: Path,
    *,
    dtype: Callable[[str], torch.dtype] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, int]:
    """Writes model.safetensors (or shards with their index): every tensor of `like`, with `edits` in place of some.

    edits: (name, tensor) in any order, each computed when it is written. dtype: what a tensor is stored as; `like`'s
    own by default. Returns {"edited": …, "copied": …}, counts of tensors. Raises ValueError for an edit of no tensor
    or of another shape; where anything fails, no file is left that was not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored_as = dtype or like.dtype
    shards = _shards(like, stored_as, shard_bytes)
    files = {name: file for file, names in shards.items() for name in names}
    parts = {file: part_of(folder / file) for file in shards}
    places: dict[str, tuple[Path, int]] = {}
    edited: set[str] = set()
    try:
        for file, names in shards.items():
            places |= _allocate(parts[file], names, like, stored_as)
        for name, tensor in edits:
            if name not in files:
                raise ValueError(f"{name!r} is not a tensor of the model")
            if tuple(tensor.shape) != like.shape(name):
                raise ValueError(f"{name!r} is edited to {tuple(tensor.shape)}, but is {like.shape(name)}")
            _put(*places[name], tensor.parts() if isinstance(tensor, ByRows) else [tensor], stored_as(name))
            edited.add(name)
        for name in files:
            if name not in edited:
                _put(*places[name], [like[name]], stored_as(name))
        for file, part in parts.items():
            os.replace(part, folder / file)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    for stale in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
        if stale.name not in shards:  # what lay here before would be read in place of, or beside, the new weights
            stale.unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(_size(like, name, stored_as) for name in files)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return {"edited": len(edited), "copied": len(files) - len(edited)}


def _size(like: Source, name: str, stored_as: Callable[[str], torch.dtype]) -> int:
    count = 1
    for n in like.shape(name):
        count *= n
    return count * stored_as(name).itemsize


def _shards(like: Source, stored_as: Callable[[str], torch.dtype], limit: int) -> dict[str, list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name in like.names():
        n = _size(like, name, stored_as)
        if groups[-1] and size + n > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += n
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _allocate(
    file: Path, names: list[str], like: Source, stored_as: Callable[[str], torch.dtype]
) -> dict[str, tuple[Path, int]]:
    """Writes the header and makes the file as long as it will be; returns where each tensor's bytes begin."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    starts = {}
    for name in names:
        end = at + _size(like, name, stored_as)
        header[name] = {"dtype": CODES[stored_as(name)], "shape": list(like.shape(name)), "data_offsets": [at, end]}
        starts[name], at = at, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + at)
    return {name: (file, 8 + len(text) + start) for name, start in starts.items()}


def _put(file: Path, at: int, parts: Iterable[Tensor], dtype: torch.dtype) -> None:
    with file.open("r+b") as out:
        out.seek(at)
        for part in parts:
            part.detach().to(dtype).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tofile(out)
