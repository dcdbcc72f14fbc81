"""What crosses between processes is what was sent, or something plain that equals nothing."""

from __future__ import annotations

import collections
import decimal
import enum
import fractions
import json
import math

import pytest

from unforgotten.evaluation.sandbox.inside.values import Other, decode, encode


def there_and_back(value):
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 1.5, -0.0, 1e300, math.inf, -math.inf, "", "é\ud800\n\0", b"\xff\0"),
        *([], [1, 2], [1, "a", None, True, 2.0], [[1], [[2]]], (), (1,), ([1], (2, 3)), {1, 2}, set(), frozenset({1})),
        *({}, {"a": 1}, {1: "a", (1, 2): [3]}, {"t": [5]}, {"value": 1}, [{"d": []}], 2 + 3j, range(3, 9, 2)),
        *(1 << 511, 1 << 512, -(1 << 20_000), [1 << 20_000], [1, 1 << 600, 2.0], {1 << 700}),
        *(decimal.Decimal("1.50"), fractions.Fraction(1, 3), [fractions.Fraction(1 << 600, 7)]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_there_and_back(value) -> None:
    back = there_and_back(value)
    assert back == value and type(back) is type(value)
    if isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)


def test_nan_stays_itself() -> None:
    assert math.isnan(there_and_back(math.nan)) and math.isnan(there_and_back([math.nan])[0])


def test_a_subclass_arrives_as_its_base() -> None:
    class Text(str): ...

    class Colour(enum.IntEnum):
        RED = 3

    Point = collections.namedtuple("Point", "x y")
    for value, plain in [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (Point(1, [2]), (1, [2])),
        (Text("a"), "a"),
        (Colour.RED, 3),
        (bytearray(b"a"), b"a"),
        ([Text("a"), 1], ["a", 1]),
    ]:
        back = there_and_back(value)
        assert back == plain and type(back) is type(plain)


def test_iterators_and_strange_things() -> None:
    back = there_and_back(x * x for x in range(3))
    assert back != [0, 1, 4] and list(back) == [0, 1, 4]
    assert list(there_and_back({"a": 1}.keys())) == ["a"]
    for strange in (print, object(), int, math):
        back = there_and_back([strange])
        assert isinstance(back[0], Other) and back != [strange] and "<" in repr(back)


@pytest.mark.parametrize("coded", [{}, {"a": 1, "b": 2}, {"x": 1}, {"t": 3}, {"s": [[1]]}, {"i": "z"}, {"b": "g"}])
def test_what_encode_would_not_have_written(coded) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(coded)
