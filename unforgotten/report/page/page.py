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
from dataclasses import dataclass, replace
from importlib import resources
from itertools import count
from pathlib import Path

from markupsafe import Markup

from unforgotten import __version__
from unforgotten.errors import DataError
from unforgotten.report import templates
from unforgotten.report import text as report
from unforgotten.report.page import (
    categories,
    cost,
    curves,
    drawing,
    examples,
    one_run,
    palette,
    prose,
    provenance,
    significance,
    table_files,
    tables,
    tradeoff,
)
from unforgotten.report.page.drawing import Figure
from unforgotten.report.page.facets import Facet, facets, names
from unforgotten.report.writers import html as writer
from unforgotten.runs import atomic, bars, results, strict_read

NOTHING = Markup("")
QUOTED = 2
"""Settings of which replies are shown: the one with least poison and the one with most."""


def page(folder: Path, out: Path | None = None, png: bool = False, pdf: bool = False) -> Path:
    """Writes the page of a comparison's folder (or of a results file, or of one run), its figures and tables; returns
    the page's path. The page of one run leads with the gate's verdict, and has the aligned model beside it.

    png, pdf: the figures in this format too. Raises DataError where there is nothing to compare, or where `out` cannot
    be written.
    """
    file = folder / "results.json" if folder.is_dir() else folder
    bars.phase("writing the page")
    strict_read.no_links(file.parent)
    rows, lead = results.read(file), NOTHING
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
    rows: Sequence[results.ResultRow],
    facets: Sequence[Facet],
    tested: significance.Tested,
    figures: dict[str, list[Figure]],
    root: Path,
    lead: Markup = NOTHING,
) -> Markup:
    """The page. lead: what stands at its top."""
    sheet = palette.sheet() + (resources.files(__package__) / "style.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    parts = [
        lead,
        prose.head(name, rows, facets, tested, "one run" if lead else "comparison"),
        _section("tradeoff", "What safety costs", _SCATTER, figures["scatter"]),
        _tables(facets, tested),
        _section("training", "While it trains", _TRAINING, figures["training"]),
        _section("poison", "As the data gets worse", _POISON, figures["poison"]),
        _section("memory", "As the memory grows", _MEMORY, figures["memory"]),
        _section("categories", "Which harm comes back", _CATEGORIES, figures["categories"]),
        _quoted(facets, root),
        cost.cost(facets),
        provenance.source(rows, facets, root),
        _notes(facets, tested),
    ]
    return templates.html(
        "report/page/page", name=name, version=__version__, policy=POLICY.format(sheet=allowed), sheet=Markup(sheet),
        parts=[part for part in parts if part],
    )  # fmt: skip


POLICY = "default-src 'none'; style-src 'sha256-{sheet}'; img-src data:; base-uri 'none'; form-action 'none'"
"""The page's own: no script, no frame, no address, and no style sheet but its own."""
_SCATTER = (
    "Up and to the left is better. Crosses are 95 % intervals. A filled mark is unbeaten: no other method is at least "
    "as good in harmful prompts, utility and refusals, and better in one of them. Grey marks are the models before "
    "fine-tuning, which are not compared. The dotted line is the Pareto front of the two axes. Marks compare values "
    "alone; the table says which differences are clear."
)
_TRAINING = (
    "During training, each model was asked a few of the evaluation's prompts, the same ones each time. Bands are 95 % "
    "intervals; few prompts make them wide. The first point is the aligned model, the last one the saved model. The "
    "table has the results on all prompts."
)
_POISON = (
    "Harmful prompts, refusals and utility over the share of harmful rows in the user's data. The number of rows is "
    "the same at every share."
)
_MEMORY = "Harmful prompts, refusals and utility over the number of safety rows kept for replay."
_CATEGORIES = (
    "In percent of each category's harmful prompts, over all suites. The line under a value is its 95 % interval, from "
    "0 at the left of the square to 100 at the right."
)


@dataclass(frozen=True, slots=True)
class SavedFigure:
    """A figure in the page, with the file that its link saves."""

    svg: Markup
    wide: bool
    file: str
    data: str
    """The file's bytes, in base64."""


def _section(anchor: str, title: str, words: str, figures: Sequence[Figure]) -> Markup:
    if not figures:
        return NOTHING
    saved = [
        SavedFigure(
            Markup(figure.svg()), figure.width > drawing.WIDTH, f"{figure.name}.svg",
            base64.b64encode(figure.svg(alone=True).encode()).decode(),
        )
        for figure in figures
    ]  # fmt: skip
    return templates.html("report/page/figures", anchor=anchor, title=title, words=words, figures=saved)


_REPLIES = (
    "Prompts on which the methods differ most; the table says how often they do. Each reply is that of the lowest "
    "seed. A reply that is judged harmful, or not surely a refusal, is folded."
)


def _tables(facets: Sequence[Facet], tested: significance.Tested) -> Markup:
    """One table for each setting, and under it every suite."""
    drawn = []
    for facet in facets:
        stages = [line.stage for line in facet.all]
        suites = tables.of_suites(facet, tested)
        headlines = tables.of_facet(facet, tested, facet.title if len(facets) > 1 else "")
        drawn.append((writer.markup(headlines, stages), writer.markup(suites, stages) if suites else NOTHING))
    words = " ".join(table_files.notes(tested, whole=False))
    return templates.html("report/page/tables", words=words, tables=drawn)


def _quoted(facets: Sequence[Facet], root: Path) -> Markup:
    ends = sorted(facets, key=lambda facet: facet.tuned[0].poison or 0)
    chosen = [ends[0], *([ends[-1]] if ends[-1] is not ends[0] else [])][:QUOTED]
    settings = []
    for facet in chosen:
        if quotes := examples.quotes(facet, root):
            settings.append((facet.title, [examples.drawn(quote) for quote in quotes]))
    return templates.html("report/page/replies", words=_REPLIES, settings=settings) if settings else NOTHING


def _notes(facets: Sequence[Facet], tested: significance.Tested) -> Markup:
    lines = list({id(line): line for facet in facets for line in facet.all}.values())
    return templates.html("report/page/notes", notes=[*report.footnotes(lines), *tested.notes])
