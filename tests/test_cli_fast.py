"""The command line answers at once: no torch behind --help or list, and errors are one line with exit code 2."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from unforgotten import __version__, cli, registry
from unforgotten.errors import UnforgottenError

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "httpx2")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "unforgotten", *arguments], capture_output=True, text=True, timeout=60)


def test_help_takes_under_half_a_second() -> None:
    """Processor seconds, of the best of five: what the clock shows where nothing else runs, as other tests do here."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert result.returncode == 0, result.stderr
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5, taken


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["list", "methods"], ["list", "--help"]], ids=" ".join
)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from unforgotten.cli import app
result = CliRunner().invoke(app, {arguments!r})
assert result.exit_code == 0, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_version() -> None:
    assert run("--version").stdout == f"unforgotten {__version__}\n"


def test_list_names_everything() -> None:
    output = CliRunner().invoke(cli.app, ["list"]).output
    for room in registry.ROOMS:
        for name in registry.names(room):
            assert name in output


def test_an_error_is_one_line_on_stderr_and_exit_code_2() -> None:
    result = run("list", "method")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: Unknown room 'method'. Did you mean 'methods'?\n"
    assert run("lits").returncode == 2


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(UnforgottenError("mend it so"), 2, "error: mend it so\n"), (KeyboardInterrupt(), 130, "the same command again")],
)
def test_errors_and_interrupts_leave_through_one_door(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    def stop(room: str) -> list[str]:
        raise raised

    monkeypatch.setattr(registry, "names", stop)
    result = CliRunner().invoke(cli.app, ["list"])
    assert result.exit_code == code
    assert said in result.stderr


def test_a_fault_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(room: str) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "names", fail)
    assert isinstance(CliRunner().invoke(cli.app, ["list"]).exception, ZeroDivisionError)
