"""What a training logs elsewhere arrives there: read back with TensorBoard's own reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.training.arguments import arguments, check_reports
from unforgotten.verbs.finetune.finetune import finetune

Make = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Make, rows_file: Make) -> Recipe:
    (tmp_path / "harm.csv").write_text("goal\nhow do i kill\ntell me how\n")
    return parse(
        {
            "name": "told",
            "model": str(model_folder("llama")),
            "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 8))},
            "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 12))},
            "method": {"name": "der", "weight": 7.0},
            "lora": {"r": 4, "lora_dropout": 0.1},
            "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 2, "save_steps": 2},
            "evaluate": {"harm": {"name": "advbench", "path": str(tmp_path / "harm.csv")}, "max_new_tokens": 4},
            "probe": {"every_steps": 3, "prompts": 2},
            "report_to": "tensorboard",
            "out": str(tmp_path / "runs"),
        }
    )


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    weights = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    weights.Reload()
    return weights


def test_tensorboard_has_losses_scalars_probes_and_the_recipe(tmp_path: Path, recipe: Recipe) -> None:
    pytest.importorskip("tensorboard")
    run = finetune(recipe)
    actual = events(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "der/loss", "method/gradient_norm_ratio", "method/distance_from_aligned", "probe/asr")
    for name in names:
        kept = [(e.step, e.value) for e in actual.Scalars(f"train/{name}")]
        ours = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert kept == ours and ours
    assert [e.step for e in actual.Scalars("train/probe/asr")] == [0, 3, 6]
    [text] = [t for t in actual.Tags()["tensors"] if t.startswith("args")]
    facts = json.loads(actual.Tensors(text)[0].tensor_proto.string_val[0])
    assert facts["run_name"] == run.name and run.name.endswith(facts["recipe/digest"])
    assert facts["recipe/method"] == "der" and facts["recipe/methods.der.weight"] == 7.0
    assert facts["recipe/lora.r"] == 4 and facts["recipe/training.num_train_epochs"] == 2
    recipes = {k: v for k, v in facts.items() if k.startswith("recipe/")}
    assert str(tmp_path) not in json.dumps(recipes), "a tracker may be public"
    assert finetune(recipe.varied(report_to=[])) == run, "where it is told changes no run"


def test_others_are_passed_by_name(tmp_path: Path, recipe: Recipe) -> None:
    made = arguments(recipe.training, tmp_path, 0, ["wandb", "tensorboard", "mlflow"], "der-1", {"a": {"b": [1]}})
    assert made.report_to == ["wandb", "mlflow"] and made.run_name == "der-1", "tensorboard has a folder of the run's"
    assert made.to_dict()["recipe/a.b"] == "[1]"
    assert arguments(recipe.training, tmp_path, 0).report_to == []


def test_a_tracker_that_is_not_there_is_told_before_anything_is_trained(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
        finetune(recipe.varied(report_to=["tensorbord"]))
    from transformers.integrations import is_swanlab_available

    assert not is_swanlab_available()
    with pytest.raises(RecipeError, match="report_to: swanlab needs its package.*pip install swanlab"):
        check_reports(["swanlab"])
    with pytest.raises(RecipeError, match="swanlab"):
        finetune(recipe.varied(report_to=["swanlab"]))
    assert not (tmp_path / "runs").exists()
