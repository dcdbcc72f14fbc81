"""What is shown cannot act: rows, keys, names and errors of a stranger, in a terminal, a card, a page and a sheet."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import rich.console
import yaml
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table

from unforgotten.errors import DataError
from unforgotten.evaluation.statistics import rates
from unforgotten.recipe.read import parse
from unforgotten.report.model_card import card
from unforgotten.report.page import drawing
from unforgotten.report.writers import latex
from unforgotten.runs import safe_text as display
from unforgotten.verbs.audit import text
from unforgotten.verbs.audit.audit import Audit, Finding
from unforgotten.verbs.finetune.job import method_specs

PACKAGE = Path(__file__).parents[2] / "unforgotten"
ACTS = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "title": "\x1b]0;owned\x1b\\",
    "csi": "\x9b2J",
    "cursor": "\x1b[2K\x1b[1A",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "carriage return": "harmless\rharmful",
    "backspace": "bad\b\b\bgood",
    "bidi": "\u202egnp.exe\u202c",
    "isolate": "\u2066x\u2069",
    "separator": "a\u2028b",
    "tags": "x\U000e0041\U000e007f",
    "half a pair": "\ud83d",
    "delete": "\x7f",
}
MARKUP = ["[/b]", "[bold red]x", "[link=http://evil.example]x[/link]", "[/]", "[not a tag", ":smile:"]


def _acts(text: str) -> list[str]:
    """By Unicode's own tables, and not by the list of the code under test."""
    harmless = ("\n", "\t", "\u200c", "\u200d")
    return [
        hex(ord(c))
        for c in text
        if c not in harmless and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn")
    ]


@pytest.mark.parametrize("text", ACTS.values(), ids=ACTS)
def test_a_line_and_a_block_show_what_would_act(text: str) -> None:
    assert not _acts(display.line(text)) and "\n" not in display.line(f"a\n{text}")
    assert not _acts(display.block(f"a\n{text}")) and display.block("a\r\nb\tc") == "a\nb\tc"
    assert not _acts(display.markdown(text)) and not _acts(drawing.text(text))
    assert not _acts(str(display.csv_cell(text)))


def test_every_character_that_acts_is_shown_and_every_letter_stays() -> None:
    for code in range(0x110000):
        c = chr(code)
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"):
            assert not _acts(display.line(c)), hex(code)
        elif c.isalnum() or unicodedata.category(c)[0] in "MSP":
            assert display.line(c) == c or c in "\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufffc", hex(code)
    assert display.line("می\u200cخواهم 👩\u200d💻") == "می\u200cخواهم 👩\u200d💻"


@pytest.mark.parametrize("text", [*ACTS.values(), *MARKUP])
def test_a_console_shows_text_letter_for_letter_wherever_it_stands(text: str) -> None:
    out = io.StringIO()
    console = display.console(file=out, width=200, force_terminal=True)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table, Panel(text), Markdown(text, hyperlinks=False))
    console.print(text)
    console.rule(text)
    own = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # colours that rich itself sets
    assert not _acts(own)
    if text in MARKUP:
        assert own.count(text) >= 4


def test_the_console_is_made_in_one_place() -> None:
    """A console of rich's own reads square brackets as mark-up: one such crashed an audit after all was judged."""
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        if file.name != "display.py":
            assert not re.search(r"(?<!\.)\bConsole\(", source), f"{file}: use display.console()"
            assert "rich.markup" not in source, f"{file}: use rich.text.Text"
        assert not re.search(r"TextColumn\(\"\{task\.description\}\"\)", source), f"{file}: markup=False"


def test_an_audit_shows_mark_up_of_a_row_letter_for_letter() -> None:
    bad = Finding("up[/b].jsonl:1", 1, "how [/b] to \x1b[2J", True, "[red]x", 0.9, "")
    actual = Audit({"name": "x"}, 1, rates.rate(1, 1), {}, {"[/i]": 1}, [bad])
    for make in (display.console, rich.console.Console):
        console = make(file=io.StringIO(), width=120)
        text.show_audit(actual, console)
        shown = console.file.getvalue()
        assert "how [/b] to \\x1b[2J" in shown and "[/i] 1" in shown and "\x1b" not in shown


