"""A results file of a stranger: wrong types are named, and no name in it leads out of the folder of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report.page.conftest import simple
from unforgotten.cli import app
from unforgotten.errors import DataError
from unforgotten.runs import results

RATE = {"value": 1.0, "hits": 1, "n": 100, "low": 0.1, "high": 5.0, "unparsed": 0}
WRONG: dict[str, Any] = {
    "run": ["../other-tenant/run", "/etc", "a/../../b", "..\\x", 7],
    "asr": [
        5,
        {"../../secret": RATE},
        {"q": {**RATE, "value": "1"}},
        {"q": {**RATE, "n": -1}},
        {"q": None},
        {"q": {**RATE, "hits": 101}},
    ],
    "utility": [{"../x/accuracy": RATE}, []],
    "flags": [{"../x": {}}, 3, {next(iter(simple("sft", 70, 90).rates("asr"))): {"off_task": 10**9}}],
    "judges": ["keywords", [1], [{"list": "qi"}]],
    "conditions": [{"none": {"asr": {}, "refusal": {}, "files": {"q": "../../secret"}}}, []],
    "cost": [{"train_seconds": "x"}, 1],
    "notes": [{}, [1]],
    "stage": ["done", None, []],
    "probe": [[{"step": -1}], {}],
    "overlap": [{"q": 1}],
    "agreement": [[{"judges": ["a"]}], [{"truth": "harmful", "judges": ["a", "b"], "kappa": 0.5, "n": 9}]],
    "digests": [[]],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values])
def test_a_wrong_field_is_named_and_nothing_is_opened(field: str, value: Any, tmp_path: Path) -> None:
    row = simple("sft", 70, 90).json() | {field: value}
    file = tmp_path / "c" / "results.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"schema": 1, "rows": [row]}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"row 1: {field}"):
        results.read(file)
    made = CliRunner().invoke(app, ["report", str(file.parent)])
    assert made.exit_code == 2 and made.exception.__class__ is SystemExit


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"schema": 1, "rows": [null]}', '{"schema": 1, "rows": 3}'])
def test_a_file_that_is_none_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError):
        results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "an object with `schema` and `rows`"),
        ('{"rows": []}', "it has no `schema`, and 1 or 2"),
        ('{"schema": "2", "rows": []}', "its `schema` is '2', and 1 or 2"),
        ('{"schema": 2}', "its `rows` has to be a list"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=said):
        results.read(tmp_path / "results.json")


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        results.read(tmp_path / "results.json")
