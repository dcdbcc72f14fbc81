"""Long texts are read in parts: all fit, nothing is left out, and passages stand whole in one of them."""

from __future__ import annotations

import random

import pytest

from unforgotten.judges.guard.windows import windows


def size(request: str, text: str) -> int:
    """Twenty tokens of prompt, and one for every three letters begun."""
    return 20 + -(-len(request) // 3) + -(-len(text) // 3)


@pytest.mark.parametrize(("request_letters", "letters"), [(10, 5000), (900, 10), (900, 2000), (10, 100), (0, 301)])
def test_every_passage_stands_whole_in_a_part_that_fits(request_letters: int, letters: int) -> None:
    draw = random.Random(f"{request_letters} {letters}")
    request, text = ("".join(draw.choices("abcdefgh", k=k)) for k in (request_letters, letters))
    actual = windows(request, text, 120, size)
    assert all(size(*part) <= 120 for part in actual)
    asked = {part for part, _ in actual}
    for whole, parts in ((request, asked), (text, {said for _, said in actual})):
        for start in range(0, max(1, len(whole) - 40), 7):
            assert any(whole[start : start + 40] in part for part in parts)
    assert len(actual) == len(asked) * len({said for _, said in actual}), (
        "each part of the request with each of the text"
    )
    if size(request, text) <= 120:
        assert actual == [(request, text)]


def test_where_nothing_fits_there_is_no_part() -> None:
    assert (
        windows("how?", "so", 20, size) == []
        and windows("how?", "so", 21, size) == []
        and windows("", "", 5, size) == []
    )
