"""Fills README.md and docs/world.md with figures of docs/results, and draws docs/figures.

    python docs/readme.py      rewrites what stands between the marks; --check only compares

The pictures are those of `unforgotten report`, drawn by the same code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from unforgotten.report.aggregate import Line
from unforgotten.report.page import tradeoff
from unforgotten.report.page.drawing import short
from unforgotten.report.page.facets import Facet, clean, facets, headline, names
from unforgotten.report.table import Cell, Column, Table, name, table_of
from unforgotten.report.writers import markdown
from unforgotten.runs import results

DOCS = Path(__file__).parent
README, WORLD, FIGURES = DOCS.parent / "README.md", DOCS / "world.md", DOCS / "figures"
METHODS = (
    "sft", "der", "derpp", "refresh", "agem", "ewc", "lwf", "magmax", "safeinstr", "lisa", "safelora", "grsap", "ema",
    "constrained_sft",
)  # fmt: skip
"""In the order of the table: the control, the paper's methods, its baselines, ours."""


def parts() -> dict[Path, dict[str, str]]:
    """What stands in each page between `<!-- KEY -->` and `<!-- end of KEY -->`."""
    return {
        README: {"demo figure": _pictures()},
        WORLD: {"demo table": _demo(), "method figures": _methods()},
    }


def figures() -> dict[str, str]:
    """The pictures by file name."""
    actual = _facets("demo")
    drawn = {f"demo-{_slug(facet)}.svg": tradeoff.scatter(facet, names(actual)) for facet in actual}
    return {name: figure.svg(alone=True) + "\n" for name, figure in drawn.items() if figure is not None}


def _slug(facet: Facet) -> str:
    return "poisoned" if facet.tuned[0].poison else "clean"


def _facets(*kept: str) -> list[Facet]:
    return facets([row for name in kept for row in results.read(DOCS / "results" / f"{name}.json")])


def _pictures() -> str:
    said = [f"{clean(facet.tuned[0].poison)}: {_story(facet)}" for facet in _facets("demo")]
    images = [
        f'  <img src="docs/figures/demo-{_slug(facet)}.svg" width="49%" alt="{words}">'
        for facet, words in zip(_facets("demo"), said, strict=True)
    ]
    return "\n".join(['<p align="center">', *images, "</p>"])


def _story(facet: Facet) -> str:
    """The picture in words, for one who cannot see it."""
    return "; ".join(
        f"{line.name} answers {short(headline(line, 'asr').value)} % of harmful prompts at an accuracy of "
        f"{short(headline(line, 'utility').value)} %"
        for line in facet.tuned
    )


def _demo() -> str:
    titles = ("harmful prompts answered (ASR)", "look-alikes refused", "task accuracy")
    rows = []
    actual = _facets("demo")
    for line in [*actual[0].start, *(one for facet in actual for one in facet.tuned)]:
        asr, refusal, accuracy = (_figure(line, field) for field in get_args(results.Kind))
        poison = "" if line.poison is None else f"{line.poison:g}"
        rows.append([Cell(line.name), Cell(poison), replace(asr, bold=line.name in ("sft", "der")), refusal, accuracy])
    return "\n".join(markdown.lines(Table([name("model"), name("p", "right"), *map(Column, titles)], rows)))


def _figure(line: Line, field: results.Kind) -> Cell:
    rate = headline(line, field)
    return Cell(short(rate.value), f"{short(rate.low)}–{short(rate.high)}")


def _methods() -> str:
    rows = []
    for poison, kept in (("0", "world-table1-sums"), ("0.1", "world-table2-sums")):
        [facet] = _facets(kept)
        shown: dict[results.Kind, str] = {"asr": "ASR", "utility": "accuracy"}
        for field, title in shown.items():
            message = {line.name: headline(line, field).value for line in facet.tuned}
            rows.append([f"{title}, p = {poison}", *(short(message[method]) for method in METHODS)])
    return "\n".join(markdown.lines(table_of([name(""), *map(Column, METHODS)], rows)))


def filled(page: Path, actual: dict[str, str]) -> str:
    """The page with its parts put in. Raises ValueError where a mark is missing."""
    text = page.read_text(encoding="utf-8")
    for key, part in actual.items():
        start, end = f"<!-- {key} -->", f"<!-- end of {key} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{page.name} has no {start} … {end}")
        text = f"{before}{start}\n{part}\n{end}{after}"
    return text


def main(words: Sequence[str]) -> int:
    """Write page and pictures; with --check, return 1 where one is stale."""
    pages = {page: filled(page, item) for page, item in parts().items()}
    fresh = {**pages, **{FIGURES / name: svg for name, svg in figures().items()}}
    stale = [file for file, now in fresh.items() if not file.is_file() or file.read_text(encoding="utf-8") != now]
    if "--check" in words:
        if stale:
            print(f"stale: {', '.join(file.name for file in stale)}; run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for file in stale:
        file.parent.mkdir(exist_ok=True)
        file.write_text(fresh[file], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
