"""Marks stand where their rates say, the front is what brute force finds, and labels do not cover each other."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import benchmarks.page
from tests.report.page.conftest import simple
from unforgotten.evaluation.statistics import rates
from unforgotten.report.page import categories, curves, drawing, palette, tradeoff
from unforgotten.report.page.drawing import Figure
from unforgotten.report.page.facets import facets, names
from unforgotten.runs.result_types import NamedSpec

ROOT = Path(__file__).parents[3]
ROWS = [
    simple("base", 100, 10, stage="base"),
    simple("aligned", 0, 0, 10, stage="aligned"),
    simple("sft", 50, 100),
    simple("der", 20, 75, refusal=25),
    simple("ema", 60, 90),
]


def picture(rows: list[dict[str, Any]]) -> Figure:
    [facet] = facets(rows)
    figure = tradeoff.scatter(facet, names([facet]))
    assert figure is not None
    return figure


def parts(figure: Figure, kind: str) -> dict[int, Any]:
    """matplotlib's artists of a kind, by their numbers; of an interval, which has two, the last."""
    [axes] = figure.plot.axes
    gids = [(str(artist.get_gid()).partition(":"), artist) for artist in axes.get_children()]
    return {int(number): artist for (name, _, number), artist in gids if name == kind}


def tree_of(figure: Figure) -> ET.Element:
    return ET.fromstring(figure.svg(alone=True))


def tagged(tree: ET.Element, kind: str) -> list[ET.Element]:
    return [e for e in tree.iter() if kind in (e.get("class") or "").split()]


def pixels(rate: float, start: float, end: float) -> float:
    """Where a percentage stands between two ends of an axis of 0 to 100."""
    return start + rate / 100 * (end - start)


LEFT, TOP, RIGHT, BOTTOM = 36 + 12, 38 + 12, 352 - 12, 304 - 12
"""Where 0 and 100 stand in a picture of what safety costs."""


def marks(tree: ET.Element) -> dict[str, tuple[float, float]]:
    """Places of the marks in an SVG, by the name that their tip begins with."""
    places = {}
    for group in tagged(tree, "mark"):
        [path] = [e for e in group if e.tag.endswith("path")]
        x, y = re.findall(r"[-\d.]+", path.get("transform", ""))
        places["".join(group.itertext()).partition(":")[0].strip()] = (float(x), float(y))
    return places


def test_marks_stand_where_their_rates_say() -> None:
    figure = picture(ROWS)
    assert {i: mark.get_xydata().tolist() for i, mark in parts(figure, "mark").items()} == {
        0: [[100, 10]], 1: [[0, 0]], 2: [[50, 100]], 3: [[20, 75]], 4: [[60, 90]],
    }  # fmt: skip
    x, y = marks(tree_of(figure))["der"]
    assert (x, y) == (
        pytest.approx(pixels(20, LEFT, RIGHT), abs=0.06),
        pytest.approx(pixels(75, BOTTOM, TOP), abs=0.06),
    )
    asr, utility = rates.rate(20, 100), rates.rate(75, 100)
    across, up = [a for a in figure.plot.axes[0].collections if a.get_gid() == "error:3"]
    assert across.get_segments()[0].ravel().tolist() == pytest.approx([asr.low, 75, asr.high, 75], abs=1e-4)
    assert up.get_segments()[0].ravel().tolist() == pytest.approx([20, utility.low, 20, utility.high], abs=1e-4)
    # A quarter of look-alikes refused: the arc goes from three o'clock to twelve.
    ends = parts(figure, "ring")[3].get_path().vertices
    assert ends[0].tolist() == pytest.approx([1, 0], abs=1e-9) and ends[-1].tolist() == pytest.approx([0, 1], abs=1e-9)


@pytest.mark.parametrize(("file", "poison"), [("clean", 0.0), ("poisoned", 0.1)])
def test_the_figures_of_the_readme_show_the_recorded_results(file: str, poison: float) -> None:
    """From the numbers in the JSON to pixels of the committed SVG, with arithmetic of this test's own."""
    rows = json.loads((ROOT / "docs" / "results" / "demo.json").read_text(encoding="utf-8"))["rows"]
    values: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["poison"] in (None, poison):
            utility = next(iter(row["utility"].values()))["value"]
            values.setdefault(row["method"] or row["stage"], []).append((row["asr"]["mean"]["value"], utility))
    shown = marks(ET.parse(ROOT / "docs" / "figures" / f"demo-{file}.svg").getroot())
    assert shown.keys() == values.keys() and len(shown) == 5
    for name, pairs in values.items():
        x, y = fmean(asr for asr, _ in pairs), fmean(utility for _, utility in pairs)
        want = (pixels(x, LEFT, RIGHT), pixels(y, BOTTOM, TOP))
        assert shown[name] == pytest.approx(want, abs=0.06), name


