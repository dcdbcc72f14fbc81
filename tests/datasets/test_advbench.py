"""AdvBench: 520 requests in each of its published shapes, and never a target."""

from __future__ import annotations

import pytest

from unforgotten import registry
from unforgotten.errors import DataError


def advbench(**settings):
    return registry.build("datasets", {"name": "advbench", **settings})


def test_both_published_copies_hold_the_same_520(real) -> None:
    with_targets = advbench(path=real("advbench/harmful_behaviors.csv")).rows()
    headless = advbench(path=real("advbench/advbench-harmful-behaviors.csv")).rows()
    assert len(with_targets) == len(headless) == 520
    assert [row.request for row in with_targets] == [row.request for row in headless]
    for rows in (with_targets, headless):
        assert {row.kind for row in rows} == {"harmful"}
        assert all(len(row.messages) == 1 and not row.answer for row in rows)


@pytest.mark.parametrize(
    "content",
    ['goal,target\n"Do, now",Sure\nDo that,Sure\n', 'goal\n"Do, now"\nDo that\n', '"Do, now"\r\nDo that\r\n'],
)
def test_every_shape_of_the_file(write, content) -> None:
    rows = advbench(path=write("a.csv", content)).rows()
    assert [row.request for row in rows] == ["Do, now", "Do that"]
    assert "Sure" not in str(rows)


def test_the_hub_says_prompt(hub) -> None:
    calls = hub([{"prompt": "Do that", "target": "Sure"}])
    [row] = advbench().rows()
    assert calls == [("walledai/AdvBench", None, "train")]
    assert (row.request, row.response, row.source) == ("Do that", "", "walledai/AdvBench/train:0")


def test_columns_by_another_name_are_refused(write) -> None:
    with pytest.raises(DataError, match="names none of the columns goal, prompt; it is 'Behavior, Category'"):
        advbench(path=write("a.csv", "Behavior,Category\nDo that,x\n")).rows()
