"""results.json says what DESIGN says, is written whole, and is refused where it is something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unforgotten.errors import DataError
from unforgotten.evaluation.statistics import rates
from unforgotten.runs import results


def facts(**more: Any) -> dict[str, Any]:
    some = rates.rate(5, 100).json()
    return results.row(
        method="der",
        task="sst2",
        poison=0.1,
        seed=0,
        stage="tuned",
        asr={"advbench": some, "mean": some},
        refusal={"xstest": some},
        utility={"exact": some},
        **more,
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    results.write(path, [facts(), results.row(stage="base")])
    assert results.read(path) == [facts(), results.row(stage="base")]
    tree = json.loads(path.read_text())
    assert list(tree) == ["schema", "rows"] and tree["schema"] == 1
    assert tuple(tree["rows"][0]) == results.FIELDS
    assert tree["rows"][0]["asr"]["mean"] == {
        "value": 5.0,
        "hits": 5,
        "n": 100,
        "low": 2.1544,
        "high": 11.175,
        "unparsed": 0,
    }
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_every_field_of_the_design_is_there() -> None:
    design = """method task poison seed stage asr refusal utility cost model memory_rows judges agreement categories
        flags template decoding sandbox digests""".split()
    assert set(design) <= set(results.FIELDS)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, [facts()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no such fields of a result: asrr"):
        results.write(path, [{"stage": "base", "asrr": {}}])
    with pytest.raises(ValueError):
        results.write(path, [facts(cost={"train_seconds": float("nan")})])
    assert path.read_bytes() == before


def test_a_row_has_a_stage() -> None:
    with pytest.raises(ValueError, match="stage 'tuend' is none of base, aligned, tuned"):
        results.row(stage="tuend")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "There is no"),
        ("{", "is not JSON"),
        ("[]", "not a results file of schema 1 (found None)"),
        ('{"schema": 2, "rows": []}', "of schema 1 (found 2)"),
        ('{"schema": 1, "rows": [3]}', "row 1: is no object"),
        ('{"schema": 1, "rows": [{"method": "der"}]}', "row 1: lacks methods, task"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=said.replace("(", r"\(").replace(")", r"\)")):
        results.read(path)


def test_a_rate_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema": 1, "rows": [facts() | {"utility": {"exact": {"mean": 3}}}]}))
    with pytest.raises(DataError, match=r"row 1: utility\.exact"):
        results.read(path)
