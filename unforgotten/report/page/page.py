"""A comparison, or one run, as one HTML file: no script, no request, light and dark, as wide as a phone or a desk.

    report.html     everything; may be sent alone
    figures/*.svg   each picture by itself; *.png and *.pdf too, where asked
    tables/         table.md, .csv, .json, .tex

It may quote anyone's words: all text is escaped, and the page's own policy forbids scripts, frames, forms and every
address, so that a reply which holds mark-up stays a reply.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from itertools import count
from pathlib import Path

from unforgotten import __version__
from unforgotten.errors import DataError
from unforgotten.report import text as report
from unforgotten.report.page import (
    categories,
    curves,
    drawing,
    examples,
    one_run,
    palette,
    prose,
    provenance,
    significance,
    table_files,
    tradeoff,
)
from unforgotten.report.page.drawing import Figure, text
from unforgotten.report.page.facets import Facet, facets, names
from unforgotten.runs import atomic, results, strict_read

QUOTED = 2
"""Settings of which replies are shown: the one with least poison and the one with most."""


def page(folder: Path, out: Path | None = None, png: bool = False, pdf: bool = False) -> Path:
    """Writes the page of a comparison's folder (or of a results file, or of one run), its figures and tables; returns
    the page's path. The page of one run leads with the gate's verdict, and has the aligned model beside it.

    png, pdf: the figures in this format too. Raises DataError where there is nothing to compare, or where `out` cannot
    be written.
    """
    file = folder / "results.json" if folder.is_dir() else folder
    strict_read.no_links(file.parent)
    rows, lead = results.read(file), ""
    if one_run.is_run(file.parent) and len(rows) == 1:
        beside = one_run.before(file.parent, rows[0])
        lead = one_run.lead(file.parent, rows[0], beside)
        rows = [*beside, *rows]
    all_facets = facets(rows)
    if not all_facets:
        raise DataError(f"{file} holds no fine-tuned model, so there is nothing to report on.")
    # Runs lie beside the comparison's folder.
    root = file.parent.parent
    out = out or file.parent / "report.html"
    tested = significance.tested(all_facets, root)
    figures = _figures(all_facets)
    name = file.parent.name.partition("-compare-")[0] if file.name == "results.json" else file.stem
    try:
        _clear(out.parent / "figures")
        for figure in (one for group in figures.values() for one in group):
            file = out.parent / "figures" / f"{figure.name}.svg"
            atomic.put(file, figure.svg(alone=True) + "\n")
            if png:
                file.with_suffix(".png").write_bytes(figure.png())
            if pdf:
                file.with_suffix(".pdf").write_bytes(figure.pdf())
        table_files.write(out.parent / "tables", tested, all_facets, name)
        atomic.put(out, html(name, rows, all_facets, tested, figures, root, lead))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}.") from None
    return out


def _clear(folder: Path) -> None:
    """Pictures of an earlier page, which may have shown other settings."""
    for old in (file for kind in ("svg", "png", "pdf") for file in folder.glob(f"*.{kind}")):
        old.unlink(missing_ok=True)  # another process may be writing the same page


def _figures(facets: Sequence[Facet]) -> dict[str, list[Figure]]:
    known = names(facets)
    figures: dict[str, list[Figure]] = {
        "scatter": [figure for facet in facets if (figure := tradeoff.scatter(facet, known))],
        "training": curves.over_training(facets, known),
        "poison": curves.curves(facets, "poison", known),
        "memory": curves.curves(facets, "memory", known),
        "categories": [figure for facet in facets if (figure := categories.heat(facet))],
    }
    taken: set[str] = set()
    return {kind: [_apart(figure, taken) for figure in group] for kind, group in figures.items()}


def _apart(figure: Figure, taken: set[str]) -> Figure:
    """The figure under a name that no other has: settings whose names differ in signs alone have one slug."""
    name = next(name for n in count(1) if (name := figure.name if n == 1 else f"{figure.name}-{n}") not in taken)
    taken.add(name)
    return figure if name == figure.name else replace(figure, name=name)


def html(
    name: str,
    rows: Sequence[results.Row],
    facets: Sequence[Facet],
    tested: significance.Tested,
    figures: dict[str, list[Figure]],
    root: Path,
    lead: str = "",
) -> str:
    """The page. lead: what stands at its top, as HTML."""
    sheet = palette.sheet() + (resources.files(__package__) / "style.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    main = "\n".join(
        [
            lead,
            prose.head(name, rows, facets, tested, "one run" if lead else "comparison"),
            _section("tradeoff", "What safety costs", _SCATTER, figures["scatter"]),
            prose.tables(facets, tested),
            _section("training", "While it trains", _TRAINING, figures["training"]),
            _section("poison", "As the data gets worse", _POISON, figures["poison"]),
            _section("memory", "As the memory grows", _MEMORY, figures["memory"]),
            _section("categories", "Which harm comes back", _CATEGORIES, figures["categories"]),
            _quoted(facets, root),
            prose.cost(facets),
            provenance.source(rows, facets, root),
            _notes(facets, tested),
        ]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{text(name)} · unforgotten</title>
<style>{sheet}</style>
</head>
<body>
<main>
{main}
</main>
<footer><p>Made by unforgotten {text(__version__)}. This file holds all it shows and asks the network for nothing;
<code>figures/</code> and <code>tables/</code> beside it have the pictures as SVG and the figures as CSV, JSON, Markdown
and LaTeX.</p></footer>
</body>
</html>
"""


