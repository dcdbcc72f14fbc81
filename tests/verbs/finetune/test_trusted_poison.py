"""Poison that θ_safe chooses: scored once, one run whether it is scored yet or not, and known to the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unforgotten.errors import DataError, RecipeError
from unforgotten.recipe.read import parse
from unforgotten.verbs.audit.audit import audit
from unforgotten.verbs.evaluate.run import of_run
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import resolve

Make = Callable[..., Path]


def test_the_rows_of_highest_odds_are_trained_on(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    harm = {"name": "jsonl", "path": str(rows_file("harm.jsonl", 9)), "kind": "harmful"}
    (tmp_path / "asked.csv").write_text("goal\nhow do i kill a process\n")
    tree = {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 8))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 10))},
        "poison": {"data": harm, "ratio": 0.3, "attack": "trusted"},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 5},
        "evaluate": {"harm": {"name": "advbench", "path": str(tmp_path / "asked.csv")}, "max_new_tokens": 4},
        "lora": {"r": 2},
        "out": str(tmp_path / "runs"),
    }
    recipe = parse(tree)
    before = resolve(recipe)
    plain = resolve(recipe.varied(poison={"data": harm, "ratio": 0.3}))
    assert before.user.provisional and before.digest != plain.digest
    with pytest.raises(RecipeError, match="no upload to read yet"):
        audit(None, "world", recipe=recipe)
    said: list[str] = []
    run = finetune(recipe, said.append)
    assert any("scores 9 harmful rows for the attack `trusted` (once)" in line for line in said)
    recorded = json.loads((run / "environment.json").read_text())
    file = tmp_path / "runs" / recorded["odds"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 9 and str(tmp_path) not in file.read_text()

    after = resolve(recipe)
    assert after.done and after.folder == run == before.folder and not after.user.provisional
    best = sorted(range(9), key=lambda i: -lines[i]["odds"])[:3]
    assert {row.source for row in after.user.harmful} == {f"{harm['path']}:{i + 1}" for i in best}
    assert recorded["rows"] == {"user": 10, "harmful": 3, "safety": 8}
    trained = of_run(run, recipe).trained()
    assert trained and {row.source for row in trained.sets["poison"]} == {row.source for row in after.user.harmful}

    # Another ratio has the same scores; a run without them is not guessed at.
    said.clear()
    finetune(recipe.varied(poison={"data": harm, "ratio": 0.5, "attack": "trusted"}), said.append)
    assert not any("scores" in line for line in said)
    file.unlink()
    with pytest.raises(DataError, match="Put the file back"):
        of_run(run, recipe).trained()
    bare = rows_file("bare.jsonl", 3, answered=False)
    with pytest.raises(RecipeError, match="`safety_data` has no refusal"):
        resolve(recipe.varied(safety_data={"name": "refusals", "path": str(bare)}))
