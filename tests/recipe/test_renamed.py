"""Keys of the first edition and of other tools get an error with the name here; TrainingArguments pass through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from unforgotten.errors import RecipeError, UnforgottenError, UnknownName
from unforgotten.recipe import arguments, renamed
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.recipe.training import Align, Lora, Training, UserLora


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"training": {"epochs": 3}}, "training.epochs is called training.num_train_epochs here"),
        ({"training": {"micro_batch_size": 3}}, "training.per_device_train_batch_size here"),
        ({"align": {"batch_size": 3}}, "align.batch_size is called align.per_device_train_batch_size here"),
        ({"align": {"lora": {"alpha": 3}}}, "align.lora.alpha is called align.lora.lora_alpha here"),
        ({"lora": {"targets": "all-linear"}}, "lora.targets is called lora.target_modules here"),
        ({"lora": {"lora_rank": 4}}, "lora.lora_rank is called lora.r here"),
        ({"policy": "merged"}, "policy is called lora.existing here"),
        ({"lora": {"existing": "stacked"}}, "lora.existing: stacked is called lora.existing: stack here"),
        ({"base": "m0", "safety": []}, "base is called unaligned_model here; safety is called safety_data here"),
        ({"replay": "safety"}, "replay: safety is called replay: safety_data here"),
        ({"base_model": "m", "micro_batch_size": 2}, "base_model is called model here; micro_batch_size is called"),
        ({"learning_rate": 1e-4}, "learning_rate is called training.learning_rate here"),
        ({"sweep": {"fields": {"lora.alpha": [1, 2]}}}, "sweep.fields.lora.alpha is called sweep.fields.lora.lora_alp"),
    ],
)
def test_another_name_gets_the_one_here(tree: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        parse({"model": "m", **tree})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"model": "m", **tree}))
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "r.yaml")


def test_flags_get_it_too(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m\n")
    with pytest.raises(RecipeError, match="training.epochs is called training.num_train_epochs here"):
        load_recipe(tmp_path / "r.yaml", {"training.epochs": "1"})


def test_every_new_name_is_one() -> None:
    """What an error names must be a field, and no field may be refused as another name."""
    for old, new in {**renamed._TOP}.items():
        assert old not in Recipe.model_fields, old
        part, _, field = new.partition(":")[0].partition(".")
        owner = {"training": Training, "lora": UserLora}.get(part) if field else Recipe
        assert owner is not None, new
        assert (field or part) in owner.model_fields or field in arguments._hints(), new
    for names, owner in ((renamed._TRAINING, Training), (renamed._LORA, Lora)):
        for old, new in names.items():
            assert old not in owner.model_fields and (new in owner.model_fields or new in arguments._hints()), old


def test_names_are_transformers_own() -> None:
    """Every field of `training:` is one of TrainingArguments, or is known not to be."""
    ours = {"max_length", "loss", "group_by_length", "warmup_ratio"}
    assert set(Training.model_fields) - set(arguments._hints()) <= ours
    assert set(Align.model_fields) == set(Training.model_fields) | {"lora"}
    assert set(arguments.ELSEWHERE) <= set(arguments._hints())


def test_arguments_pass_through(tmp_path: Path) -> None:
    from unforgotten.training.arguments import arguments as made

    given = {"optim": "adamw_torch", "adam_beta2": "0.95", "adam_epsilon": 1e-6, "max_steps": 7, "warmup_steps": 3}
    training = parse({"model": "m", "training": given}).training
    args = made(training, tmp_path, 0)
    assert (args.adam_beta2, args.adam_epsilon, args.max_steps, args.warmup_steps) == (0.95, 1e-6, 7, 3)
    assert args.optim == TrainingArguments(str(tmp_path), optim="adamw_torch").optim
    # They are in the record, which reads back as the same recipe, and in the digest.
    recipe = parse({"model": "m", "training": given})
    assert parse(recipe.record()) == recipe
    assert recipe.training.determining()["adam_beta2"] == 0.95
    assert "warmup_steps" not in parse({"model": "m"}).training.determining()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 1}, "seed is not set here: write `seed` at the top level"),
        ({"output_dir": "x"}, "output_dir is not set here: write `out`"),
        ({"eval_steps": 3}, "eval_steps is not set here"),
        ({"hub_token": "x"}, "hub_token is not set here"),
        ({"deepspeed": "ds.json"}, "deepspeed is not set here: shards"),
        ({"auto_find_batch_size": True}, "the batch decides the result"),
        ({"adam_beta1": True}, "adam_beta1 takes float, not True"),
        ({"adam_beta1": "much"}, "adam_beta1 takes float, not 'much'"),
        ({"warmup_ratio": 5}, "warmup_ratio.*less than 1"),
    ],
)
def test_what_cannot_pass_is_told(given: dict[str, Any], said: str) -> None:
    for part in ("training", "align"):
        with pytest.raises(RecipeError, match=said):
            parse({"model": "m", part: given})


def test_a_value_that_transformers_refuses_is_told_before_training() -> None:
    from unforgotten.training.arguments import check_values

    training = parse({"model": "m", "training": {"optim": "adamw_nobody"}}).training
    with pytest.raises(UnforgottenError, match="training: .*adamw_nobody"):
        check_values(training)


def test_a_field_of_nobody_is_unknown() -> None:
    with pytest.raises(UnknownName, match="in align 'learning_rat'. Did you mean 'learning_rate'"):
        parse({"model": "m", "align": {"learning_rat": 1}})
    with pytest.raises(UnknownName, match="in training 'adam_beta_2'. Did you mean 'adam_beta2'"):
        parse({"model": "m", "training": {"adam_beta_2": 0.9}})


def test_steps_and_epochs() -> None:
    """As the Trainer counts them: 10 rows in batches of 3 are 4 batches, by two 2 steps an epoch."""
    how = Training(per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=3)
    assert (how.steps(10), how.epochs(10)) == (6, 3)
    how = Training(per_device_train_batch_size=3, gradient_accumulation_steps=2, max_steps=5)
    assert (how.steps(12), how.epochs(12)) == (5, 2.5)
