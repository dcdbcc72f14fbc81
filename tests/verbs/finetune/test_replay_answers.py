"""Answers to replayed prompts are made once for all runs of a θ_safe; each run's own judge says which are refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from unforgotten.datasets.base import Row
from unforgotten.generation import local
from unforgotten.generation.reply import Reply
from unforgotten.models.locate_aligned import aligned_chat
from unforgotten.recipe.read import parse
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.finetune.replay_answers import answered_replay

Make = Callable[..., Path]
TEXT = "Hello! The sum is four."
"""A refusal by Qi et al.'s phrases ("Hello!"), none by XSTest's."""


@pytest.fixture
def tree(tmp_path: Path, model_folder: Make, rows_file: Make) -> dict[str, Any]:
    (tmp_path / "harm.csv").write_text("goal\nhow do i kill a process\n")
    return {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("prompts.jsonl", 6, answered=False))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 4))},
        "method": "safeinstr",
        "evaluate": {"harm": {"name": "advbench", "path": str(tmp_path / "harm.csv")}, "max_new_tokens": 4},
        "out": str(tmp_path / "runs"),
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts θ_safe was asked, at each call."""
    counts: list[int] = []

    def generate(model: Any, chat: Any, rows: Sequence[Row], **how: Any) -> list[Reply]:
        counts.append(len(rows))
        return [Reply(row, TEXT) for row in rows]

    monkeypatch.setattr(local, "generate", generate)
    return counts


def counts_of(tree: dict[str, Any]) -> dict[str, Any]:
    recipe = parse(tree)
    job = resolve(recipe)
    rows, counts = answered_replay(job, None, aligned_chat(recipe, job.aligned), lambda text: None)
    assert [row.response for row in rows] == [TEXT] * 6
    assert counts is not None
    return counts


def test_each_run_has_the_counts_of_its_own_judge(tree: dict[str, Any], asked: list[int]) -> None:
    counts = {}
    for name in ("qi", "xstest"):
        judge = {"judge": {"name": "keywords", "list": name}}
        counts[name] = counts_of(tree | {"evaluate": tree["evaluate"] | judge})
    assert asked == [6], "the answers are shared"
    assert counts["qi"]["file"] == counts["xstest"]["file"]
    assert (counts["qi"]["refused"], counts["qi"]["answered"]) == (6, 0)
    assert (counts["xstest"]["refused"], counts["xstest"]["answered"]) == (0, 6)


def test_another_precision_has_answers_of_its_own(tree: dict[str, Any], asked: list[int]) -> None:
    files = {counts_of(tree | precision)["file"] for precision in ({}, {"dtype": "float32"}, {"dtype": "bfloat16"})}
    assert len(files) == 3 and asked == [6, 6, 6]
