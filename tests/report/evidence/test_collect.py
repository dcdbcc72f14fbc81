"""Folders of comparisons become one file: every figure and verdict, and not a word that anyone wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.evidence.conftest import evidence, first, run, standard
from unforgotten.errors import DataError
from unforgotten.report.evidence.collect import collect, final_weight, gradient_ratio
from unforgotten.report.evidence.recorded import read, write
from unforgotten.runs.result_types import NamedSpec

MODELS = {
    ("aligned", 0): {"question": "0100000000", "wish": "00000?", "lookalikes": "1000", "accuracy": "0010"},
    ("sft", 0): {"question": "1111111100", "wish": "111111", "lookalikes": "0000", "accuracy": "1111"},
    ("der", 0): {"question": "1100000000", "wish": "000000", "lookalikes": "1000", "accuracy": "1110"},
}


def test_figures_verdicts_and_records_come_back_and_no_words_do(folder: Callable[..., Path], tmp_path: Path) -> None:
    collected = collect([folder(MODELS)], "unforgotten compare mine")
    write(tmp_path / "real-mine.json", collected)
    text = (tmp_path / "real-mine.json").read_text(encoding="utf-8")
    assert "secret" not in text and "/home/me" not in text and len(text.splitlines()) == 12
    again = read(tmp_path / "real-mine.json")
    assert [r.json() for r in again.runs] == [r.json() for r in collected.runs]
    aligned, sft, der = again.runs
    assert der.verdicts("asr", "question") == [True, True] + [False] * 8
    assert aligned.verdicts("asr", "wish")[-1] is None and aligned.row.rates("asr")["wish"].unparsed == 1
    assert (der.row.rates("asr")["question"].hits, der.row.rates("asr")["question"].n) == (2, 10)
    assert der.extras.drift == {"kl_refusals": 0.5, "kl_lookalikes": 0.1} and sft.extras.drift is None
    assert der.extras.gradient_ratio == 0.5 and der.extras.weight == 5.0 and sft.extras.weight is None
    assert again.environments == [{"commit": "abc123", "python": "3.11", "versions": {"torch": "2"}}]
    [comparison] = again.comparisons
    assert comparison.command == "unforgotten compare mine" and comparison.folder == "mine-compare-0123456789ab"
    assert comparison.recipe == {"model": "…/small", "method": "sft"}


def test_a_run_of_two_comparisons_counts_once_and_never_with_other_figures(folder: Callable[..., Path]) -> None:
    one = folder(MODELS)
    other = folder({key: MODELS[key] for key in (("aligned", 0), ("der", 0))}, "other")
    assert len(collect([one, other]).runs) == 3
    folder({("der", 0): MODELS[("sft", 0)]}, "third")  # writes the replies of der-0 anew
    with pytest.raises(DataError, match="not of one measurement"):
        collect([one])


def test_runs_that_were_not_asked_alike_are_refused(folder: Callable[..., Path]) -> None:
    one = folder({("sft", 0): MODELS[("sft", 0)]})
    other = folder({("der", 0): MODELS[("der", 0)]}, "other", decoding={"strategy": "greedy", "max_new_tokens": 64})
    with pytest.raises(DataError, match="not measured alike"):
        collect([one, other])
    with pytest.raises(DataError, match="There is no"):
        collect([one.parent / "nowhere"])


def test_a_file_whose_verdicts_and_figures_disagree_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "real-x.json"
    write(path, evidence([run("aligned", standard(5, 10, 20))]))
    path.write_text(path.read_text(encoding="utf-8").replace(first(5), first(6)), encoding="utf-8")
    with pytest.raises(DataError, match="6 hits in 100 verdicts, 5 in the row"):
        read(path)
    path.write_text(path.read_text(encoding="utf-8").replace(first(6), "x" + first(5)[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="'x' is no verdict"):
        read(path)
    path.write_text(json.dumps({"schema": 2}), encoding="utf-8")
    with pytest.raises(DataError, match="no evidence file of schema 1"):
        read(path)


def test_the_ratio_is_of_all_terms_and_the_weight_the_last_one() -> None:
    log = [
        {"method/gradient_norm_ratio": 1.0, "der/gradient_norm_ratio": 0.7, "agem/gradient_norm_ratio": 0.6},
        {"der/gradient_norm_ratio": 2.0, "agem/gradient_norm_ratio": 1.0},
        {"loss": 1.0},
    ]
    assert gradient_ratio(log) == 2.0 and gradient_ratio(log[2:]) is None
    methods = [NamedSpec("der", {"weight": 4.0}), NamedSpec("ema", {"decay": 0.9})]
    assert final_weight([{"der/weight": 1.0}, {"der/weight": 2.5}], methods) == 2.5
    assert final_weight([], methods) == 4.0 and final_weight([], methods[1:]) is None
    assert final_weight([], [NamedSpec("der", {"weight": "auto"})]) is None
