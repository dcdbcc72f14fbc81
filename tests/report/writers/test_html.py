"""An HTML table is read as it was meant: figures, headings of rows, and a stranger's mark-up as text."""

from __future__ import annotations

from html.parser import HTMLParser

from unforgotten.report.table import Cell, Column, Table, name
from unforgotten.report.writers import html

NASTY = '<script>x</script> & "q"\u202e'


class Read(HTMLParser):
    """Tags with their attributes, and every text by the tag that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0], data))


def test_a_figure_has_its_mark_and_its_interval() -> None:
    columns = [name("model"), Column("ASR", meaning="percent answered")]
    row = [Cell("der"), Cell("7.0", "3.4–13.7\np = 0.031", bold=True, marks="†")]
    read = Read(html.markup(Table(columns, [row], caption="clean data"), ["tuned"]))
    assert read.texts == [
        ("caption", "clean data"),
        ("th", "model"),
        ("th", "ASR"),
        ("th", "der"),
        ("b", "7.0"),
        ("sup", "†"),
        ("small", "3.4–13.7"),
        ("br", "p = 0.031"),
    ]
    attributes = [attrs for tag, attrs in read.tags if tag in ("th", "tr") and attrs]
    assert attributes == [
        {"scope": "col"},
        {"scope": "col", "title": "percent answered"},
        {"class": "tuned"},
        {"scope": "row"},
    ]


def test_nothing_that_a_stranger_wrote_is_mark_up() -> None:
    columns = [Column(NASTY, "name", "left", NASTY), Column(NASTY)]
    cells = [Cell(NASTY), Cell(NASTY, NASTY, bold=True, marks=NASTY)]
    text = html.markup(Table(columns, [cells], caption=NASTY), [NASTY])
    read = Read(text)
    assert not [tag for tag, _ in read.tags if tag == "script"] and "\u202e" not in text
    assert [attrs for tag, attrs in read.tags if tag == "tr"][1] == {"class": NASTY.replace("\u202e", r"\u202e")}
    assert sum(data == '<script>x</script> & "q"\\u202e' for _, data in read.texts) == 7
