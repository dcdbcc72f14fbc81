"""Marks stand where their rates say, the front is what brute force finds, and labels keep out of each other's way."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest

from tests.report.page.conftest import simple
from unforgotten.evaluation.statistics import rates
from unforgotten.report.page import categories, curves, drawing, tradeoff
from unforgotten.report.page.panels import cells, names

ROWS = [
    simple("base", 100, 10, stage="base"),
    simple("aligned", 0, 0, 10, stage="aligned"),
    simple("sft", 50, 100),
    simple("der", 20, 75, refusal=25),
    simple("ema", 60, 90),
]


def picture(rows: list[dict[str, Any]]) -> ET.Element:
    [cell] = cells(rows)
    figure = tradeoff.scatter(cell, names([cell]))
    assert figure is not None
    return ET.fromstring(figure.svg(alone=True))


def tagged(tree: ET.Element, tag: str, kind: str) -> list[ET.Element]:
    return [e for e in tree.iter() if e.tag.rpartition("}")[2] == tag and kind in (e.get("class") or "").split()]


def test_marks_stand_where_their_rates_say() -> None:
    tree = picture(ROWS)
    left, top, right, bottom = tradeoff.PLOT
    inset = tradeoff.INSET
    wide, tall = right - left - 2 * inset, bottom - top - 2 * inset
    [der] = [g for g in tagged(tree, "g", "m0") if "der" in "".join(g.itertext())]
    [mark] = tagged(der, "circle", "mark")
    # 20 % of the way from the left, 75 % of the way up.
    assert float(mark.get("cx", "")) == pytest.approx(left + inset + 0.2 * wide, abs=0.06)
    assert float(mark.get("cy", "")) == pytest.approx(bottom - inset - 0.75 * tall, abs=0.06)
    rate = rates.rate(20, 100)
    assert rate.low is not None and rate.high is not None
    [error] = [e for g in tagged(tree, "g", "m0") for e in tagged(g, "path", "error")]
    ends = [float(v) for v in re.findall(r"[\d.]+", error.get("d", ""))]
    assert ends[0] == pytest.approx(left + inset + rate.low / 100 * wide, abs=0.06)
    assert ends[2] == pytest.approx(left + inset + rate.high / 100 * wide, abs=0.06)
    [ring] = tagged(der, "path", "ring")
    # A quarter of look-alikes refused: the arc ends at three o'clock.
    x, y = (float(v) for v in ring.get("d", "").split()[-2:])
    assert (x, y) == (
        pytest.approx(float(mark.get("cx", "")) + 8.5, abs=0.11),
        pytest.approx(float(mark.get("cy", "")), abs=0.11),
    )


def test_filled_marks_are_the_unbeaten() -> None:
    [cell] = cells(ROWS)
    assert [line.name for line in tradeoff.unbeaten(cell)] == ["sft", "der"], "ema: more harm and less use than sft"
    tree = picture(ROWS)
    told = {"".join(g.itertext()).partition(":")[0]: g for g in tree.iter() if g.find("{*}title") is not None}
    filled = {name: bool(tagged(g, "circle", "full") or tagged(g, "path", "full")) for name, g in told.items()}
    assert filled["der"] and filled["sft"] and not filled["ema"]


def test_the_front_is_what_brute_force_finds() -> None:
    chance = random.Random(0)
    for _ in range(300):
        corners = [tuple(chance.randrange(6) for _ in range(3)) for _ in range(chance.randrange(1, 9))]
        slow = []
        for i, one in enumerate(corners):
            beaten = False
            for other in corners:
                no_worse = other[0] <= one[0] and other[1] <= one[1] and other[2] <= one[2]
                better = other[0] < one[0] or other[1] < one[1] or other[2] < one[2]
                beaten = beaten or (no_worse and better)
            if not beaten:
                slow.append(i)
        assert tradeoff.front(corners) == slow


def test_the_staircase_goes_from_the_safest_to_the_most_useful() -> None:
    [path] = tagged(picture(ROWS), "path", "front")
    left, top, right, bottom = tradeoff.PLOT
    x = drawing.scale(0, 100, left + tradeoff.INSET, right - tradeoff.INSET)
    y = drawing.scale(0, 100, bottom - tradeoff.INSET, top + tradeoff.INSET)
    # Up to der (20, 75), to sft's attack success, up to its utility (50, 100); ema is behind.
    numbers = [float(v) for v in re.findall(r"[\d.]+", path.get("d", ""))]
    assert numbers == pytest.approx([x(20), bottom, y(75), x(50), y(100), right], abs=0.06)


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    many = [simple("sft", 98, 90)] + [simple(f"method_{i}", 90 + i % 5, 80 + i % 7) for i in range(13)]
    tree = picture(many)
    boxes = {}
    for label in tagged(tree, "text", "label"):
        x, y, wide = float(label.get("x", "")), float(label.get("y", "")), drawing.LETTER * len(label.text or "")
        start = {"start": x, "end": x - wide, "middle": x - wide / 2}[label.get("text-anchor", "")]
        boxes[label.text] = (start, y - 9, start + wide, y + 2)
    assert len(boxes) == 14, "every method is named"
    for one in boxes:
        for other in boxes:
            assert one == other or not drawing.meet(boxes[one], boxes[other]), (one, other)
    for name, box in boxes.items():
        assert box[0] >= 0 and box[2] <= drawing.WIDTH, name


def test_places_are_spread_and_stay_within() -> None:
    chance = random.Random(1)
    for _ in range(200):
        wanted = [chance.uniform(0, 200) for _ in range(chance.randrange(1, 12))]
        found = drawing.spread(wanted, 0, 200)
        assert all(b - a >= drawing.LINE - 1e-9 for a, b in pairwise(sorted(found)))
        assert min(found) >= 0 and max(found) <= 200 + 1e-9
        assert sorted(range(len(wanted)), key=lambda i: wanted[i]) == sorted(range(len(found)), key=lambda i: found[i])
    assert drawing.spread([10, 50, 90], 0, 200) == [10, 50, 90], "what has room stays"


def test_curves_hold_each_ratio_in_its_order_and_place() -> None:
    rows = [
        simple("aligned", 0, 0, stage="aligned"),
        *(
            simple(m, hits, 90, poison=p)
            for p, at in ((0.2, (80, 30)), (0.0, (40, 0)))
            for m, hits in zip(("sft", "der"), at, strict=True)
        ),
        simple("once", 5, 90, poison=0.2),
    ]
    found = cells(rows)
    made = curves.courses(found, "poison", "asr")
    assert [(c.name, list(c.at), [r.value for r in c.rates]) for c in made] == [
        ("sft", [0.0, 0.2], [40, 80]),
        ("der", [0.0, 0.2], [0, 30]),
    ], "a method that was run at one ratio has no course"
    figures = curves.curves(found, "poison", names(found))
    assert [f.name for f in figures] == ["poison-asr", "poison-refusal", "poison-utility"]
    assert curves.curves(found, "memory", names(found)) == []
    tree = ET.fromstring(figures[0].svg(alone=True))
    [course] = [e for g in tagged(tree, "g", "sft") for e in tagged(g, "path", "course")]
    (x0, y0), (x1, y1) = (map(float, pair.split()) for pair in course.get("d", "")[1:].split("L"))
    top, bottom = 36, curves.HEIGHT - 44
    assert y0 == pytest.approx(bottom - 0.4 * (bottom - top), abs=0.06)
    assert y1 == pytest.approx(bottom - 0.8 * (bottom - top), abs=0.06) and x0 < x1


def test_memory_has_curves_of_its_own_and_tasks_are_not_mixed() -> None:
    rows = [simple(m, 10, 90, task=t, memory_rows=n) for t in ("a", "b") for n in (50, 500) for m in ("sft", "der")]
    figures = curves.curves(cells(rows), "memory", ["sft", "der"])
    assert [f.name for f in figures][:3] == ["memory-asr-a", "memory-refusal-a", "memory-utility-a"] and len(
        figures
    ) == 6


def probes(*hits: int, steps: tuple[int, ...] = (0, 10, 40)) -> list[dict[str, Any]]:
    """Probes of 40 prompts of each kind, of which as many were answered."""
    return [
        {
            "step": step,
            "asr": rates.rate(n, 40).json(),
            "refusal": rates.rate(0, 40).json(),
            "utility": None,
            "metric": None,
            "prompts": {},
        }
        for step, n in zip(steps, hits, strict=True)
    ]


def test_the_course_of_a_training_has_its_steps_and_a_band() -> None:
    rows = [
        simple("sft", 60, 90, probe=probes(0, 10, 30)),
        simple("der", 5, 90, seed=0, probe=probes(0, 4, 8)),
        simple("der", 5, 90, seed=1, probe=probes(0, 8, steps=(0, 40))),
        simple("ema", 5, 90),
    ]
    found = cells(rows)
    figures = curves.over_training(found, names(found))
    assert [f.name for f in figures] == ["step-asr", "step-refusal"], "what nobody asked for has no figure"
    der = curves.probed(found[0].tuned[1], "asr")
    assert der is not None and list(der.at) == [0, 40], "steps that all seeds have"
    assert [r.value for r in der.rates] == [0, 20]
    assert curves.probed(found[0].tuned[2], "asr") is None
    tree = ET.fromstring(figures[0].svg(alone=True))
    [band] = [e for g in tagged(tree, "g", "sft") for e in tagged(g, "path", "band")]
    corners = [tuple(map(float, pair.split())) for pair in band.get("d", "")[1:-1].split("L")]
    top, bottom = 36, curves.HEIGHT - 44
    rate = rates.rate(10, 40)
    assert rate.low is not None and rate.high is not None and len(corners) == 6
    assert corners[1][1] == pytest.approx(bottom - rate.high / 100 * (bottom - top), abs=0.06)
    assert corners[4][1] == pytest.approx(bottom - rate.low / 100 * (bottom - top), abs=0.06)
    # Steps stand where they are: 10 of 40 is a quarter of the way.
    assert corners[1][0] - corners[0][0] == pytest.approx(0.25 * (corners[2][0] - corners[0][0]), abs=0.11)
    assert curves.over_training(cells([simple("sft", 60, 90)]), ["sft"]) == []


def test_categories_are_counted_over_suites() -> None:
    told = {
        "question": {"theft": rates.rate(1, 10).json(), "arson": rates.rate(0, 10).json()},
        "command": {"theft": rates.rate(5, 20).json(), "arson": rates.rate(2, 2).json()},
    }
    [cell] = cells([simple("sft", 10, 90, categories=told)])
    found = categories.by_category(cell.tuned[0])
    assert {name: (r.hits, r.n) for name, r in found.items()} == {"theft": (6, 30), "arson": (2, 12)}
    figure = categories.heat(cell)
    assert figure is not None
    values = [e.text for e in tagged(ET.fromstring(figure.svg(alone=True)), "text", "value")]
    assert values == ["17", "20"], "arson, theft"
    [bare] = cells([simple("sft", 10, 90, categories={"question": {"": rates.rate(1, 10).json()}})])
    assert categories.heat(bare) is None


def test_a_figure_is_a_whole_file_of_its_own() -> None:
    odd = 'a"><script>x</script>\x00\ud800'
    text = tradeoff.scatter(cells([simple(odd, 10, 90)])[0], [odd]).svg(alone=True)  # type: ignore[union-attr]
    tree = ET.fromstring(text)
    assert "<script" not in text and "url(" not in text and "href" not in text
    assert "prefers-color-scheme:dark" in text
    assert not [e for e in tree.iter() if e.tag.rpartition("}")[2] in ("script", "image", "use", "foreignObject")]
