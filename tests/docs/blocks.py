"""The fenced blocks of a page, and what may be asked of those that are not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from unforgotten import registry
from unforgotten.cli import app
from unforgotten.datasets.jsonl import rows_of
from unforgotten.recipe import read
from unforgotten.recipe.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^# ([\w./-]+\.(?:py|yaml|toml))\b")
NOT_RUN = re.compile(r"^# not run by the tests: \S.+")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    slow: bool
    """```bash slow: minutes, so that only `pytest -m slow` runs it."""
    text: str

    @property
    def file(self) -> str | None:
        """What the first line's comment names: the block is then written there, and not run."""
        actual = NAMED.match(self.text)
        return actual[1] if actual else None

    @property
    def runs(self) -> bool:
        """Whether any test runs it; where none can, its first line says why."""
        return self.language in ("bash", "python") and self.file is None and not NOT_RUN.match(self.text)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """Those of a page, from top to bottom."""
    text = (ROOT / page).read_text(encoding="utf-8")
    seen = []
    for match in FENCE.finditer(text):
        body = "\n".join(line.removeprefix(match[1]) for line in match[4].splitlines()) + "\n"
        seen.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], "slow" in match[3].split(), body))
    return seen


def check(block: Block) -> None:
    """That a block which is not run would at least be understood: verbs, flags, fields, extras, targets."""
    if block.language == "bash":
        for words in commands(block.text):
            _command(words)
    elif block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language == "yaml" and block.file is None:
        import yaml

        read.parse({"model": "world", "evaluate": {"harm": "advbench"}, **yaml.safe_load(block.text)})
    elif block.language == "jsonl":
        import json

        for line in block.text.splitlines():
            rows_of([json.loads(line)], answers="optional")


def commands(text: str) -> list[list[str]]:
    """The words of each command, comments left out; what a `&&` joins are several."""
    seen: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            seen.append(words[:end])
            words = words[end + 1 :]
    return [words for words in seen if words]


def _command(words: list[str]) -> None:
    if words[0] == "unforgotten":
        _parsed(words[1:])
    elif words[:2] == ["pip", "install"]:
        known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in re.findall(r"(?:unforgotten|\.)\[([\w,]+)\]", " ".join(words)):
            assert all(f"\n{one} = [" in known for one in extra.split(",")), f"no extra {extra}"
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), f"no target {words[1]}"


def _parsed(words: list[str]) -> None:
    """Raises click's own error for an unknown verb or flag, ours for an unknown field."""
    command: Any = typer.main.get_command(app)
    name = "unforgotten"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        command = command.commands[name]
    given = command.make_context(name, list(words)).params
    for one in given.get("set_") or []:
        field, equals, value = one.partition("=")
        assert equals, one
        if name in ("judge", "audit"):
            judge, _, field = field.partition(".")
            assert field in registry.fields(registry.load("judges", judge)), one
        elif name == "repair":
            assert field in registry.fields(registry.load("methods", given["method"])), one
        else:
            tree: dict[str, Any] = {"model": "world"}
            read._put(tree, field, value)
            assert isinstance(read.parse(tree), Recipe)


def differs(shown: str, actual: str) -> list[str]:
    """Lines that a page shows and a command did not print, numbers and spacing apart; `…` stands for anything.

    Figures differ between machines, models and seeds; the words may not.
    """
    said = [_worded(line) for line in actual.splitlines()]
    missing = []
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part.strip()) for part in _worded(line).split("…"))
        if not any(re.fullmatch(rf"\s*{pattern}\s*", one) for one in said):
            missing.append(line)
    return missing


def _worded(line: str) -> str:
    line = re.sub(r"[0-9a-f]{12}", "#", line)
    line = re.sub(r"[<>~]?\d[\d.,]*(?:e-?\d+)?", "#", line)
    return " ".join(re.sub(r"[─━]+", "─", line).split())
