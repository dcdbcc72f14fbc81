"""$UNFORGOTTEN_DATA: its files stand in for default Hub ids and are recorded, wherever the folder lies."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from os import mkfifo
from pathlib import Path

import pytest

from unforgotten import registry
from unforgotten.datasets.reading.digest import rows_digest
from unforgotten.errors import DataError
from unforgotten.recipe.data_sets import DataSets
from unforgotten.registry import load, names

DEV = "sentence\tlabel\na fine film .\t1\na poor film .\t0\n"
XSTEST = "prompt,type,label\nWhat kills time?,homonyms,safe\n"


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "data" / "sst2").mkdir(parents=True)
    (folder / "dev.tsv").write_text(DEV)
    (folder / "train.tsv.gz").write_bytes(gzip.compress(DEV.replace("fine", "dull").encode(), mtime=0))
    (tmp_path / "data" / "xstest").mkdir()
    (tmp_path / "data" / "xstest" / "xstest_prompts.csv").write_text(XSTEST)
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def build(name: str, **settings):
    return registry.build("datasets", {"name": name, **settings})


def test_a_file_stands_in_for_the_default_hub_id_of_its_split(data_folder, hub) -> None:
    calls = hub(RuntimeError("the Hub was asked"))
    train, dev = build("sst2").rows(), build("sst2", split="validation").rows()
    assert "a dull film" in train[0].request and "a fine film" in dev[0].request
    assert dev[0].source == "${UNFORGOTTEN_DATA}/sst2/dev.tsv:2"
    assert [row.request for row in build("xstest").rows()] == ["What kills time?"]
    assert calls == []


def test_a_path_another_hub_id_and_a_file_that_is_not_there_are_read_as_ever(data_folder, hub, write) -> None:
    calls = hub([{"sentence": "from the hub", "label": 1, "question": "q", "answer": "#### 1"}])
    own = write("own.tsv", "sentence\tlabel\nmy own\t1\n")
    assert "my own" in build("sst2", path=own).rows()[0].request
    assert "from the hub" in build("sst2", path="someone/sst2").rows()[0].request
    assert build("gsm8k").rows()[0].request == "q"
    assert [name for name, _, _ in calls] == ["someone/sst2", "openai/gsm8k"]


def test_the_file_and_its_digest_are_recorded_and_said(data_folder) -> None:
    loaded = DataSets().read({"name": "sst2", "split": "validation"})
    sha256 = hashlib.sha256(DEV.encode()).hexdigest()
    assert loaded.file == ("${UNFORGOTTEN_DATA}/sst2/dev.tsv", sha256)
    assert loaded.notes == (
        f"sst2 is read from ${{UNFORGOTTEN_DATA}}/sst2/dev.tsv (sha256 {sha256[:12]}…), not from the Hub.",
    )


def test_a_named_file_is_recorded_and_needs_no_note(write) -> None:
    loaded = DataSets().read({"name": "sst2", "path": (path := write("dev.tsv", DEV))})
    assert loaded.file == (path, hashlib.sha256(DEV.encode()).hexdigest()) and loaded.notes == ()


def test_where_the_folder_lies_changes_neither_rows_nor_record(data_folder, tmp_path, monkeypatch) -> None:
    first = DataSets().read("sst2")
    shutil.move(data_folder, tmp_path / "elsewhere")
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(tmp_path / "elsewhere"))
    second = DataSets().read("sst2")
    assert (first.rows, first.file, first.notes) == (second.rows, second.file, second.notes)
    assert rows_digest(first.rows) == rows_digest(second.rows)


def test_a_variable_that_names_no_folder_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(tmp_path / "none"))
    with pytest.raises(
        DataError, match="UNFORGOTTEN_DATA names .*none, which cannot be read as a folder: No such file"
    ):
        build("sst2").rows()


def test_an_empty_variable_is_none(monkeypatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_DATA", "")
    assert build("sst2").reads_from == "stanfordnlp/sst2"


def test_the_published_files_are_there_and_read(real, monkeypatch, hub) -> None:
    """Every file that a class names lies in the real folder, and has as many rows as the set's default split."""
    hub(RuntimeError("the Hub was asked"))
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(Path(real("xstest/xstest_prompts.csv")).parents[1]))
    counts = {}
    for name in names("datasets"):
        for split in load("datasets", name).published:
            counts[name, split] = len(build(name, split=split).rows())
    assert counts == {
        ("advbench", "train"): 520,
        ("gsm8k", "train"): 7473,
        ("gsm8k", "test"): 1319,
        ("humaneval", "test"): 164,
        ("humaneval_plus", "test"): 164,
        ("sst2", "train"): 67349,
        ("sst2", "validation"): 872,
        ("xstest", "train"): 250,
    }


@pytest.mark.parametrize("given", ["~no-such-user-here/x", "x" * 5000, "/dev/null", "\x1b[31mx", " "])
def test_a_place_that_is_no_folder_is_an_error_that_can_be_printed(given, monkeypatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_DATA", given)
    with pytest.raises(DataError, match="UNFORGOTTEN_DATA names .*, which cannot be read as a folder: ") as error:
        build("sst2").rows()
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 600


def test_a_link_loop_is_an_error_and_no_wish_for_the_hub(data_folder, hub) -> None:
    calls = hub([{"sentence": "from the hub", "label": 1}])
    file = data_folder / "sst2" / "dev.tsv"
    for make in (lambda: file.symlink_to(file), lambda: file.symlink_to("nowhere"), file.mkdir, lambda: mkfifo(file)):
        file.rmdir() if file.is_dir() else file.unlink()
        make()
        with pytest.raises(DataError, match=r"UNFORGOTTEN_DATA}/sst2/dev.tsv is there, but cannot be read"):
            build("sst2", split="validation").rows()
    assert calls == []
