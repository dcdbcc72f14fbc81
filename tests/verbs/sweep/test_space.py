"""What is searched is checked at the door, and a trial is the run that the same recipe by hand would be."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from unforgotten import registry
from unforgotten.cli import app
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe.read import load_recipe
from unforgotten.recipe.recipe import Recipe
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.sweep.space import COMPUTED, own, places, varied

LOG = {"low": 0.1, "high": 10, "log": True}


def recipe(fields: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    demo = {"method": {"name": "der", "weight": 2.0}, "memory": {"share": 0.05}, "compare": None}
    return load_recipe("demo").varied(**demo | {"sweep": {"fields": fields or {}}} | changes)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"wieght": [1, 2]}, "Unknown field in sweep.fields 'wieght'. Did you mean 'weight'?"),
        ({"training.lerning_rate": [1]}, "Unknown field of training, in sweep.fields.* Did you mean 'learning_rate'"),
        ({"poison.ratio": [0, 0.1]}, "Unknown field in sweep.fields 'poison.ratio'"),
        ({"weight": []}, "weight needs a list of different values"),
        ({"weight": [1, 1]}, "weight needs a list of different values"),
        ({"weight": 3}, "weight needs {low: …, high: …, log: true} or a list of values, not 3"),
        ({"weight": {"low": 1}}, "weight needs {low: …, high: …}, with log: true or not"),
        ({"weight": {"low": 1, "hihg": 2}}, "weight needs {low: …, high: …}, with log: true or not"),
        ({"weight": {"low": 2, "high": 1}}, "weight needs low below high, not 2 and 1"),
        ({"weight": {"low": 0, "high": 1, "log": True}}, "weight needs low above 0"),
        ({"weight": {"low": -1, "high": 1}}, r"sweep.fields.weight cannot be -1.0: .* greater than or equal to 0"),
        ({"weight": ["much"]}, "sweep.fields.weight cannot be 'much'"),
        ({"lora.lora_dropout": {"low": 0, "high": 1}}, r"sweep.fields.lora.lora_dropout cannot be 1.0: .* less than 1"),
        ({"lora.r": {"low": 1.5, "high": 8}}, "lora.r takes whole numbers, not 1.5 to 8"),
        ({"training.loss": LOG}, "training.loss is not a number. Give a list of values, such as .'auto', 'trainer'"),
        ({"weight": LOG, "der.weight": LOG}, "names a field twice: der.weight"),
    ],
)
def test_a_field_that_cannot_be_searched_is_told_with_the_mend(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error.replace("{", r"\{").replace("}", r"\}")):
        places(recipe(fields))


def test_what_would_change_nothing_is_refused() -> None:
    fields = {"memory.share": {"low": 0.01, "high": 0.1}}
    with pytest.raises(RecipeError, match=r"memory\.share has no effect while memory\.n_rows is set"):
        places(recipe(fields, memory={"n_rows": 300}))
    with pytest.raises(RecipeError, match=r"the recipe has no lora"):
        places(recipe({"lora.r": [4, 8]}, lora=None))
    with pytest.raises(
        RecipeError, match=r"sft has no field with a value to search around. Name fields in sweep\.fields"
    ):
        places(recipe(method="sft"))


def test_of_several_methods_a_field_is_named_by_its_own() -> None:
    both = {"method": ["der", {"name": "ewc", "weight": 5.0}, "ema"]}
    with pytest.raises(RecipeError, match=r"several methods have this field. Write der\.weight or ewc\.weight"):
        places(recipe({"weight": LOG}, **both))
    actual = places(recipe({"ewc.weight": LOG, "decay": [0.9, 0.99]}, **both))
    made = varied(recipe(**both), actual, {"ewc.weight": 0.5, "decay": 0.9})
    assert made.method == [{"name": "der"}, {"name": "ewc", "weight": 0.5}, {"name": "ema", "decay": 0.9}]
    with pytest.raises(UnknownName, match=r"Did you mean 'ema\.decay'"):
        places(recipe({"ema.dekay": [0.9]}, **both))


@pytest.mark.parametrize("method", registry.names("methods"))
def test_without_fields_a_methods_own_are_searched_about_their_values(method: str) -> None:
    fields = registry.fields(registry.load("methods", method))
    begun = {name for name, schema in fields.items() if schema.get("default") is not None} - COMPUTED
    begun -= {name for name in begun if isinstance(fields[name]["default"], str) and "enum" not in fields[name]}
    if not begun:
        with pytest.raises(RecipeError, match="has no field with a value"):
            places(recipe(method=method))
        return
    needed = {"safety_adapter": "adapter"} if method == "safemerge" else {}
    actual = places(recipe(method={"name": method, **needed}))  # which builds the method with both ends of each
    assert {place.name for place in actual} == begun
    assert own(actual) == {name: fields[name]["default"] for name in begun}, "it starts from the defaults"


def test_by_default_a_decade_to_either_side_and_below_an_upper_end_its_distance() -> None:
    by_name = {p.name: p for p in places(recipe(method={"name": "der", "weight": 20.0}))}
    assert (by_name["weight"].low, by_name["weight"].high, by_name["weight"].log) == (2.0, 200.0, True)
    [decay] = places(recipe(method="ema"))
    assert (decay.low, decay.high, decay.log) == (0.9, 0.999, False)
    assert "by default" in decay.text() and "0.9 to 0.999" in decay.text()
    steps = {p.name: p for p in places(recipe(method="lisa"))}["safety_steps"]
    assert (steps.low, steps.high, steps.whole) == (10.0, 1000.0, True)


def test_a_trial_is_the_run_of_the_same_recipe_by_hand() -> None:
    given = recipe({"weight": LOG, "training.learning_rate": [1e-3, 2e-3], "memory.share": {"low": 0.01, "high": 0.2}})
    actual = places(given)
    trial = varied(given, actual, {"weight": 3.0, "training.learning_rate": 1e-3, "memory.share": 0.1})
    by_hand = {"method.weight": 3.0, "training.learning_rate": 1e-3, "memory": {"share": 0.1}, "method.name": "der"}
    assert resolve(trial).digest == resolve(load_recipe("demo", by_hand)).digest
    assert trial.training.num_train_epochs == given.training.num_train_epochs, "what is not searched stays"
    start = own(actual)
    assert start == {"weight": 2.0, "training.learning_rate": 2e-3, "memory.share": 0.05}
    assert resolve(varied(given, actual, start)).digest == resolve(given).digest
    assert own(places(recipe({"weight": {"low": 5, "high": 9}}))) is None, "2 is not among those"


def test_without_optuna_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = CliRunner().invoke(app, ["sweep", "world-search", "--trials", "3"])
    assert result.exit_code == 2 and "pip install 'unforgotten[sweep]'" in result.output
    # What it would do can be asked without.
    result = CliRunner().invoke(app, ["sweep", "world-search", "--dry-run", "--trials", "3"])
    assert result.exit_code == 0 and result.output.startswith("3 trials of 1 run, 2 at a time")


def test_a_field_that_training_passes_on_is_searched_too() -> None:
    """Its default is that of TrainingArguments; fields that a recipe does not take are unknown."""
    searched = places(recipe({"training.adam_beta2": {"low": 0.9, "high": 0.999}, "training.optim": ["adamw_torch"]}))
    assert [place.name for place in searched] == ["training.adam_beta2", "training.optim"]
    assert searched[0].own == 0.999
    trial = varied(recipe(), searched[:1], {"training.adam_beta2": 0.95})
    assert trial.training.determining()["adam_beta2"] == 0.95
    with pytest.raises(UnknownName, match="seed"):
        places(recipe({"training.seed": [1, 2]}))
