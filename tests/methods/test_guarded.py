"""Guarded is own replies and KL, each as it is alone: rows, losses and weights agree with the two in a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tests.methods.test_own_replies import ROWS, TOKENIZER, Scripted, targets
from tests.training.shapes import tiny
from unforgotten.datasets.base import ask
from unforgotten.training.trainer import MethodTrainer


def trained(folder: Path, method: Any) -> MethodTrainer:
    trainer = MethodTrainer(
        model=tiny("llama", vocabulary=len(TOKENIZER)),
        args=TrainingArguments(
            output_dir=str(folder), report_to=[], use_cpu=True, max_steps=3, per_device_train_batch_size=4
        ),
        train_dataset=ROWS,
        safety_dataset=[ask(f"how do {word}", "sorry", kind="harmful") for word in ("i", "you", "we")],
        processing_class=TOKENIZER,
        replies=Scripted(TOKENIZER, {1, 6}),
        method=method,
    )
    trainer.train()
    return trainer


def test_it_is_its_two_parts(tmp_path: Path) -> None:
    """The memory has one row for each replayed one, so that the draws of both agree as sets."""
    alone = {"neighbours": 0}
    one = trained(tmp_path / "one", {"name": "guarded", "weight": 3.0, "replay": 0.75, **alone})
    two = trained(tmp_path / "two", [{"name": "own_replies", **alone}, {"name": "kl", "weight": 3.0, "replay": 0.75}])
    assert targets(one) == targets(two) == ["sorry" if i in (1, 6) else "so" for i in range(8)]
    for (name, a), b in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6), name
    sft = trained(tmp_path / "sft", "sft")
    assert not all(
        torch.allclose(a, b, rtol=0, atol=1e-6)
        for a, b in zip(one.model.parameters(), sft.model.parameters(), strict=True)
    )


def test_it_lists_rows_under_its_own_name(tmp_path: Path) -> None:
    one = trained(tmp_path, {"name": "guarded", "weight": 1.0, "neighbours": 0})
    assert any(note.startswith("own_replies: 2 of 8 user rows") for note in one.run.notes)
    lists = {file.name: len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl")}
    assert lists == {"own_replies.jsonl": 2, "own_replies_as_given.jsonl": 0}


def test_rows_that_it_spares_are_listed_too(tmp_path: Path) -> None:
    one = trained(tmp_path, {"name": "guarded", "weight": 1.0})
    assert targets(one) == ["so"] * 8
    assert any("2 more are refused, but too few rows like them" in note for note in one.run.notes)
    assert len((tmp_path / "own_replies_as_given.jsonl").read_text().splitlines()) == 2
