"""The tree drawn in errors.py is the tree that is there, and each error says what to do."""

from __future__ import annotations

import inspect
import re

import pytest

from unforgotten import errors
from unforgotten.errors import DataError, UnforgottenError, UnknownName


def drawn() -> dict[str, str]:
    """{name: parent} as the docstring draws it: depth is the column at which a name starts."""
    tree: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([\s│├└─]+)([A-Z]\w+)\s{2,}\S", line)
        if not match:
            continue
        column, name = len(match[1]), match[2]
        while above and above[-1][0] >= column:
            above.pop()
        tree[name] = above[-1][1] if above else "Exception"
        above.append((column, name))
    return tree


def test_the_drawing_is_the_tree() -> None:
    there = {
        name: cls.__base__.__name__
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.UnforgottenError) and cls.__module__ == errors.__name__
    }
    assert len(there) > 5
    assert drawn() == there


@pytest.mark.parametrize("name", drawn())
def test_every_error_says_when_it_is_raised(name: str) -> None:
    cls = getattr(errors, name)
    assert issubclass(cls, UnforgottenError)
    assert cls.__doc__ and cls.__doc__ != UnforgottenError.__doc__ or cls is UnforgottenError


def test_a_data_error_names_twenty_lines_and_counts_the_rest() -> None:
    few = DataError("rows.jsonl", [(3, "not JSON"), (8, "no assistant turn")])
    assert str(few).splitlines() == ["rows.jsonl", "  line 3: not JSON", "  line 8: no assistant turn"]

    many = DataError("rows.jsonl", [(i, "not JSON") for i in range(1, 1001)])
    lines = str(many).splitlines()
    assert len([line for line in lines if line.startswith("  line ")]) == 20
    assert lines[-1] == "  … and 980 more"
    assert len(many.problems) == 1000


def test_an_unknown_name_offers_the_nearest_or_all() -> None:
    assert "Did you mean 'lwf'?" in str(UnknownName("method", "lwff", ["der", "lwf", "sft"]))
    assert "There are: der, lwf, sft." in str(UnknownName("method", "quantum", ["sft", "lwf", "der"]))