def test_filled_marks_are_the_unbeaten() -> None:
    [facet] = facets(ROWS)
    assert [line.name for line in tradeoff.unbeaten(facet)] == ["sft", "der"], "ema: more harm and less use than sft"
    ground = palette.LIGHT["ground"]
    filled = [i for i, mark in parts(picture(ROWS), "mark").items() if mark.get_markerfacecolor() != ground]
    assert filled == [0, 1, 2, 3], "all but ema"


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
    line = parts(picture(ROWS), "front")[0]
    # Up to der (20, 75), to sft's attack success, up to its utility (50, 100), to the right; ema is behind.
    assert line.get_drawstyle() == "steps-post"
    corners = line.get_xydata().tolist()
    assert corners[1:3] == [[20, 75], [50, 100]] and corners[0][0] == 20 and corners[0][1] < 0
    assert corners[3][0] > 100 and corners[3][1] == 100


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    many = [simple("sft", 98, 90)] + [simple(f"method_{i}", 90 + i % 5, 80 + i % 7) for i in range(13)]
    figure = picture(many)
    labels = {label.get_text(): label.get_window_extent() for label in parts(figure, "label").values()}
    assert len(labels) == 14, "every method is named"
    for (one, box), (other, further) in combinations(labels.items(), 2):
        assert not box.overlaps(further), (one, other)
    for name, box in labels.items():
        assert box.x0 >= 0 and box.x1 <= drawing.WIDTH, name


def test_every_method_has_a_colour_and_mark_of_its_own() -> None:
    many = ["sft", *(f"method_{i}" for i in range(40))]
    looks = [drawing.look(stage, name, many) for stage, name in (("base", ""), ("aligned", ""))]
    looks += [drawing.look("tuned", name, many) for name in many]
    assert len(set(looks)) == len(looks) == 43


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
    actual = facets(rows)
    made = curves.courses(actual, "poison", "asr")
    assert [(c.name, list(c.at), [r.value for r in c.rates]) for c in made] == [
        ("sft", [0.0, 0.2], [40, 80]),
        ("der", [0.0, 0.2], [0, 30]),
    ], "a method that was run at one ratio has no course"
    figures = curves.curves(actual, "poison", names(actual))
    assert [f.name for f in figures] == ["poison-asr", "poison-refusal", "poison-utility"]
    assert curves.curves(actual, "memory", names(actual)) == []
    lines = parts(figures[0], "course")
    assert {i: line.get_xydata().tolist() for i, line in lines.items()} == {
        0: [[0, 40], [20, 80]],
        1: [[0, 0], [20, 30]],
    }
    assert parts(figures[0], "level")[0].get_ydata() == [0, 0], "the aligned model"
    sft = rates.rate(80, 100)
    interval = parts(figures[0], "error")[0].get_segments()[1].ravel().tolist()
    assert interval == pytest.approx([20, sft.low, 20, sft.high], abs=1e-4)
    legend = [text.get_text() for text in figures[0].plot.axes[0].get_legend().get_texts()]
    assert legend == ["sft", "der", "aligned"], "from top to bottom, as the lines end"
    assert "sft: 0 → 40.0 (30.9 to 49.8), 20 → 80.0" in figures[0].description


def test_memory_has_curves_of_its_own_and_tasks_are_not_mixed() -> None:
    rows = [simple(m, 10, 90, task=t, memory_rows=n) for t in ("a", "b") for n in (50, 500) for m in ("sft", "der")]
    figures = curves.curves(facets(rows), "memory", ["sft", "der"])
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
    actual = facets(rows)
    figures = curves.over_training(actual, names(actual))
    assert [f.name for f in figures] == ["step-asr", "step-refusal"], "what nobody asked for has no figure"
    der = curves.probed(actual[0].tuned[1], "asr")
    assert der is not None and list(der.at) == [0, 40], "steps that all seeds have"
    assert [r.value for r in der.rates] == [0, 20]
    assert curves.probed(actual[0].tuned[2], "asr") is None
    rate = rates.rate(10, 40)
    [outline] = parts(figures[0], "band")[0].get_paths()
    corners = outline.vertices.tolist()
    assert sorted({y for x, y in corners if x == 10}) == pytest.approx([rate.low, rate.high], abs=1e-4)
    assert {x for x, _ in corners} == {0, 10, 40}
    assert curves.over_training(facets([simple("sft", 60, 90)]), ["sft"]) == []


