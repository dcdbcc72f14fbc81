"""What a user can mend ends as one line, `error: …`, with exit code 2; a fault of ours still shows where it is."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError, safe_open
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.errors import DataError, RecipeError, plain
from unforgotten.runs import atomic

FULL = 'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: .*disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: .*--out"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: .*permissions"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "/x: .*a file is needed"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), "/x: .*does not exist"),
        (OSError("Can't load tokenizer for 'x'"), "Can't load tokenizer for 'x'"),
        (MemoryError(), "not enough memory.*batch_size"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (ImportError("libparquet.so: failed to map segment from shared object"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "disk is full"),
        (SafetensorError(FULL), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError("39680 requested and 31920 written"), "disk is full"),
        (ModuleNotFoundError("No module named 'optuna'", name="optuna"), "pip install optuna"),
        (json.JSONDecodeError("Expecting value", "", 0), "not valid JSON"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UTF-8"),
        (SystemExit(0), "ended the program"),
        (RecipeError("mend it so"), "mend it so"),
    ],
)
def test_what_a_user_can_mend_is_said_in_one_line(error: BaseException, said: str) -> None:
    import re

    messages = plain(error)
    assert messages is not None and "\n" not in messages and re.search(said, messages)


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("x"), KeyError("x"), RuntimeError("shapes differ")])
def test_a_fault_of_ours_is_none_of_these(error: BaseException) -> None:
    assert plain(error) is None


def test_cut_weights_are_told(tmp_path: Path) -> None:
    (cut := tmp_path / "model.safetensors").write_bytes(b"\x40" + b"\x00" * 7 + b"{")
    with pytest.raises(SafetensorError) as error, safe_open(cut, "pt"):
        pass
    assert "truncated or damaged" in str(plain(error.value))


def test_a_file_that_is_too_large_is_told(tmp_path: Path) -> None:
    """As on a full disk, but without needing one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as error:
            atomic.put(tmp_path / "x.json", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "ulimit -f" in str(plain(error.value))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), ("[1]", "must hold an object, and holds a list"), ("{}", "notes is nothing"),
     ('{"notes": 5}', "notes is a number"), ("[" * 200_000, "is not JSON"), ("\xff", "is not JSON")],
)  # fmt: skip
def test_a_record_that_is_none_is_named(text: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "trained.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=f"trained.json.*{said}"):
        atomic.read_object(file, notes=list)
    with pytest.raises(DataError, match="There is no .*none.json"):
        atomic.read_object(tmp_path / "none.json")


@pytest.mark.parametrize("broken", ["trained.json", "environment.json", "recipe.yaml"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"5", b""])
def test_a_broken_run_folder_is_an_error(
    broken: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    (run := tmp_path / "runs" / "run-0123456789ab").mkdir(parents=True)
    (run / "adapter").mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump({"model": "owner/name", "evaluate": {"harm": "advbench"}}))
    (run / "trained.json").write_text(json.dumps({"memory_rows": 1, "notes": [], "adapter_mode": "merge"}))
    (run / "environment.json").write_text(json.dumps({"digests": {}, "aligned": {}}))
    (run / broken).write_bytes(content)
    for words in (["evaluate", str(run)], ["export", str(run), "--as", "adapter"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2 and done.output.startswith("error: "), done.output
        assert str(run / broken) in done.output.replace("\n", "") or words[0] == "export"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "/dev/null"], "error: "),
        (["report", "."], "results.json"),
        (["judge", "nowhere", "--judge", "keywords"], "There is no nowhere"),
        (["finetune", "."], "error: "),
        (["evaluate", "."], "error: "),
        (["finetune", "a\x00b.yaml"], "error: "),
    ],
)
def test_a_path_of_the_wrong_kind_is_an_error(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output


def test_a_reader_who_leaves_is_no_fault_of_ours() -> None:
    gone, writes = os.pipe()
    os.close(gone)
    done = subprocess.run(
        [sys.executable, "-m", "unforgotten", "list"], stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert done.returncode == 2 and done.stderr == ""


@pytest.mark.parametrize(
    "error", [OSError("9 requested and 3 written"), OSError(errno.ENOSPC, "x"), SafetensorError(FULL)]
)
def test_a_full_disk_is_named_where_the_library_names_no_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.put(tmp_path / "runs" / "a.txt", "x")
    monkeypatch.setattr("unforgotten.errors._FULL_BYTES", 1 << 62)
    assert f"in {tmp_path / 'runs'} " in f"{plain(error)} ".replace(":", " ")
    monkeypatch.setattr("unforgotten.errors._FULL_BYTES", 0)
    assert str(tmp_path) not in str(plain(error))


def test_a_library_that_forgets_to_say_that_memory_lacks_is_told_where_it_is_limited() -> None:
    error = SystemError("<class 'x'> returned NULL without setting an exception")
    assert plain(error) is None, "nothing limits this process, so it is a fault"
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))\n"
        f"from unforgotten.errors import plain; print(plain(SystemError({str(error)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not enough memory" in done.stdout
