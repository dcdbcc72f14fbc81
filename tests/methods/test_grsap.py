"""GR-SAP's mixture counted by hand, and found in what a real run trains on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from unforgotten import testing
from unforgotten.datasets.base import ask
from unforgotten.errors import RecipeError
from unforgotten.methods.grsap import GRSAP, shares
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


@pytest.mark.parametrize(
    ("wanted", "hard", "easy", "ratio", "actual"),
    [
        (10, 20, 20, 0.5, (5, 5)),
        (7, 20, 20, 0.5, (3, 4)),  # as the official code rounds: down
        (10, 2, 20, 0.5, (2, 8)),  # too few hard ones: easy ones fill up
        (10, 20, 3, 0.5, (7, 3)),  # and the other way round
        (10, 0, 20, 0.5, (0, 10)),
        (10, 20, 20, 1.0, (10, 0)),
        (10, 20, 20, 0.0, (0, 10)),
        (10, 3, 4, 0.5, (3, 4)),  # not enough of both: what there is
    ],
)
def test_shares_by_hand(wanted: int, hard: int, easy: int, ratio: float, actual: tuple[int, int]) -> None:
    assert shares(wanted, hard, easy, ratio) == actual


def rows(n: int, token: int, **more: Any) -> list[dict[str, Any]]:
    return [{"input_ids": [token, 10 + i], "labels": [-100, 10 + i], "kind": "harmful", **more} for i in range(n)]


USER, HARD, EASY = 3, 4, 5


def trained(folder: Path, method: GRSAP, seed: int = 0, hard: int = 12, easy: int = 12) -> tuple[list[Any], list[str]]:
    """The rows that a run is trained on, as (which kind, which row), and its notes. 40 user rows."""
    safety = rows(hard, HARD, difficulty="hard") + rows(easy, EASY, difficulty="easy")
    trainer = MethodTrainer(
        model=testing.tiny_model("full"),
        args=TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, seed=seed),
        train_dataset=rows(40, USER),
        safety_dataset=safety,
        method=method,
        memory=Memory(n_rows=len(safety)),
    )
    return [tuple(row["input_ids"]) for row in trainer.run.user.trained_rows], trainer.run.notes


def test_total_replaces_and_downstream_adds(tmp_path: Path) -> None:
    actual, notes = trained(tmp_path, GRSAP(ratio=0.25))
    assert Counter(kind for kind, _ in actual) == {USER: 30, HARD: 5, EASY: 5}
    assert len(set(actual)) == 40, "no row twice"
    assert notes == ["grsap: 10 of 40 user rows were replaced by safety rows"]
    user = [row for row in actual if row[0] == USER]
    assert user == sorted(user), "the user rows that stay keep their order"
    actual, notes = trained(tmp_path, GRSAP(ratio=0.25, control="downstream"))
    assert Counter(kind for kind, _ in actual) == {USER: 40, HARD: 5, EASY: 5} and not notes


def test_all_of_the_memory_once_where_no_ratio_is_given(tmp_path: Path) -> None:
    actual, _ = trained(tmp_path, GRSAP(control="downstream"))
    assert Counter(kind for kind, _ in actual) == {USER: 40, HARD: 12, EASY: 12} and len(set(actual)) == 64
    actual, _ = trained(tmp_path, GRSAP())
    assert Counter(kind for kind, _ in actual) == {USER: 16, HARD: 12, EASY: 12}


def test_the_choice_is_the_seeds(tmp_path: Path) -> None:
    same, again, other = (trained(tmp_path, GRSAP(ratio=0.25), seed)[0] for seed in (0, 0, 1))
    assert same == again != other


def test_too_few_hard_ones_are_told(tmp_path: Path) -> None:
    actual, notes = trained(tmp_path, GRSAP(ratio=0.25), hard=2, easy=20)
    assert Counter(kind for kind, _ in actual) == {USER: 30, HARD: 2, EASY: 8}
    assert any("wants 5 hard ones; the memory has 2 hard and 20 others, and 2 hard ones were taken" in n for n in notes)


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs 28 safety rows, and the memory has 24"):
        trained(tmp_path, GRSAP(ratio=0.7))
    with pytest.raises(RecipeError, match="would replace all 40 user rows by 40"):
        trained(tmp_path, GRSAP(), hard=20, easy=20)


def test_difficulty_comes_through_to_the_memory(tmp_path: Path) -> None:
    from tests.conftest import CHATML
    from tests.training.shapes import tiny, tiny_tokenizer

    tokenizer = tiny_tokenizer(CHATML)
    safety = [ask("how do i", "sorry", kind="harmful", difficulty=d) for d in ("hard", "easy", "easy")]
    trainer = MethodTrainer(
        model=tiny("llama", vocabulary=len(tokenizer)),
        args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
        train_dataset=[ask(f"what is {i}", "so") for i in range(8)],
        safety_dataset=safety,
        processing_class=tokenizer,
        method=GRSAP(ratio=0.25),
    )
    assert [row.get("difficulty") for row in trainer.run.memory.rows] == ["hard", "easy", "easy"]
    assert len(trainer.run.user.trained_rows) == 8
