"""Whatever a user's own class raises ends as one line with its place and exit code 2: never 0, 3, 4 or a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from unforgotten.cli import app

ROWS = """
from dataclasses import dataclass
from unforgotten.datasets.base import Dataset
@dataclass(kw_only=True)
class Rows(Dataset):
    made: bool = False
    def __post_init__(self):
        if self.made: self.fault()
    def rows(self):
        self.fault()
    def fault(self):
        {}
"""
RAISES = {
    "an exit that a gate reads as pass": "raise __import__('typer').Exit(0)",
    "an exit that a gate reads as fail": "raise __import__('typer').Exit(3)",
    "an abort": "raise __import__('click').Abort",
    "an end": "raise SystemExit(0)",
    "a generator's end": "raise GeneratorExit",
    "a closed pipe": "raise BrokenPipeError(32, 'x')",
    "an error without a text": "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "a missing key": "{}['k']",
    "a missing file": "open('/nowhere/x')",
    "recursion": "self.fault()",
}


@pytest.mark.parametrize("case", RAISES)
def test_an_error_of_ones_own_class_is_a_line_with_its_place(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.py").write_text(ROWS.replace("{}", RAISES[case], 1))
    (tmp_path / "mine.yaml").write_text("model: world\ndata: ./rows.py:Rows\n")
    for more in ([], ["--set", "data.made=true"]):
        done = CliRunner().invoke(app, ["finetune", "mine.yaml", *more])
        assert done.exit_code == 2 and done.output.startswith("error: "), done.output
        assert "rows.py" in done.output and ("line 12" in done.output or "SystemExit" in done.output)


def test_an_error_of_ours_is_not_laid_at_the_users_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unforgotten import registry
    from unforgotten.errors import of_user

    (tmp_path / "calls.py").write_text(
        "from unforgotten.methods.base import Method\nfrom unforgotten.runs.results import row_of\n"
        "class Mine(Method):\n    def before(self, facts): return row_of(facts)\n    def own(self): return 1 / 0\n"
    )
    cls = registry.load("methods", f"{tmp_path}/calls.py:Mine")
    with pytest.raises(Exception) as ours:
        cls.before(None, {"no such field": 1})  # type: ignore[attr-defined]
    assert of_user(ours.value) is None
    with pytest.raises(ZeroDivisionError) as theirs:
        cls.own(None)  # type: ignore[attr-defined]
    assert "calls.py, line 5, in Mine.own: your code raised ZeroDivisionError" in str(of_user(theirs.value))
