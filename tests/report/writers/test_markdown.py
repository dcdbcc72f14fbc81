"""A Markdown table keeps figures, marks and alignment, lets no name act as mark-up, and is read back as it was."""

from __future__ import annotations

from markdown_it import MarkdownIt

from unforgotten.report.table import Cell, Column, Table, name, table_of
from unforgotten.report.writers import markdown

HOSTILE = "a|b <b>[x](http://y.z) *q* `c`"


def test_figures_and_marks() -> None:
    row = [Cell("der"), Cell("7.0", "3.4–13.7", "3–14", bold=True, marks="†"), Cell("5.0", marks=" ⚠")]
    table = Table([name("model"), Column("ASR"), Column("refusal")], [row], footnotes=["a note"], caption="Table 1")
    assert markdown.lines(table) == [
        "**Table 1**",
        "",
        "| model | ASR | refusal |",
        "| --- | ---: | ---: |",
        "| der | **7.0**† (3.4–13.7) | 5.0 ⚠ |",
    ]
    assert markdown.footnotes(table) == ["a note  "]


def test_a_name_stays_text() -> None:
    html = MarkdownIt().enable("table").render("\n".join(markdown.lines(table_of([name(HOSTILE)], [[HOSTILE]]))))
    assert html.count("a|b &lt;b&gt;[x](http://y.z) *q* `c`") == 2
    assert "<b>" not in html and "<a" not in html and "<code>" not in html


def test_it_is_read_back() -> None:
    body = [["sft", HOSTILE], ["", "7.0 (3.4–13.7)"]]
    table = table_of([name("model"), Column("ASR"), Column("limits", align="left")], [[*row, "holds"] for row in body])
    text = "\n".join(["# head", "", *markdown.lines(table), "", "words", "", *markdown.lines(table)])
    (first, after, one), (_, _, other) = markdown.tables(text)
    assert one == other == Table(list(table.columns), [list(row) for row in table.rows])
    assert text.splitlines()[first:after] == markdown.lines(table)