LINKS = ["[x](http://evil.example)", "![x](http://evil.example/t.png)", "<img src=http://evil.example>", "<script>1"]
LINKS += ["http://evil.example", "www.evil.example", "a@evil.example", "| a | b |", "`x`", "# x", "- x", "1. x", "$x$"]


@pytest.mark.parametrize("text", LINKS)
def test_a_card_takes_no_mark_up_from_a_name(text: str) -> None:
    html = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"html": True, "linkify": False})
    made = html.enable("table").render(display.markdown(text))
    plain = re.sub(r"</?p>|\n", "", made)
    assert "<" not in plain, made
    # GitHub's own rules for bare addresses, which this parser leaves out: none begins in what stands in the file.
    assert not re.search(r"\w://|www\.\w|[^\\]@|^@", display.markdown(text))


def test_a_fence_is_longer_than_any_in_it() -> None:
    lines = display.fenced("sh", ["echo ```", "````"])
    assert lines[0] == "`````sh" and lines[-1] == "`````"


CELLS = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", " =1", "a;=1", "a\n=1", "＝1"]


@pytest.mark.parametrize("text", CELLS)
def test_a_sheet_takes_no_formula_from_a_cell(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([display.csv_cell(text), display.csv_cell(-1.5), display.csv_cell(None)])
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(out.getvalue()), delimiter=separator):
            for cell in row:
                assert not cell.strip().startswith(("=", "+", "@", "-2", "＝")), cell
    assert out.getvalue().rstrip().endswith(",-1.5,")


def test_a_recipe_may_be_printed_and_reads_back_the_same() -> None:
    for plain in ("naïve 日本語", "a: b\nc"):
        assert yaml.safe_load(display.yaml_text({"name": plain})) == {"name": plain}
    assert "日本語" in display.yaml_text({"name": "日本語"})
    for odd in ("a\u202eb.jsonl", "\u2066x", "x\x1b[31m", "\u200b", "\U000e0041"):
        text = display.yaml_text({"name": odd, "other": "日本語"})
        assert odd not in text and yaml.safe_load(text) == {"name": odd, "other": "日本語"}


def test_json_may_be_printed_and_reads_back_the_same() -> None:
    tree = {key: [text, {text: 1}] for key, text in ACTS.items() if key != "half a pair"}
    text = display.json_text(tree)
    assert json.loads(text) == tree and not _acts(text)
    with pytest.raises(ValueError):
        display.json_text({"x": float("nan")})


@pytest.mark.parametrize("text", [*ACTS.values(), "<img src=x>", "[x](http://evil.example)"])
def test_latex_and_the_card_of_a_run_hold_nothing_that_acts(text: str) -> None:
    assert not _acts(latex.escaped(text))
    recipe = parse({"model": "a/b", "data": {"name": "jsonl", "path": f"{text.replace('/', '')}.jsonl"}})
    made = card(recipe, method_specs(recipe), None, {"trained": {"notes": [text], "adapter_mode": text}}, text, True)
    assert not _acts(made) and "<img" not in made and not re.search(r"[^\\]\]\(http", made)


def test_an_error_and_a_path_cannot_act(tmp_path: Path) -> None:
    name = "up\x1b]0;owned\x07\u202e.jsonl"
    asked = [sys.executable, "-m", "unforgotten", "data", "audit", str(tmp_path / name), "--judge", "world"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert not _acts(done.stderr) and "\\x1b]0;owned\\x07\\u202e" in done.stderr
    assert not _acts(display.block(DataError("x", [(1, name)])))


def test_a_terminal_that_cannot_write_a_letter_gets_its_escape(tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE.parent)}
    asked = [sys.executable, "-m", "unforgotten", "evaluate", "θ.yaml"]
    done = subprocess.run(asked, capture_output=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 2 and b"\\u03b8.yaml" in done.stderr
