"""What a safetensors file says of its tensors, read without the library and without any allocation it asks for.

The format [huggingface/safetensors, README: Format]: 8 bytes, the header's length; JSON of name -> dtype, shape,
data_offsets; the tensors' bytes without gaps.
"""

from __future__ import annotations

import math
import os
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder.limits import limit
from unforgotten.models.folder.reading import parse

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32},
    **{"F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64},
}

Shapes = dict[str, tuple[int, ...]]


def shapes(descriptor: int, name: str, called: str) -> Shapes:
    """Each tensor's shape. Raises ModelError for a header that is too long, or does not fit the file."""

    def refuse(why: str) -> ModelError:
        return ModelError(f"{called}: {name} {why}. Copy or download the file again.")

    size = os.fstat(descriptor).st_size
    most = limit("UNFORGOTTEN_MAX_HEADER_MB")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > size - 8:
        raise refuse(f"is cut short: it has {size} bytes")
    if length > most * 1e6:
        raise refuse(f"has a header of {length / 1e6:.0f} MB, more than {most:g} (UNFORGOTTEN_MAX_HEADER_MB)")
    tensors = parse(os.pread(descriptor, length, 8), f"the header of {name}", called)
    tensors.pop("__metadata__", None)
    return _checked(tensors, size - 8 - length, refuse)


def _checked(tensors: dict[str, Any], room: int, refuse: Any) -> Shapes:
    shapes: Shapes = {}
    spans = []
    for tensor, facts in tensors.items():
        try:
            shape, bits = facts["shape"], BITS[facts["dtype"]]
            start, end = facts["data_offsets"]
            right = all(type(n) is int and n >= 0 for n in (*shape, start, end))
        except (TypeError, KeyError, ValueError):
            raise refuse(f"says of {tensor[:200]!r} what no tensor is") from None
        if not right or len(shape) > 16 or (math.prod(shape) * bits + 7) // 8 != end - start:
            raise refuse(f"gives {tensor[:200]!r} a shape that its bytes do not have")
        shapes[tensor] = tuple(shape)
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise refuse("has tensors that overlap, or bytes that belong to none")
        at = end
    if at != room:
        raise refuse(f"has {room} bytes of tensors where its header says {at}")
    return shapes
