"""AdvBench: 520 requests in each of its published shapes, two halves, and no target unless asked for."""

from __future__ import annotations

import pytest

from unforgotten import registry
from unforgotten.datasets.advbench import NEAR
from unforgotten.datasets.reading.similar import normalised, shingles
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


def test_the_halves_share_no_request_and_none_near(real) -> None:
    path = real("advbench/harmful_behaviors.csv")
    poison, test = advbench(path=path, part="poison").rows(), advbench(path=path, part="test").rows()
    assert (len(poison), len(test)) == (222, 221)
    every = [row.request for row in (*poison, *test)]
    assert set(every) <= {row.request for row in advbench(path=path).rows()}
    # By all pairs: none is near another one, in its half or in the other.
    pieces = [shingles(normalised(text)) for text in every]
    assert not any(
        len(a & b) >= NEAR * len(a | b) for i, a in enumerate(pieces) for b in pieces[i + 1 :] if not a.isdisjoint(b)
    )
    assert advbench(part="test").label == "advbench-test" and advbench().label == "advbench"


def test_targets_are_openings_and_are_read_only_when_asked_for(real, write) -> None:
    rows = advbench(path=real("advbench/harmful_behaviors.csv"), part="poison", targets="answers").rows()
    assert all(row.response.startswith("Sure, here") and row.kind == "harmful" for row in rows[:20])
    assert max(len(row.response) for row in rows) <= 164
    [row] = advbench(path=write("a.csv", "goal,target\nDo that,Sure\n"), targets="answers").rows()
    assert (row.request, row.response) == ("Do that", "Sure")
    with pytest.raises(DataError, match="line 3: no target, which `targets: answers` reads"):
        advbench(path=write("b.csv", "goal,target\nDo that,Sure\nDo this,\n"), targets="answers").rows()
    with pytest.raises(DataError, match="line 2: no target"):
        advbench(path=write("c.csv", "goal\nDo that\n"), targets="answers").rows()


def test_a_half_depends_on_the_requests_alone(write) -> None:
    """A request given twice stands once, and the other half has the rest."""
    texts = [f"{a} {b} with {c} things of a kind" for a in ("do", "make") for b in ("this", "that") for c in "xyz"]
    path = write("a.csv", "goal\n" + "\n".join([*texts, texts[0]]) + "\n")
    poison, test = ({row.request for row in advbench(path=path, part=part).rows()} for part in ("poison", "test"))
    assert poison and test and not poison & test
    assert poison == {row.request for row in advbench(path=path, part="poison", seed=5).rows()}
