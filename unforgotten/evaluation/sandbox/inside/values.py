"""Plain values as JSON and back: all that crosses between a program and what checks it. Standard library only.

    None, bool, int, float, str   themselves, nan and the infinities as json writes them
    list                          an array
    the rest                      {mark: …}: t tuple, s set, f frozenset, d dict, b bytes, c complex, q Fraction,
                                  m Decimal, r range, i an int of many digits, e the values that something iterable
                                  gives, n a numpy array or number, o the name of any other type

A value of a subclass arrives as its plain base (a Counter as a dict), which compares as it did. Decoding makes builtin
values and runs no code of the sender's, so that an object whose `__eq__` always agrees cannot be sent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

LONG_BITS = 512
"""Longer ints go in hexadecimal: their decimal digits take quadratic time, and Python refuses more than 4,300."""
MOST_ITERATED = 1_000_000
"""Values taken from an iterator, which may have no end."""

_ARRAYS = "biufcUS"
"""Kinds of numpy's types that are plain values: truths, numbers, texts and bytes."""
_ATOMS = {type(None), bool, float, str}
_LONG = 1 << LONG_BITS


class Other:
    """Stands for a value of a type that does not travel; equal to nothing but itself."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


def encode(value: Any) -> Any:
    """What json can write and `decode` reads back."""
    kind = type(value)
    if kind.__module__ == "numpy" and (array := _array(value)) is not None:
        return array
    if kind in _ATOMS:
        return value
    if kind is int:
        return value if -_LONG < value < _LONG else {"i": hex(value)}
    if kind is list:
        kinds = set(map(type, value))
        if kinds <= _ATOMS or (kinds == {int} and max(value) < _LONG and min(value) > -_LONG):
            return value
        return [encode(v) for v in value]
    for base, mark, parts in _CONTAINERS:
        if isinstance(value, base):
            return {mark: [encode(v) for v in parts(value)]}
    plains: tuple[Any, ...] = (int, float, str, list)
    for plain in plains:
        if isinstance(value, plain):
            return encode(plain(value))
    if isinstance(value, dict):
        return {"d": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    return _number(value) or _iterated(value) or {"o": kind.__name__}


def _array(value: Any) -> Any:
    """[type, shape, values] of an array or a number of numpy; None for what holds objects, and for other types."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)) or value.dtype.kind not in _ARRAYS:
        return None
    return {
        "n": [
            value.dtype.str,
            None if isinstance(value, numpy.generic) else list(value.shape),
            encode(value.ravel().tolist()),
        ]
    }


def _as_array(parts: Any) -> Any:
    import numpy

    kind, shape, flat = parts
    if numpy.dtype(kind).kind not in _ARRAYS:
        raise ValueError(f"no array of {kind!r} travels")
    array = numpy.array(decode(flat), dtype=kind)
    return array[0] if shape is None else array.reshape(shape)


def _number(value: Any) -> Any:
    # Asked of sys.modules: a value of one of these types cannot be there before its module is.
    if "decimal" in sys.modules and isinstance(value, sys.modules["decimal"].Decimal):
        return {"m": str(value)}
    if "fractions" in sys.modules and isinstance(value, sys.modules["fractions"].Fraction):
        return {"q": [encode(value.numerator), encode(value.denominator)]}
    return None


def _iterated(value: Any) -> Any:
    # A class itself has __iter__ as well, but is no iterable.
    if isinstance(value, type) or not hasattr(value, "__iter__"):
        return None
    return {"e": [encode(v) for v in islice(value, MOST_ITERATED)]}


def decode(coded: Any) -> Any:
    """The value that `encode` was given. Raises ValueError for what it would not have written."""
    if isinstance(coded, list):
        kinds = set(map(type, coded))
        return coded if kinds <= _ATOMS or kinds == {int} else [decode(v) for v in coded]
    if not isinstance(coded, dict):
        return coded
    if len(coded) != 1:
        raise ValueError("a marked value has one mark")
    [(mark, parts)] = coded.items()
    if mark not in _DECODERS:
        raise ValueError(f"no value is marked {mark!r}")
    return _DECODERS[mark](parts)


def _all(parts: Any) -> list[Any]:
    return [decode(v) for v in parts]


def _decimal(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _fraction(parts: Any) -> Any:
    from fractions import Fraction

    return Fraction(*_all(parts))


_CONTAINERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (tuple, "t", iter),
    (set, "s", iter),
    (frozenset, "f", iter),
    (complex, "c", lambda z: (z.real, z.imag)),
    (range, "r", lambda r: (r.start, r.stop, r.step)),
)
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "t": lambda parts: tuple(_all(parts)),
    "s": lambda parts: set(_all(parts)),
    "f": lambda parts: frozenset(_all(parts)),
    "d": lambda parts: {decode(k): decode(v) for k, v in parts},
    "b": bytes.fromhex,
    "c": lambda parts: complex(*parts),
    "r": lambda parts: range(*_all(parts)),
    "i": lambda text: int(text, 16),
    "e": lambda parts: iter(_all(parts)),
    "o": lambda name: Other(str(name)[:100]),
    "n": _as_array,
    "m": _decimal,
    "q": _fraction,
}
