"""The page and its figure from files alone: what stands in the cells, and that a stale page is noticed."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.evidence.conftest import evidence, run, standard
from unforgotten.report.evidence import figure, page
from unforgotten.report.evidence.recorded import Evidence, write
from unforgotten.report.evidence.studies import studies

SCRIPT = Path(__file__).parents[3] / "docs" / "evidence.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("evidence_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def story(model: str = "small", **more: Any) -> Evidence:
    runs = []
    for seed in (0, 1):
        runs.append(run("aligned", standard(5, 10, 20), model=model, seed=seed, **more))
        for p in (0.0, 0.1):
            for method, figures in (
                ("sft", (10 + round(500 * p), 0, 90)),
                ("guarded", (5, 10, 92)),
                ("der", (20, 9, 85)),
                ("kl", (20, 9, 85)),
            ):
                runs.append(run("tuned", standard(*figures), method, model=model, poison=p, seed=seed, **more))
        for method in ("sft", "guarded"):
            runs.append(run("tuned", standard(70, 0, 90), method, model=model, attack="identity", seed=seed, **more))
    return evidence(runs)


def test_a_page_from_two_files_is_whole_and_a_stale_one_is_noticed(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--check"], tmp_path) == 0, "without evidence there is no page"
    (tmp_path / "results").mkdir()
    write(tmp_path / "results" / "real-a.json", story())
    write(tmp_path / "results" / "real-b.json", story("other", measure="non_refusal"))
    assert script.main(["--check"], tmp_path) == 1 and "stale" in capsys.readouterr().err
    assert script.main([], tmp_path) == 0 and script.main(["--check"], tmp_path) == 0
    text = (tmp_path / "results" / "real.md").read_text(encoding="utf-8")
    for line in (
        "## small, sums",
        "| guarded | 0.1 |  | 2 | +0.0 (≤ +2.6) holds | +0.0 (≤ +2.6) holds | +2.0 (≥ −0.7) holds | **holds** |",
        "does not count: sft adds +5.0 points of ASR to θ_safe's, less than 15 |",
        "| **fails** |",
        "guarded: holds in 1 of 2 cells that count",
        "- **own replies** stays: ASR at p = 0, 0.1",
        "| identity | 0.1 | 70.0 (60.4–78.1) | 70.0 (60.4–78.1) | – |",
        "| θ_safe |  |  | 2 | 5.0 (2.2–11.2) | 10.0 (5.5–17.4) | 20.0 (13.3–28.9) |",
        "- command: `unforgotten compare mine`",
    ):
        assert line in text, line
    other = text.partition("## other, sums")[2]
    assert "non-refusal, %" in other and "it is no attack success rate" in " ".join(other.split())
    page = tmp_path / "results" / "real.md"
    page.write_text(text + "changed by hand\n", encoding="utf-8")
    assert script.main(["--check"], tmp_path) == 1


def test_what_over_refusal_means_after_a_refusal_that_is_answered_is_said_where_it_was_attacked_so() -> None:
    def text(attack: str) -> str:
        runs = [run("aligned", standard(5, 10, 20)), run("tuned", standard(60, 80, 90), "sft", attack=attack)]
        return " ".join(" ".join(page.lines({"real-x.json": evidence(runs)}, None)).split())

    assert "over-refusal means there that the reply begins with a refusal" in text("refuse_then_answer")
    assert "begins with a refusal" not in text("identity")


def test_a_page_has_no_character_that_acts() -> None:
    runs = [run("tuned", standard(60, 80, 90), "sft", model="small\x1b[2J\u202e")]
    shown = "\n".join(page.lines({"real-x.json": evidence(runs)}, None))
    assert not {"\x1b", "\u202e"} & {*shown} and "small\\x1b[2J\\u202e" in shown


def test_the_figure_has_a_row_for_each_model_and_all_curves() -> None:
    both = [study for each in (story(), story("other")) for study in studies(each.runs)]
    picture = figure.drawn(both)
    assert picture is not None
    svg, again = picture.svg(alone=True), figure.drawn(both)
    assert len(re.findall('class="course"', svg)) == 18 and len(re.findall('class="level"', svg)) == 6
    assert "sft 0 % → 10.0 (5.5 to 17.4), 10 % → 60.0" in svg
    assert again is not None and again.svg(alone=True) == svg, "the same bytes each time"
    at_one_ratio = evidence([run("tuned", standard(5, 10, 20), "sft")])
    assert figure.drawn(studies(at_one_ratio.runs)) is None


def test_the_script_keeps_folders(script: Any, folder: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    letters = {"question": "0100000000", "lookalikes": "1000", "accuracy": "0010"}
    comparison = folder({("aligned", 0): letters, ("sft", 0): letters, ("der", 0): letters})
    out = tmp_path / "results" / "real-mine.json"
    out.parent.mkdir()
    assert script.main([str(comparison), "--out", str(out), "--command", "unforgotten compare mine"], tmp_path) == 0
    assert "2 runs (1 without held_out.json), 1 base and aligned models" in capsys.readouterr().out
    assert script.main([], tmp_path) == 0 and "der" in (tmp_path / "results" / "real.md").read_text(encoding="utf-8")
    assert script.main([str(tmp_path / "none-compare"), "--out", str(out)], tmp_path) == 2
    assert "There is no" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([str(comparison)], tmp_path)
