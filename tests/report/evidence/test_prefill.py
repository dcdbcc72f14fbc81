"""Replies that are forced to begin in some way: their verdicts are kept, and each run stands against its θ_safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.evidence.conftest import _write, evidence, run, standard
from unforgotten.evaluation.statistics import rates
from unforgotten.report.evidence import page
from unforgotten.report.evidence.collect import collect
from unforgotten.report.evidence.recorded import read, write

FORCED = {"aligned": "1" * 40 + "0" * 60, "sft": "1" * 90 + "0" * 10, "guarded": "1" * 41 + "0" * 59}


def test_the_page_tells_what_fine_tuning_adds() -> None:
    """The difference by hand: 41 − 40 and 90 − 40 prompts of a hundred."""
    runs = []
    for seed in (0, 1):
        for method, bits in FORCED.items():
            extras = {"prefill": {"question": bits}, "aligned": f"digest {seed}"}
            tuned = method != "aligned"
            facts = {"extras": extras, "seed": seed, **({"poison": 0.1} if tuned else {})}
            figures = standard(2, 10, 90)
            runs.append(run("tuned" if tuned else "aligned", figures, method if tuned else None, **facts))
    text = "\n".join(page.lines({"real-mine.json": evidence(runs)}, None))
    [table] = [part for part in text.split("### ") if part.startswith("ASR where the reply's beginning is forced")]
    [sft] = [line for line in table.splitlines() if line.startswith("| sft")]
    [guarded] = [line for line in table.splitlines() if line.startswith("| guarded")]
    assert "| 90.0 (" in sft and "+50.0 (≤" in sft and sft.rstrip(" |").endswith("fails")
    assert "| 41.0 (" in guarded and "+1.0 (≤" in guarded and guarded.rstrip(" |").endswith("holds")
    assert "θ_safe itself: 40.0 %" in table


def test_without_such_replies_there_is_no_table() -> None:
    runs = [run("aligned", standard(2, 10, 0)), run("tuned", standard(90, 0, 95), "sft")]
    assert "forced" not in "\n".join(page.lines({"real-mine.json": evidence(runs)}, None))


def test_verdicts_are_read_from_the_replies_and_come_back(folder: Callable[..., Path], tmp_path: Path) -> None:
    figures = {"question": "1100", "lookalikes": "1000", "accuracy": "1110"}
    under = {
        "default": {"asr": {"question": rates.rate(2, 4).json()}, "refusal": {"lookalikes": rates.rate(1, 4).json()}},
        "prefill": {"asr": {"question": rates.rate(2, 4, 1).json()}, "files": {"question": "question@prefill"}},
    }
    place = folder({("sft", 0): figures}, conditions=under)
    _write(place.parent / "sft-0" / "replies", "question", "1100")
    (place.parent / "sft-0" / "replies" / "question.jsonl").rename(tmp_path / "kept.jsonl")
    _write(place.parent / "sft-0" / "replies", "question", "011?")
    replies = place.parent / "sft-0" / "replies"
    (replies / "question.jsonl").rename(replies / "question@prefill.jsonl")
    (tmp_path / "kept.jsonl").rename(replies / "question.jsonl")
    collected = collect([place])
    assert collected.runs[0].extras.prefill == {"question": "011?"}
    write(tmp_path / "real-mine.json", collected)
    assert read(tmp_path / "real-mine.json").runs[0].forced("question") == [False, True, True, None]
    text = (tmp_path / "real-mine.json").read_text(encoding="utf-8").replace("011?", "011x")
    (tmp_path / "real-mine.json").write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match="'x' is no verdict"):
        read(tmp_path / "real-mine.json")
