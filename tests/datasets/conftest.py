"""The real files, where a checkout has them beside it, which are never part of the project; and a sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unforgotten.errors import SandboxError
from unforgotten.evaluation.sandbox import Sandbox, open_sandbox

SHARED = Path(os.environ.get("UNFORGOTTEN_SHARED") or Path(__file__).parents[3] / "shared")
DATA = Path(os.environ.get("UNFORGOTTEN_DATA") or SHARED / "data")


@pytest.fixture
def real() -> Callable[[str], str]:
    """`real("gsm8k/test.jsonl")` is the path of a published file, or the test is skipped."""

    def path_of(name: str) -> str:
        file = DATA / name
        if not file.is_file():
            pytest.skip(f"needs the published file {name}; set UNFORGOTTEN_DATA to the folder of data files")
        return str(file)

    return path_of


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """`write("a.jsonl", text)` is the path of a file with exactly these bytes."""

    def path_of(name: str, content: str | bytes) -> str:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return path_of


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple]]:
    """`calls = hub([row, …])`: load_dataset gives these rows (or raises this error) and notes what it was asked.

    A function instead of rows is handed the options that go beyond name, config and split, which are noted fourth.
    """
    import types

    def pretend(answer: object) -> list[tuple]:
        calls: list[tuple] = []

        def load_dataset(name: str, config: str | None = None, *, split: str, **options: object) -> object:
            calls.append((name, config, split, *([options] if options else [])))
            if isinstance(answer, Exception):
                raise answer
            return answer(**options) if callable(answer) else answer

        monkeypatch.setitem(__import__("sys").modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        return calls

    return pretend


@pytest.fixture
def hub_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[tuple]]:
    """`calls = hub_files({name: text})`: the files of a repository (or an error), and what was asked for."""
    import types

    def pretend(answer: dict[str, str] | Exception) -> list[tuple]:
        calls: list[tuple] = []

        def hf_hub_download(name: str, filename: str, *, repo_type: str) -> str:
            calls.append((name, filename, repo_type))
            if isinstance(answer, Exception):
                raise answer
            file = tmp_path / "hub" / filename
            file.parent.mkdir(exist_ok=True)
            file.write_text(answer[filename], encoding="utf-8")
            return str(file)

        module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", module)
        return calls

    return pretend


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[str, list[dict]], str]:
    """`parquet("a.parquet", rows)` is the path of such a file, or the test is skipped."""
    table = pytest.importorskip("pyarrow").Table
    from pyarrow.parquet import write_table

    def path_of(name: str, rows: list[dict]) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_table(table.from_pylist(rows), file)
        return str(file)

    return path_of


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """The one that a user of this machine would get."""
    try:
        return open_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))
