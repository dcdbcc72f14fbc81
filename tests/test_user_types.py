"""A user's file type-checks against the installed package, and a wrong call in it is an error."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

import unforgotten

ROOT = Path(__file__).parent.parent
STRICT = """
[mypy]
strict = true

# Following these takes a minute and 3 GB. What comes from them is Any, also what a user's class extends.
[mypy-accelerate.*,datasets.*,huggingface_hub.*,numpy.*,peft.*,safetensors.*,tokenizers.*,torch.*,transformers.*,trl.*]
follow_imports = skip
ignore_missing_imports = true

[mypy-with_trl]
disallow_subclassing_any = false
"""
Mypy = Callable[..., str]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Mypy:
    """mypy --strict in an environment into which pip has installed the package; gives what it prints."""
    folder = tmp_path_factory.mktemp("types")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, text=True, capture_output=True).stdout.strip())
    flags = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", site, ROOT], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "strict.ini").write_text(STRICT)
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}

    def check(*files: Path | str) -> str:
        command = [sys.executable, "-m", "mypy", "--config-file=strict.ini", f"--python-executable={python}", *files]
        return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True).stdout

    return check


def test_a_users_script_and_all_examples_have_no_type_error(mypy: Mypy) -> None:
    scripts = sorted((ROOT / "examples").glob("*.py"))
    out = mypy(*scripts, Path(__file__).parent / "user_script.py")
    assert out == f"Success: no issues found in {len(scripts) + 1} source files\n"


WRONG = {
    "DER(wieght=1)": 'Unexpected keyword argument "wieght" for "DER"; did you mean "weight"?',
    "DER(weight='much')": 'Argument "weight" to "DER" has incompatible type',
    "Jsonl()": 'Missing named argument "path" for "Jsonl"',
    "Jsonl(path='x', kind='bad')": 'Argument "kind" to "Jsonl" has incompatible type',
    "MethodTrainer(model='m', method=3)": 'Argument "method" to "MethodTrainer" has incompatible type "int"',
    "MethodTrainer(model='m', memory=0.5)": 'Argument "memory" to "MethodTrainer" has incompatible type "float"',
    "finetune('my.yaml')": 'Argument 1 to "finetune" has incompatible type "str"; expected "Recipe"',
    "load_recipe('my.yaml').modle": '"Recipe" has no attribute "modle"; maybe "model"',
    "unforgotten.DERR": 'Module has no attribute "DERR"; maybe "DER"',
}


def test_a_wrong_call_is_an_error(mypy: Mypy, tmp_path: Path) -> None:
    head = "import unforgotten\nfrom unforgotten import DER, Jsonl, MethodTrainer, finetune, load_recipe\n\n"
    (tmp_path / "wrong.py").write_text(head + "\n".join(WRONG) + "\n")
    errors = [line for line in mypy(tmp_path / "wrong.py").splitlines() if ": error:" in line]
    for number, (call, said) in enumerate(WRONG.items(), start=4):
        assert any(f"wrong.py:{number}: error: {said}" in line for line in errors), (call, errors)
    assert len(errors) == len(WRONG)


def test_the_stub_and_the_package_hold_the_same_names() -> None:
    stub = ast.parse((ROOT / "unforgotten" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    assert set(names) == set(unforgotten.__all__) and set(names) < set(dir(unforgotten))
    for public, (module, name) in names.items():
        assert public == name, "one name, one meaning; and only so does a stub export it"
        value = getattr(unforgotten, public)
        assert (value.__module__, value.__name__) == (f"unforgotten.{module}", public)
    errors = ast.parse((ROOT / "unforgotten" / "errors.py").read_text())
    raised = {node.name for node in errors.body if isinstance(node, ast.ClassDef)} - {"Terminated"}
    assert raised < set(names), "every error is exported"
    with pytest.raises(AttributeError, match="DERR"):
        _ = unforgotten.DERR
