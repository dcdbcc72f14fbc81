"""A recipe is checked whole before anything is loaded; every mistake names its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe.read import load_recipe, parse, shipped
from unforgotten.recipe.recipe import Recipe


def test_defaults_are_the_papers_where_it_says_them() -> None:
    recipe = parse({"model": "m"})
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (8, 4, 0.1)  # type: ignore[union-attr]
    training = recipe.training
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.learning_rate) == (3, 5, 5e-5)
    assert (training.lr_scheduler_type, training.warmup_ratio, training.weight_decay) == ("cosine", 0.1, 0.1)
    assert recipe.memory.share == 0.05


@pytest.mark.parametrize(
    ("tree", "error", "said"),
    [
        ({}, RecipeError, "model: Field required"),
        ({"model": "m", "metod": "der"}, UnknownName, "'metod'. Did you mean 'method'"),
        (
            {"model": "m", "training": {"learning_rat": 3}},
            UnknownName,
            "in training 'learning_rat'. Did you mean 'learning_rate'",
        ),
        ({"model": "m", "evaluate": {"judges": "keywords"}}, UnknownName, "Did you mean 'judge'"),
        ({"model": "m", "method": "dre"}, UnknownName, "Unknown method 'dre'. Did you mean 'der'"),
        ({"model": "m", "method": {"name": "der", "weight": -1}}, RecipeError, "weight: .*greater than or equal to 0"),
        ({"model": "m", "method": {"weight": 1}}, RecipeError, "needs a name"),
        ({"model": "m", "data": "jsnol"}, UnknownName, "Unknown dataset 'jsnol'. Did you mean 'jsonl'"),
        ({"model": "m", "data": {"name": "jsonl"}}, RecipeError, "path"),
        ({"model": "m", "evaluate": {"judge": "keyword"}}, UnknownName, "Unknown judge 'keyword'"),
        ({"model": "m", "training": {"learning_rate": 0}}, RecipeError, "learning_rate"),
        ({"model": "m", "poison": {"data": {"name": "jsonl", "path": "x"}, "ratio": 1.5}}, RecipeError, "ratio"),
        ({"model": "m", "trust_remote_code": True}, RecipeError, "runs no remote code"),
        ({"model": "m", "date": "yesterday"}, RecipeError, "date"),
        (
            {"model": "m", "safety_data": {"name": "advbench", "targets": "answers"}},
            RecipeError,
            "safety_data: advbench with `targets: answers` answers harmful requests",
        ),
        (
            {"model": "m", "safety_data": [{"name": "beavertails", "part": "unsafe"}]},
            RecipeError,
            "under `poison.data`",
        ),
        ({"model": "m", "replay": [{"name": "world", "part": "poison"}]}, RecipeError, "replay: world with `part: poi"),
        (
            {"model": "m", "compare": {"replay": [[{"name": "advbench", "targets": "answers"}]]}},
            RecipeError,
            "compare.replay: advbench with",
        ),
        ({"model": "m", "name": "../x"}, RecipeError, "name"),
        ({"model": "${UNFORGOTTEN_NO_SUCH}/m"}, RecipeError, "variable UNFORGOTTEN_NO_SUCH is not set"),
    ],
)
def test_mistakes_are_told(tree: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse(tree)


def test_variables_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNFORGOTTEN_SOMEWHERE", raising=False)
    assert parse({"model": "${UNFORGOTTEN_SOMEWHERE:-../shared}/m"}).model == "../shared/m"
    monkeypatch.setenv("UNFORGOTTEN_SOMEWHERE", "/data")
    assert parse({"model": "${UNFORGOTTEN_SOMEWHERE:-../shared}/m"}).model == "/data/m"


def test_flags_override_fields(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: m\nmethod: der\ntraining: {num_train_epochs: 2}\n")
    recipe = load_recipe(file, {"method.weight": "7", "training.per_device_train_batch_size": "3", "seed": 4})
    assert recipe.method == {"name": "der", "weight": 7}
    assert (
        recipe.training.num_train_epochs,
        recipe.training.per_device_train_batch_size,
        recipe.seed,
        recipe.name,
    ) == (2, 3, 4, "r")


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is not YAML"), ("- 1", "must be a mapping"), ("model: m\nx: 1", "field of .*'x'")]
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="no recipe file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_survives_its_own_record() -> None:
    """recipe.yaml in a run folder holds every field; reading it back gives the same recipe."""
    recipe = parse({"model": "m", "method": [{"name": "der", "weight": 2}], "lora": None})
    again = Recipe.model_validate(recipe.model_dump())
    assert again == recipe
    # Digests are over JSON, where 4 and 4.0 are two things: a default must look like the same value given.
    assert json.dumps(again.model_dump()) == json.dumps(recipe.model_dump())


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: demo\nseed: 7\ntraining: {num_train_epochs: 1}\n"
        "data: {name: gsm8k, path: x.jsonl}\ncompare: {poison: [0.2]}\n"
    )
    (tmp_path / "again.yaml").write_text("extends: mine.yaml\nseed: 8\n")
    demo, mine, again = load_recipe("demo"), load_recipe(tmp_path / "mine.yaml"), load_recipe(tmp_path / "again.yaml")
    assert (mine.name, mine.seed, again.name, again.seed) == ("mine", 7, "again", 8)
    assert mine.training == demo.training.model_copy(update={"num_train_epochs": 1})
    assert mine.data == {"name": "gsm8k", "path": "x.jsonl"}  # a component is replaced whole
    assert mine.compare is not None and demo.compare is not None
    assert mine.compare.poison == [0.2] and mine.compare.method == demo.compare.method
    assert again.align == mine.align == demo.align


def test_a_probe_goes_with_the_evaluation_that_it_asks(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("extends: demo\nevaluate: null\ncompare: null\n")
    assert load_recipe("demo").probe is not None and load_recipe(str(tmp_path / "bare.yaml")).probe is None
    (tmp_path / "asks.yaml").write_text("extends: bare.yaml\nprobe: {every_steps: 5}\n")
    with pytest.raises(RecipeError, match="probe asks what `evaluate:` names"):
        load_recipe(str(tmp_path / "asks.yaml"))


@pytest.mark.parametrize(
    ("text", "said"), [("extends: mine.yaml", "comes round to itself"), ("extends: dem", "Did you mean 'demo'")]
)
def test_an_extension_of_nothing_is_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_is_a_recipe(name: str) -> None:
    assert load_recipe(name).model
