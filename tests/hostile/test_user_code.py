"""Whatever a user's own class raises ends as one line with its place and exit code 2: never 0, 3, 4 or a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from unforgotten import errors, registry
from unforgotten.cli import app
from unforgotten.errors import RecipeError
from unforgotten.training import checks

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


METHOD = """
from dataclasses import dataclass
from unforgotten import Method
@dataclass(kw_only=True)
class Mine(Method):
    needs_safety = False
    {}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("needs_base = True", "Mine.needs_base is called needs_unaligned_model here"),
        ("def gradient(self, run): pass", "Mine takes no turn, so it would train as sft does"),
        ("def loss(self, run, batch, out, loss): return None", "Mine.loss(self, run, batch, out, loss) has to take"),
        ("def start(self): pass", "Mine.start(self) has to take (self, run)"),
    ],
)
def test_a_method_that_would_not_run_as_written_is_told_before_training(body: str, said: str, tmp_path: Path) -> None:
    """A misspelt turn would train as plain fine-tuning, in silence."""
    (tmp_path / "mine.py").write_text(METHOD.format(body))
    method = registry.build("methods", f"{tmp_path}/mine.py:Mine")
    with pytest.raises(RecipeError) as caught:
        checks.named(method)
    assert said in str(caught.value)


def test_a_turn_that_takes_more_by_default_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format("def gradients(self, *args, scale=1): pass"))
    assert checks.named(registry.build("methods", f"{tmp_path}/mine.py:Mine"))


@pytest.mark.parametrize(("name", "said"), [("stor", "Did you mean store? "), ("xyz", "It has rows, store. ")])
def test_a_name_that_a_run_does_not_have_gets_those_that_it_has(name: str, said: str) -> None:
    class Part:
        rows, store = 1, 2

    Part.__module__ = "unforgotten.training.run_user"
    user: dict[str, Any] = {"__name__": errors.USER_MODULE + "mine"}
    exec(compile(f"def turn(run): run.{name}", "mine.py", "exec"), user)
    with pytest.raises(AttributeError) as caught:
        user["turn"](Part())
    assert said in str(errors.of_user(caught.value))