_SCATTER = (
    "Up and to the left is better. Crosses are 95 % intervals. A filled mark is unbeaten: no other method is at least "
    "as good in all of harmful prompts, utility and refusals, and better in one; grey marks, the models before "
    "fine-tuning, take no part in it. The dotted line is the front of the two axes alone. Values decide here, and not "
    "whether differences are real: the table tells that."
)
_TRAINING = (
    "At steps of its training each model was asked the same few of the evaluation's prompts. Bands are 95 % intervals, "
    "wide because the prompts are few; the table has the figures of all of them. The first point is the aligned model, "
    "the last the one that was saved."
)
_POISON = (
    "Harmful prompts, refusals and utility over the share of harmful rows in the user's data, its size held fixed."
)
_MEMORY = "Harmful prompts, refusals and utility over the number of safety rows kept for replay."
_CATEGORIES = (
    "Of harmful prompts, in percent of each category's prompts, all suites together. The line under a value is "
    "its 95 % interval, from 0 at the left of the square to 100 at its right."
)


def _section(anchor: str, title: str, words: str, figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    drawn = "".join(
        f'<div class="panel{" wide" if figure.width > drawing.WIDTH else ""}">{figure.svg()}{_get(figure)}</div>'
        for figure in figures
    )
    return f'<section id="{anchor}"><h2>{title}</h2><p class=lead>{words}</p><div class=panels>{drawn}</div></section>'


def _get(figure: Figure) -> str:
    """A link that saves the picture, which stands in it: a page that was sent alone has no folder beside it."""
    data = base64.b64encode(figure.svg(alone=True).encode()).decode()
    name = f"{figure.name}.svg"
    return f'<a class=get download="{name}" href="data:image/svg+xml;base64,{data}" title="Save {name}">SVG</a>'


def _quoted(facets: Sequence[Facet], root: Path) -> str:
    ends = sorted(facets, key=lambda facet: facet.tuned[0].poison or 0)
    chosen = [ends[0], *([ends[-1]] if ends[-1] is not ends[0] else [])][:QUOTED]
    parts = []
    for facet in chosen:
        if shown := examples.quotes(facet, root):
            parts.append(f"<h3>{text(facet.title)}</h3>" + "".join(examples.drawn(quote) for quote in shown))
    if not parts:
        return ""
    words = (
        "Chosen because the methods differ most on them: how often they do, the table says. Of each model, the lowest "
        "seed's reply. What is judged harmful, or not surely a refusal, is folded away."
    )
    return f'<section id="replies"><h2>In their own words</h2><p class=lead>{words}</p>{"".join(parts)}</section>'


def _notes(facets: Sequence[Facet], tested: significance.Tested) -> str:
    lines = list({id(line): line for facet in facets for line in facet.all}.values())
    items = "".join(f"<li>{text(note)}</li>" for note in [*report.footnotes(lines), *tested.notes])
    return f'<section id="notes"><h2>How to read the figures</h2><ul class=notes>{items}</ul></section>'
