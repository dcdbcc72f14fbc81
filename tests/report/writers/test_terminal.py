"""A terminal's table holds every name and figure whole, once in each part, and no line is wider than the terminal."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import unicodedata

import pytest
from rich.console import Console

from unforgotten.report.table import Cell, Column, Table, name, prose, table_of
from unforgotten.report.writers import terminal
from unforgotten.runs import safe_text

WIDTHS = (40, 60, 79, 80, 200)
SUITES = ("question", "command", "wish", "advbench", "harmful-behaviours-of-one-week", "安全性の質問", "mean")
NAMES = {
    "short": ("sft", "der"),
    "long": ("sft", "der(weight=5.0, replay=1.0, positions=response)", "a/class/of/ones/own.py:Mine"),
    "wide": ("別の方法", "忘れない安全な学習をするための方法その一つ目の長い名前", "sft"),
}


def columns_of(text: str) -> int:
    """Columns that a terminal needs, by Unicode's own table; the code under test asks rich."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def drawn(table: Table, width: int | None) -> list[str]:
    return [line.plain for line in terminal.lines(table, width)]


def comparison(names: tuple[str, ...], suites: tuple[str, ...] = SUITES) -> Table:
    """Every figure is another number, so that one may be counted."""
    rows, number = [], 100
    for method in names:
        for p in ("0", "0.1"):
            cells = []
            for _ in suites:
                number += 1
                cells.append(Cell(f"{number}.{number % 7}", "", f"{number}–{number}"))
            rows.append([Cell(method), Cell(p), *cells])
    columns = [name("model"), name("p", "right"), *(Column(f"ASR {suite}") for suite in suites)]
    return Table(columns, rows, frozenset([1]))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", NAMES)
def test_names_and_figures_stand_whole_and_lines_fit(kind: str, width: int) -> None:
    table = comparison(NAMES[kind])
    lines = drawn(table, width)
    text = "\n".join(lines)
    words = text.split()
    for row in table.rows:
        for cell in row[2:]:
            assert words.count(cell.value) == 1 and words.count(cell.brief) == 1, cell
    for suite in SUITES:
        assert words.count(suite) == 1
    parts = sum(set(line) <= {"─"} and len(line) > 0 for line in lines)
    for method in NAMES[kind]:
        assert text.count(method) == 2 * parts, "one row for each p, in each part"
    singly = {method for method in NAMES[kind] if columns_of(method) > width} | set(SUITES)
    for line in lines:
        assert columns_of(line) <= width or line.strip() in singly, line
    assert "…" not in text
    assert parts > 1 or width == 200 or (kind, width) == ("short", 80)


def test_what_fits_is_one_part_and_parts_are_about_equally_wide() -> None:
    table = comparison(("sft", "der"), ("question", "command", "wish"))
    assert drawn(table, 80) == drawn(table, 200) == drawn(table, 40)
    many = comparison(("sft",), tuple(f"suite{i}" for i in range(8)))
    heads = [line.split() for line in drawn(many, 60) if line.startswith("model")]
    assert [len(head) - 2 for head in heads] == [4, 4]


def test_a_title_is_broken_after_underscores_only_to_spare_the_folding() -> None:
    suites = ("harm_question", "harm_command", "harm_wish")
    table = comparison(("sft", "der"), suites)
    assert "harm_question" in "\n".join(drawn(table, 50))
    assert [line.split() for line in drawn(table, 35)[:3]] == [
        ["ASR", "ASR", "ASR"],
        ["harm_", "harm_", "harm_"],
        ["model", "p", "question", "command", "wish"],
    ]
    folded = drawn(table, 26)
    assert sum(line.startswith("─") for line in folded) > 1 and all(suite in "\n".join(folded) for suite in suites)


@pytest.mark.parametrize("seed", range(30))
def test_any_table_fits_any_terminal(seed: int) -> None:
    draw = random.Random(seed)
    letters = "abc安全_="

    def word(most: int) -> str:
        return "".join(draw.choice(letters) for _ in range(draw.randint(1, most)))

    width = draw.randint(20, 100)
    names = [name(word(10)) for _ in range(draw.randint(1, 3))]
    figures = [Column(f"{word(6)} {word(15)}") for _ in range(draw.randint(0, 9))]
    words = [prose("what")] * draw.randint(0, 1)
    rows = [
        [
            *(Cell(word(30)) for _ in names),
            *(Cell(f"{draw.random():.3f}", brief="0–1") for _ in figures),
            *(Cell(" ".join(word(40) for _ in range(12))) for _ in words),
        ]
        for _ in range(4)
    ]
    table = Table([*names, *figures, *words], rows)
    text = drawn(table, width)
    whole = {cell.value for row in rows for cell in row[: len(names)]} | {n.title for n in names}
    whole |= {word for figure in figures for word in figure.title.split()}
    for line in text:
        assert columns_of(line) <= width or line.strip() in whole, (width, line)
    for row in rows:
        for cell in row[: len(names) + len(figures)]:
            assert cell.value in "\n".join(text)
        for cell in row[len(names) + len(figures) :]:
            # Prose is broken at spaces, and within a word only where that is longer than its line.
            assert all(letter in "".join(text) for letter in cell.value)


def test_in_a_pipe_a_row_is_one_line_with_its_intervals() -> None:
    table = comparison(NAMES["long"])
    lines = drawn(table, None)
    head = lines.index(next(line for line in lines if line.startswith("─")))
    rows = [line for line in lines[head + 1 :] if line]
    assert len(rows) == len(table.rows)
    for line, row in zip(rows, table.rows, strict=True):
        assert all(f"{cell.value} ({cell.brief})" in line for cell in row[2:])


@pytest.mark.parametrize(("columns", "folded"), [("40", True), ("", False)])
def test_the_width_is_the_terminal_s_or_columns_and_a_pipe_has_none(columns: str, folded: bool) -> None:
    code = "from unforgotten.cli import app; app(['list', 'judges'])"
    env = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"}
    env |= {"COLUMNS": columns} if columns else {}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    widest = max(map(columns_of, out.splitlines()))
    assert widest <= 40 if folded else widest > 90
    assert safe_text.room(Console(width=77)) == 77 and safe_text.room(safe_text.console(file=io.StringIO())) in (
        None,
        safe_text.console().width,
    )


def test_a_terminal_without_unicode_gets_hyphens() -> None:
    raw = io.BytesIO()
    out = safe_text.console(file=io.TextIOWrapper(raw, "ascii"), width=40)
    terminal.show(table_of([name("model"), Column("ASR")], [["sft", "7.0"]]), out)
    out.file.flush()
    assert raw.getvalue().decode().splitlines() == ["model  ASR", "----------", "sft    7.0"]


def test_a_stranger_s_name_moves_no_cursor() -> None:
    lines = drawn(table_of([name("model"), Column("ASR")], [["a\x1b[2Jb\nc", "7.0"]]), 40)
    assert lines[2] == r"a\x1b[2Jb\x0ac  7.0"


def test_a_row_of_other_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        table_of([name("model"), Column("ASR")], [["sft", "7.0"], ["der"]])
