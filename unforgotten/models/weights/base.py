"""Where weights are read from, one tensor at a time: whatever names a model, opened as a source.

Names are those of the Hub's files (`model.layers.0.self_attn.q_proj.weight`). Nothing is loaded before it is asked for,
so that an edit of a 70B model needs the memory of a few tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from unforgotten.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Factors:
    """A change of a weight as a product: up (out, r) · down (r, in), the adapter's scale in `up`."""

    up: Tensor
    down: Tensor

    def dense(self) -> Tensor:
        """(out, in)."""
        return self.up @ self.down


@dataclass(frozen=True)
class ByRows:
    """A new weight made some rows at a time as it is written, so that the whole of it is never in memory."""

    shape: tuple[int, ...]
    parts: Callable[[], Iterator[Tensor]]
    """The rows in order; `rows_a_part` of them in each part but the last."""

    @staticmethod
    def rows_a_part(shape: tuple[int, ...]) -> int:
        """As many rows as make 2^18 numbers: 1 MB in fp32, which a processor's cache holds several times."""
        return max(1, 2**18 // max(1, math.prod(shape[1:])))


class Source(Protocol):
    """One model's weights."""

    def names(self) -> list[str]:
        """Every tensor's public name."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def transposed(self, name: str) -> bool | None:
        """Is it a linear layer's weight kept as (in, out), as Conv1D keeps it (GPT-2)? None where that is not known."""

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, read now, on the CPU or where the live model is."""

    def factors(self, name: str) -> Factors | None:
        """How this model differs here from the one below it (aligned from base, tuned from aligned), if by factors."""


class Held:
    """Weights that are in memory already, by public name."""

    def __init__(self, tensors: Mapping[str, Tensor], turned: Set[str] | None = None) -> None:
        """turned: the weights kept as (in, out), where that is known."""
        self.tensors, self.turned = dict(tensors), turned

    def names(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._at(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._at(name).dtype

    def transposed(self, name: str) -> bool | None:
        return None if self.turned is None else name in self.turned

    def __getitem__(self, name: str) -> Tensor:
        return self._at(name).detach()

    def factors(self, name: str) -> Factors | None:
        return None

    def _at(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"The model has no tensor {name!r}. These weights belong to another architecture.")
        return self.tensors[name]


def conv1d_weights(model: torch.nn.Module) -> set[str]:
    """The weights of a model that are kept as (in, out), by parameter name."""
    return {f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}


def same(first: Source, second: Source, names: Iterable[str] | None = None) -> bool:
    """Whether two models hold the same numbers in these tensors, or in all that both have.

    Compared in the coarser of their types: weights stored again in more or fewer bits are the same ones.
    """
    there = set(second.names())
    return not any(differ(first[n], second[n]) for n in (first.names() if names is None else names) if n in there)


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by more than the rounding of the coarser type."""
    if not (first.is_floating_point() and second.is_floating_point()):
        return not torch.equal(first, second.to(first.device))
    coarse = max((first.dtype, second.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    first, second = first.to(coarse), second.to(first.device, coarse)
    if coarse in (torch.float32, torch.float64):  # sums with an adapter may have been made in another order
        bound = 4 * torch.finfo(coarse).eps
        most = float(first.abs().max()) if first.numel() else 0.0
        return not math.isfinite(most) or not torch.allclose(first, second, rtol=bound, atol=bound * most)
    return not torch.equal(first, second)


def untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name for each tensor, the first: a head that is the embedding has no tensor of its own, as in files."""
    first_names: dict[Any, str] = {}
    for name, t in tensors.items():
        first_names.setdefault((t.device, t.data_ptr(), t.shape, t.stride()) if t.data_ptr() else name, name)
    return {name: tensors[name] for name in first_names.values()}


def check_alike(sources: Mapping[str, Source]) -> None:
    """Raises ModelError unless all have the same tensors in the same shapes; names the first difference."""
    (first, reference), *others = sources.items()
    for role, source in others:
        ours, theirs = set(reference.names()), set(source.names())
        if ours != theirs:
            odd = sorted(ours ^ theirs)[0]
            has, lacks = (first, role) if odd in ours else (role, first)
            raise ModelError(
                f"The {has} model has {odd!r}, but the {lacks} model does not. Name two models of one architecture."
            )
        for name in sorted(ours):
            if reference.shape(name) != source.shape(name):
                raise ModelError(
                    f"{name} is {reference.shape(name)} in the {first} model and {source.shape(name)} in the {role} "
                    "model. Name models of the same shape and vocabulary."
                )
