"""Files of a run folder may be anything: a pipe is not waited for, a device not read, and no name leads out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.errors import DataError, RecipeError
from unforgotten.evaluation import probe, reply_files
from unforgotten.evaluation.suite_stages import Suite
from unforgotten.recipe.read import load_recipe
from unforgotten.report.page import one_run, provenance
from unforgotten.runs import strict_read, trust


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _deep(file: Path) -> None:
    file.write_text("[" * 200_000)


def _folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("make", [_pipe, _device, _deep, _folder])
@pytest.mark.parametrize("name", ["environment.json", "trained.json", "results.json", "gate.json"])
def test_a_file_that_is_none_is_neither_waited_for_nor_read(
    name: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "runs" / "run-0123456789ab"
    (run / "adapter").mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump({"model": "owner/name", "evaluate": {"harm": "advbench"}}))
    (run / "trained.json").write_text(json.dumps({"memory_rows": 1, "notes": [], "adapter_mode": "merge"}))
    (run / "environment.json").write_text(json.dumps({"digests": {}, "aligned": {}}))
    (run / name).unlink(missing_ok=True)
    make(run / name)
    for words in (["evaluate", str(run)], ["export", str(run), "--as", "adapter"], ["report", str(run)]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2 and done.output.startswith("error: "), done.output
    provenance.environment(run)  # what is shown beside other things is left out
    assert one_run._read(run / name) == {}


def test_a_recipe_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    assert provenance.recipe(tmp_path) == ""
    with pytest.raises(OSError, match="pipe or a device"):
        trust.of_run(tmp_path)


def test_a_record_is_read_up_to_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "x.json").write_text(json.dumps("x" * (1 << 20)))
    assert len(strict_read.value(file)) == 1 << 20
    monkeypatch.setenv("UNFORGOTTEN_MAX_RECORD_MB", "1")
    with pytest.raises(OSError, match="more than 1 MB .UNFORGOTTEN_MAX_RECORD_MB"):
        strict_read.value(file)
    monkeypatch.setenv("UNFORGOTTEN_MAX_RECORD_MB", "-1")
    with pytest.raises(RecipeError, match="UNFORGOTTEN_MAX_RECORD_MB"):
        strict_read.value(file)


GOOD = {"key": "k", "source": "s", "kind": "harmful", "category": "", "request": "r", "text": "t", "finish": "stop",
        "tokens": 1, "scores": {}, "flags": [], "answers_task": False, "overlap": {}}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        5,
        "x",
        [],
        None,
        {},
        GOOD | {"text": ["t"]},
        GOOD | {"thought": 5},
        GOOD | {"verdicts": [1]},
        GOOD | {"verdicts": {"j": {"harmful": "no", "refused": None}}},
    ],
)
def test_a_line_that_is_no_reply_is_named(line: object, tmp_path: Path) -> None:
    suite = Suite("harm", "advbench", None, [])
    (tmp_path / "replies").mkdir()
    reply_files.path(tmp_path, suite).write_text(json.dumps(GOOD) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(DataError, match=r"advbench\.jsonl is not a file of measured replies"):
        if isinstance(line, dict) and "verdicts" in line:  # of the first line the judges are read
            reply_files.path(tmp_path, suite).write_text(json.dumps(line) + "\n")
        reply_files.restore(tmp_path, suite)


@pytest.mark.parametrize("name", ["../../secret", "/etc/x", "a\0b"])
def test_no_name_of_replies_leads_out_of_the_run(name: str, tmp_path: Path) -> None:
    for suite in (Suite("harm", name, None, []), Suite("harm", "x", None, [], name)):  # type: ignore[arg-type]
        with pytest.raises(DataError, match="as a file of replies"):
            reply_files.path(tmp_path, suite)


@pytest.mark.parametrize("step", ["../../secret", None, 1.5, True])
def test_no_step_of_a_probe_leads_out_of_the_run(step: object, tmp_path: Path) -> None:
    (tmp_path / "probe.jsonl").write_text(json.dumps(dict.fromkeys(probe.REPORTED_FIELDS) | {"step": step}) + "\n")
    with pytest.raises(DataError, match="not a file of probes"):
        probe.lines_of(tmp_path)


@pytest.mark.parametrize("name", ["my evil.py", "my\tevil.py", " evil.py", "evil .py"])
@pytest.mark.parametrize("ends", ["Evil", "Evil\n", " Evil"])
def test_a_strangers_code_is_known_by_what_loads_it(
    name: str, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a blank in it was none to the check, and one to the registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(0)\n")
    (run := tmp_path / "runs" / "run-0123456789ab").mkdir(parents=True)
    (run / "trained.json").write_text("{}")
    code = f"{name}:{ends}"
    for tree in ({"method": code}, {"settings": {code: {"weight": 1}}}, {"evaluate": {"judge": [{"name": code}]}}):
        (run / "recipe.yaml").write_text(yaml.safe_dump({"model": "owner/name"} | tree))
        with pytest.raises(RecipeError, match="names code"):
            load_recipe(run / "recipe.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["replies", "probe", "figures", "tables", "exports", "served-0123"])
def test_nothing_is_written_or_cleared_through_a_link(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's run with `replies` as a link wrote over files of that place; `figures` cleared its pictures."""
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    (theirs := tmp_path / "theirs").mkdir()
    for file in ("advbench.jsonl", "x.svg", "table.csv"):
        (theirs / file).write_text("precious")
    (run := tmp_path / "runs" / "run-0123456789ab").mkdir(parents=True)
    (run / name).symlink_to("../../theirs")
    (run / "recipe.yaml").write_text(yaml.safe_dump({"model": "owner/name", "evaluate": {"harm": "advbench"}}))
    (run / "trained.json").write_text(json.dumps({"memory_rows": 1, "notes": [], "adapter_mode": "merge"}))
    (run / "environment.json").write_text(json.dumps({"digests": {}, "aligned": {}}))
    (run / "results.json").write_text(json.dumps({"schema": 1, "rows": []}))
    (run / "adapter").mkdir()
    for words in (["evaluate"], ["report"], ["judge", "--judge", "keywords"], ["export", "--as", "adapter"]):
        if words[0] == "judge" and name != "replies":
            continue  # without replies there is nothing to judge
        done = CliRunner().invoke(app, [words[0], str(run), *words[1:]])
        assert done.exit_code == 2 and "is a link" in done.output.replace("\n", " "), done.output
    assert all(file.read_text() == "precious" for file in theirs.iterdir())
