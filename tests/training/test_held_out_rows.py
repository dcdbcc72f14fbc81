"""Which rows are held out: beside the replayed ones where there are enough, by kind, and no near copies."""

from __future__ import annotations

from typing import Any

import pytest

from unforgotten.errors import RecipeError
from unforgotten.recipe.training import MemorySettings
from unforgotten.training.held_out_rows import nearest, split
from unforgotten.training.replay_memory import Memory, numbered

USER = [{"input_ids": [900, 901, 902], "labels": [-100, -100, 902]}]


def rows(refusals: int, others: int) -> list[dict[str, Any]]:
    """Prompts of six tokens between the same two template tokens on each side, no two alike."""
    kinds = ["harmful"] * refusals + ["benign"] * others
    return [
        {
            "input_ids": [1, 2, *range(100 + 6 * i, 106 + 6 * i), 3, 4, 7],
            "labels": [-100] * 10 + [7],
            "kind": kind,
        }
        for i, kind in enumerate(kinds)
    ]


def kinds(safety: list[dict[str, Any]], places: list[int]) -> tuple[int, int]:
    harmful = sum(safety[i]["kind"] == "harmful" for i in places)
    return harmful, len(places) - harmful


def test_similarity_by_hand() -> None:
    # abcde has abc, bcd, cde; abcdx has abc, bcd, cdx: two of four. A text of two tokens is one run.
    assert nearest([(1, 2, 3, 4, 5), (1, 2), (7, 8, 9)], [(1, 2, 3, 4, 6), (1, 2)]) == [0.5, 1.0, 0.0]


def test_rows_are_held_out_beside_those_that_are_replayed() -> None:
    safety, memory = rows(60, 40), Memory(n_rows=50, refusals=0.6)
    plain = memory.split(safety, USER, 0)
    parts = Memory(n_rows=50, refusals=0.6, held_out=0.2).split(safety, USER, 0)
    assert parts.replay == plain.replay and not parts.notes
    assert numbered(safety, parts.replay) == memory.replayed(safety, 1, 0)
    assert kinds(safety, parts.held_out) == (6, 4)
    assert not set(parts.held_out) & set(parts.replay)
    assert plain.held_out == []


def test_what_is_missing_is_taken_from_the_replayed_rows_and_said() -> None:
    safety = rows(30, 20)
    parts = Memory(n_rows=48, held_out=0.25).split(safety, USER, 0)
    assert not set(parts.held_out) & set(parts.replay)
    assert len(parts.replay) + len(parts.held_out) == 50
    assert len(parts.held_out) == 12
    assert parts.notes[0].startswith("10 of the 12 held-out safety rows were taken out of the rows to replay, so 38")


def test_a_near_copy_of_a_row_that_is_trained_on_is_not_held_out() -> None:
    safety = rows(4, 0)
    copy = {**safety[0], "input_ids": [*safety[0]["input_ids"]]}
    like_the_user = {**safety[0], "input_ids": [1, 2, *range(500, 506), 3, 4, 7]}
    other = {**safety[0], "input_ids": [1, 2, *range(600, 606), 3, 4, 7]}
    user = [{"input_ids": [1, 2, *range(500, 506), 3, 4, 8], "labels": [-100] * 10 + [8]}]
    parts = split([*safety, copy, like_the_user, other], [0, 1, 2, 3], user, 0.25, 0)
    assert parts.held_out == [6] and not parts.notes


def test_another_phrasing_goes_first_and_a_likeness_is_said() -> None:
    safety = rows(3, 0)
    half = {**safety[0], "input_ids": [1, 2, 100, 101, 102, 103, 104, 1000, 3, 4, 7]}  # 3 of 5 runs are shared
    other = {**safety[0], "input_ids": [1, 2, *range(600, 606), 3, 4, 7]}
    for seed in range(5):
        assert split([*safety, half, other], [0, 1, 2], USER, 0.34, seed).held_out == [4]
    parts = split([*safety, half], [0, 1, 2], USER, 0.34, 0)
    assert parts.held_out == [3]
    assert parts.notes == [
        "1 of the 1 held-out safety rows share half of their phrasing or more with a row that is trained on"
    ]


def test_less_than_a_method_needs_is_refused() -> None:
    assert len(Memory(n_rows=10).split(rows(20, 0), USER, 0, needed=0.2).held_out) == 2
    with pytest.raises(RecipeError, match="memory.held_out is 0, but"):
        Memory(n_rows=10, held_out=0.0).split(rows(20, 0), USER, 0, needed=0.2)


def test_the_digest_of_runs_without_held_out_rows_stays() -> None:
    before = {"n_rows": None, "share": 0.05, "at_least": 100, "refusals": None}
    assert MemorySettings().determining() == before == MemorySettings(held_out=0.0).determining()
    assert MemorySettings(held_out=0.2).determining() == {**before, "held_out": 0.2}
