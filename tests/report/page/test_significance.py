"""Tests in the tables are those of the replies, by hand; bold is a difference that is real; all four formats agree."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.report.page.conftest import STORY, simple
from unforgotten.report.page import significance, table_files, tables
from unforgotten.report.page.facets import Facet, facets
from unforgotten.report.table import Cell
from unforgotten.runs import results

Make = Callable[..., Path]


def read(folder: Path) -> tuple[significance.Tested, list[Facet]]:
    actual = facets(results.read(folder / "results.json"))
    return significance.tested(actual, folder.parent), actual


def entry(tested: significance.Tested, name: str, kind: str, suite: str | None = None) -> significance.Entry:
    return next(
        e
        for e in tested.entries
        if e.line.name == name and e.kind == kind and (e.headline if suite is None else e.suite == suite)
    )


def test_one_suite_is_mcnemars_test_of_the_prompts_that_differ(comparison: Make) -> None:
    tested, _ = read(comparison(STORY))
    der = entry(tested, "der", "asr").sft
    assert der is not None and der.difference is not None
    # sft answers 8 of 10, der 2 of the same: 6 prompts differ, all one way. p = 2·(1/2)^6.
    assert (der.difference.wins, der.difference.losses, der.difference.n) == (0, 6, 10)
    assert der.difference.value == pytest.approx(-60) and der.difference.p == pytest.approx(2 / 2**6)
    assert der.verdict == "better" and der.other == "sft"
    ema = entry(tested, "ema", "asr")
    assert ema.sft is not None and ema.sft.difference is not None
    # Five of five is 0.0625: Tango's interval leaves 0 out, but the test is not sure.
    assert ema.sft.difference.p == pytest.approx(2 / 2**5) and ema.sft.verdict == ""
    assert ema.best is not None and ema.best.other == "der" and ema.best.verdict == ""
    assert entry(tested, "der", "asr").best is None
    assert tested.paired and tested.notes == []


def test_bold_is_what_is_clearly_better_and_nothing_else(comparison: Make) -> None:
    tested, _ = read(comparison(STORY))
    der, ema, sft = (tables.figure(entry(tested, name, "asr")) for name in ("der", "ema", "sft"))
    assert der and ema and sft
    assert (der.value, der.bold, der.marks) == ("20.0", True, "†")
    # Five prompts of ten tell ema neither from sft nor from der: no mark, or a wide interval would earn one.
    assert (ema.value, ema.bold, ema.marks) == ("30.0", False, "")
    # sft against the best is the same test, seen from the other side: clearly worse, so no dagger.
    assert (sft.value, sft.bold, sft.marks) == ("80.0", False, "")
    assert tables.figure(entry(tested, "base", "asr")) == Cell("100", "72.2–100")


def test_what_is_clearly_worse_than_sft_is_marked(comparison: Make) -> None:
    story: Any = {
        ("sft", 0): {"question": "h" * 12, "lookalikes": "n" * 12, "sums_test": "1" * 12},
        ("der", 0): {"question": "r" * 12, "lookalikes": "r" * 12, "sums_test": "0" * 12},
    }
    tested, _ = read(comparison(story))
    for kind, marks in (("asr", "†"), ("refusal", "↓"), ("utility", "↓")):
        said = tables.figure(entry(tested, "der", kind))
        assert said and (said.marks, said.bold) == (marks, kind == "asr"), kind
    best = entry(tested, "der", "utility").best
    assert best is not None and best.other == "sft" and best.verdict == "worse"


def test_seeds_are_paired_with_their_own(comparison: Make) -> None:
    story: Any = {
        ("sft", 0): {"question": "hhhhhhhhhhrr"},
        ("sft", 1): {"question": "rrhhhhhhhhhh"},
        ("der", 0): {"question": "hrrrrrrrrrrr"},
        ("der", 1): {"question": "rrrrrrrrrrrh"},
        ("der", 2): {"question": "hhhhhhhhhhhh"},
    }
    tested, _ = read(comparison(story))
    test = entry(tested, "der", "asr").sft
    assert test is not None and test.difference is not None
    # Seed by seed 9 prompts are lost to sft and none won; seed 2 has no partner and says nothing here.
    assert (test.difference.wins, test.difference.losses, test.difference.n) == (0, 18, 24)
    assert test.difference.value == pytest.approx(-75) and test.difference.p is None
    assert test.verdict == "better"


def test_several_suites_have_a_mean_and_each_its_test(comparison: Make) -> None:
    story: Any = {
        ("sft", 0): {"question": "hhhhhhhh", "command": "hhhhrrrr"},
        ("der", 0): {"question": "rrrrrrrr", "command": "rrrrrrrr"},
    }
    tested, _ = read(comparison(story))
    mean, one = entry(tested, "der", "asr"), entry(tested, "der", "asr", "command")
    assert mean.suite == "mean" and mean.sft is not None and mean.sft.difference is not None
    assert mean.sft.difference.value == pytest.approx(-75) and mean.sft.difference.p is None
    assert one.sft is not None and one.sft.difference is not None
    assert one.sft.difference.p == pytest.approx(2 * comb(4, 0) / 2**4) and one.sft.verdict == ""


def test_without_replies_intervals_decide_and_the_table_says_so(tmp_path: Path) -> None:
    results.write(
        tmp_path / "c" / "results.json", [simple("sft", 70, 90), simple("der", 20, 88), simple("ema", 60, 90)]
    )
    tested, actual = read(tmp_path / "c")
    der, ema = entry(tested, "der", "asr").sft, entry(tested, "ema", "asr").sft
    assert der is not None and ema is not None and der.difference is None
    assert (der.verdict, ema.verdict) == ("better", ""), "60 (50–69) and 70 (60–78) meet"
    assert not tested.paired and "intervals do not overlap" in tested.notes[0]
    assert "intervals do not overlap" in table_files.markdown(tested, actual)


def test_replies_of_another_measurement_are_told_apart(comparison: Make) -> None:
    folder = comparison(STORY)
    file = folder.parent / "der-0" / "replies" / "question.jsonl"
    file.write_text(file.read_text().replace('"harmful": true', '"harmful": false', 1))
    tested, actual = read(folder)
    test = entry(tested, "der", "asr").sft
    assert test is not None and test.difference is None
    [note] = tested.notes
    assert "not of one measurement" in note and str(folder.parent) not in note
    assert note in table_files.as_json(tested)


def test_csv_and_json_hold_the_same_and_read_back(comparison: Make) -> None:
    tested, _ = read(comparison(STORY))
    tree = json.loads(table_files.as_json(tested))
    rows = list(csv.DictReader(io.StringIO(table_files.as_csv(tested))))
    assert len(rows) == len(tree["rows"]) == len(tested.entries) == 15
    for flat, full in zip(rows, tree["rows"], strict=True):
        assert flat == {key: "" if value is None else str(value) for key, value in full.items()}
    [der] = [r for r in tree["rows"] if r["method"] == "der" and r["measure"] == "asr"]
    assert der["value"] == 20 and der["against_sft"] == "better" and der["against_sft_p"] == 0.03125
    assert der["against_sft_by"] == "paired" and der["best"] is None


def test_names_are_escaped_in_markdown_and_latex(tmp_path: Path) -> None:
    rows = [simple("sft", 70, 90, task="a|b_%&\n#"), simple("my_own|$x^2$", 20, 88, task="a|b_%&\n#", poison=0.1)]
    results.write(tmp_path / "c" / "results.json", [*rows, simple("sft", 1, 1, task="other")])
    tested, actual = read(tmp_path / "c")
    lines = table_files.markdown(tested, actual).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    tex = table_files.latex(tested, actual, "own_table")
    assert r"my\_own|\$x\textasciicircum{}2\$" in tex and r"a|b\_\%\& \#" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {8}, "nine columns in every line"
    assert r"\label{tab:own-table}" in tex and "Bold: clearly better" in tex.split(r"\caption")[1].split(r"\label")[0]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 1
    plain = re.sub(r"\\[&%$#_{}]|^%.*$|\$p\$", "", tex, flags=re.M)
    assert not re.search(r"[%#_]", plain), "nothing is left that LaTeX would take for its own"


def test_latex_is_bold_where_markdown_is(comparison: Make) -> None:
    tested, actual = read(comparison(STORY))
    assert re.findall(r"\*\*([\d.]+)\*\*", table_files.markdown(tested, actual)) == ["20.0"]
    assert re.findall(r"\\textbf\{([\d.]+)\}", table_files.latex(tested, actual)) == ["20.0"]


def test_latex_has_the_p_of_each_test_and_the_share_of_poison(comparison: Make) -> None:
    tested, actual = read(comparison(STORY))
    tex = table_files.latex(tested, actual)
    [der] = [line for line in tex.splitlines() if "& der &" in line]
    # 6 of 6 prompts that differ: 2·(1/2)^6 = 0.031; one look-alike and one sum: p = 1.
    assert re.findall(r"(?<=& )(?:\d\.\d{3}|--)(?= [&\\])", der) == ["0.031", "1.000", "1.000"]
    [sft] = [line for line in tex.splitlines() if "& sft &" in line]
    assert sft.count("& -- ") == 3


def test_no_mark_where_an_interval_cannot_tell(comparison: Make) -> None:
    story: Any = {
        ("sft", 0): {"question": "h" * 12, "lookalikes": "n" * 12},
        ("der", 0): {"question": "?" * 12, "lookalikes": "n" * 12},
        ("ema", 0): {"question": "r" * 12, "lookalikes": "n" * 11 + "r"},
    }
    tested, _ = read(comparison(story))
    marks = {(n, k): tables.figure(entry(tested, n, k)) for n in ("sft", "der", "ema") for k in ("asr", "refusal")}
    assert {key for key, one in marks.items() if one and one.marks} == {("ema", "asr")}, "unread, or all alike: none"
    assert {key for key, one in marks.items() if one and one.bold} == {("ema", "asr")}


def test_a_lone_method_leads_nothing(comparison: Make) -> None:
    tested, _ = read(comparison({("der", 0): {"question": "r" * 12}}))
    said = tables.figure(entry(tested, "der", "asr"))
    assert said and said.marks == "" and not said.bold


def test_latex_takes_no_name_for_the_end_of_its_line(tmp_path: Path) -> None:
    r"""After `\\` and `\midrule` a `[` or `*` is theirs, whatever white space is between."""
    rows = [simple(name, asr, 90, task=task) for task in ("[1cm] x", "*y") for name, asr in (("sft", 70), ("[z]", 5))]
    results.write(tmp_path / "c" / "results.json", rows)
    tex = table_files.latex(*read(tmp_path / "c"))
    assert "{}[1cm] x" in tex and "{}*y" in tex and "{}[z]" in tex
    assert not re.search(r"(\\\\|\\midrule)\s*[\[*]", tex)
