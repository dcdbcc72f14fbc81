"""Keys of the first edition and of other tools get an error with the name here; TrainingArguments pass through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from unforgotten.errors import RecipeError, UnknownName, UnsupportedError
from unforgotten.methods.der import DER
from unforgotten.recipe import arguments, renamed
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.recipe.training import Align, Lora, Training, UserLora
from unforgotten.training.arguments import check_values
from unforgotten.verbs.align import align
from unforgotten.verbs.finetune.finetune import finetune


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
        ({"optim": "adafactor"}, "optim is called training.optim here"),
        ({"eval_steps": 5}, "eval_steps is no field of a recipe: stage finetune evaluates nothing"),
        ({"training": {"lora_r": 4}}, "training.lora_r is called lora.r here"),
        ({"align": {"lora_alpha": 4}}, "align.lora_alpha is called align.lora.lora_alpha here"),
        ({"compare": {"base_model": ["m"]}}, "compare.base_model is called compare.model here"),
        ({"compare": {"replay": ["safety"]}}, "compare.replay: safety is called compare.replay: safety_data here"),
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
    assert set(Align.model_fields) == set(Training.model_fields) | {"lora", "answer_tokens", "seed"}
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


def test_numbers_that_yaml_reads_as_text_are_numbers_in_mappings_too() -> None:
    training = parse({"model": "m", "training": {"lr_scheduler_kwargs": {"min_lr": "1e-6", "of": "linear"}}}).training
    assert (training.model_extra or {})["lr_scheduler_kwargs"] == {"min_lr": 1e-6, "of": "linear"}


@pytest.mark.parametrize("source", [None, "safetydata", ["safety_data"], {"name": "world"}, [{"name": "nobody"}]])
def test_a_source_of_the_memory_is_told_in_a_sentence(source: Any) -> None:
    for tree in ({"replay": source}, {"compare": {"replay": [source]}}):
        with pytest.raises(RecipeError, match=r"replay: .*(safety_data|list of data sets)|dataset 'nobody'") as caught:
            parse({"model": "m", **tree})
        assert "literal[" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data_seed": 1}, "data_seed is not set here: write `seed` at the top level"),
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


def test_only_the_alignment_has_a_seed_of_its_own() -> None:
    with pytest.raises(RecipeError, match="seed is not set here: write `seed` at the top level"):
        parse({"model": "m", "training": {"seed": 1}})
    with pytest.raises(RecipeError, match="align.seed"):
        parse({"model": "m", "align": {"seed": -1}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optim": "adamw_nobody"}, "adamw_nobody"),
        ({"lr_scheduler_type": "cosin"}, "cosin is not a valid SchedulerType"),
        ({"lr_scheduler_kwargs": {"nobody": 1}}, "nobody"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"adam_beta1": 2.0}, "Invalid beta parameter"),
        ({"dataloader_num_workers": -1}, "num_workers"),
        ({"log_level": "nobody"}, "no such value: 'nobody'"),
    ],
)
def test_a_value_that_transformers_refuses_is_told_before_training(
    given: dict[str, Any], said: str, model_folder: Callable[..., Path], rows_file: Callable[..., Path], tmp_path: Path
) -> None:
    """In both stages, and before the model is aligned or loaded: there is not even a folder."""
    tree = {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("safety.jsonl", 4))},
        "data": {"name": "jsonl", "path": str(rows_file("upload.jsonl", 4))},
        "out": str(tmp_path / "runs"),
    }
    for part, more in (("training", {"align": {}, "training": given}), ("align", {"align": given})):
        with pytest.raises(RecipeError, match=f"^{part}: .*{said}"):
            finetune(parse({**tree, **more}))
    with pytest.raises(RecipeError, match=f"^align: .*{said}"):
        align(parse({**tree, "align": given}))
    assert not (tmp_path / "runs").exists()


def test_values_that_transformers_takes_pass_the_check() -> None:
    """A schedule with numbers of its own, and optimizers that look for a model's layers."""
    for given in (
        {},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": "1e-6"}},
        {"gradient_checkpointing": True, "label_smoothing_factor": 0.1, "warmup_steps": 5000},
        {"optim": "adafactor", "dataloader_num_workers": 1},
        {"group_by_length": True},
    ):
        check_values(parse({"model": "m", "training": given}).training)


def test_a_setting_in_which_a_method_cannot_be_right_is_told_at_the_door() -> None:
    training = parse({"model": "m", "training": {"fp16": True}}).training
    check_values(training)
    with pytest.raises(UnsupportedError, match="DER.*fp16"):
        check_values(training, methods=[DER()])


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