def test_categories_are_counted_over_suites() -> None:
    said = {
        "question": {"theft": rates.rate(1, 10).json(), "arson": rates.rate(0, 10).json()},
        "command": {"theft": rates.rate(5, 20).json(), "arson": rates.rate(2, 2).json()},
    }
    [facet] = facets([simple("sft", 10, 90, categories=said)])
    actual = categories.by_category(facet.tuned[0])
    assert {name: (r.hits, r.n) for name, r in actual.items()} == {"theft": (6, 30), "arson": (2, 12)}
    figure = categories.heat(facet)
    assert figure is not None
    values = {i: label.get_text() for i, label in parts(figure, "value").items()}
    assert values == {0: "17", 1: "20"}, "arson, theft"
    squares, theft = parts(figure, "cell"), rates.rate(6, 30)
    assert squares[1].get_alpha() == pytest.approx(0.9 * 0.2) and squares[1].get_xy() == (0, 1)
    assert theft.low is not None and theft.high is not None
    [[(start, _), (end, _)]] = parts(figure, "reach")[1].get_segments()
    assert (start, end) == (pytest.approx(0.1 + 0.008 * theft.low), pytest.approx(0.1 + 0.008 * theft.high))
    [bare] = facets([simple("sft", 10, 90, categories={"question": {"": rates.rate(1, 10).json()}})])
    assert categories.heat(bare) is None


def test_a_figure_is_a_whole_file_of_its_own() -> None:
    odd = 'a"><script>x</script>\x00\ud800 $\\frac{1}{0}$'
    figure = picture([replace(simple("der", 10, 90), method=odd, methods=(NamedSpec(odd, {}),))])
    text = figure.svg(alone=True)
    tree = ET.fromstring(text)
    assert "<script" not in text and "url(" not in text and "href" not in text and "style=" not in text
    assert "prefers-color-scheme:dark" in text
    assert not [e for e in tree.iter() if e.tag.rpartition("}")[2] in ("script", "image", "use", "foreignObject")]
    label, title, desc = tree.get("aria-labelledby", "").split(), tree.find("{*}title"), tree.find("{*}desc")
    assert title is not None and desc is not None and label == [title.get("id"), desc.get("id")]
    assert tree.get("role") == "img" and "utility 90.0" in (desc.text or "")
    assert "$\\frac{1}" in "".join(tree.itertext()), "no formula comes of a name"


def test_plots_of_the_benchmarks_show_what_was_measured() -> None:
    folder = ROOT / "docs" / "performance"
    growth = json.loads((folder / "growth.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "step.json").read_text(encoding="utf-8"))["seconds"]
    *plots, step = benchmarks.page.figures_of(folder)
    assert [plot.name for plot in plots] == ["memory", "vocabulary", "rows"]
    for plot in plots:
        shown = parts(plot, "points")[0].get_xydata().tolist()
        assert shown == [[n, pytest.approx(1000 * s)] for n, s in growth[plot.name]]
    [axes] = step.plot.axes
    names_of_bars = [label.get_text() for label in axes.get_yticklabels()]
    bars = dict(zip(names_of_bars, [bar.get_width() for bar in axes.patches], strict=True))
    assert bars == {name: pytest.approx(1000 * s) for name, s in seconds.items()}


def test_the_same_results_give_the_same_bytes() -> None:
    for kind in (Figure.svg, Figure.png, Figure.pdf):
        assert kind(picture(ROWS)) == kind(picture(ROWS))


def test_every_colour_of_a_figure_is_dark_on_a_dark_screen() -> None:
    """A fill or stroke without a class of its colour would stay light."""
    rows = [replace(row, categories={"q": {c: rates.rate(1, 9) for c in "ab"}}) for row in ROWS]
    heat = categories.heat(facets(rows)[0])
    assert heat is not None
    sheet = palette.sheet()
    for figure in (picture(ROWS), heat):
        for element in tree_of(figure).iter():
            for key in ("fill", "stroke"):
                colour = element.get(key, "none")
                if colour != "none":
                    name = palette.NAMES[colour]
                    assert f"{key[0]}-{name}" in (element.get("class") or "").split()
                    assert f".{key[0]}-{name}{{{key}:{palette.DARK[name]}}}" in sheet
    assert palette.DARK.keys() == palette.LIGHT.keys()
