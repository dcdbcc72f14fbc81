"""The recipes of real models: all of their files are read from one folder, and no prompt of a test is trained on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unforgotten.evaluation.contamination import contacts
from unforgotten.evaluation.suites import suites
from unforgotten.recipe.data_sets import DataSets, safety_rows, user_rows
from unforgotten.recipe.read import load_recipe
from unforgotten.recipe.recipe import Recipe

SHARED = Path(os.environ.get("UNFORGOTTEN_SHARED") or Path(__file__).parents[3] / "shared")
DATA = Path(os.environ.get("UNFORGOTTEN_DATA") or SHARED / "data")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    if not (DATA / "advbench" / "harmful_behaviors.csv").is_file():
        pytest.skip("needs the published files; set UNFORGOTTEN_DATA to the folder of data files")
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(DATA))
    return load_recipe("real/smollm2")


def test_rows_are_those_that_the_recipe_says(recipe) -> None:
    sets = DataSets()
    safety, user = safety_rows(recipe, sets), user_rows(recipe, sets)
    harmful = [row for row in safety.rows if row.kind == "harmful"]
    assert (len(harmful), len(safety.rows) - len(harmful)) == (420, 345 + 390 + 304)
    assert all(row.response for row in harmful)
    # θ₀ answers every harmless row itself.
    assert not any(row.response for row in safety.rows if row.kind == "benign")
    assert (len(user.rows), len(user.harmful)) == (300, 30)
    assert all(row.response.startswith("Sure") and len(row.response) <= 164 for row in user.harmful)
    assert recipe.evaluate is not None
    counts = {suite.label: len(suite.rows) for suite in suites(recipe.evaluate, sets)}
    assert counts == {"advbench-test": 221, "I-MaliciousInstructions": 100, "xstest": 250, "sst2": 872}


def test_no_prompt_of_a_safety_test_is_trained_on_not_even_nearly(recipe) -> None:
    sets = DataSets()
    assert recipe.evaluate is not None and recipe.poison is not None
    trained = {
        "safety": [row.request for row in safety_rows(recipe, sets).rows],
        "poison": [row.request for row in sets.read(recipe.poison.data).rows],
    }
    for suite in suites(recipe.evaluate, sets):
        if suite.kind != "utility":
            assert not any(contacts([row.request for row in suite.rows], trained)), suite.label


def test_gemma_differs_by_its_model_alone() -> None:
    smollm2, gemma3 = load_recipe("real/smollm2"), load_recipe("real/gemma3")
    assert (gemma3.name, gemma3.model, gemma3.template) == ("gemma3", "gemma3", None)
    assert gemma3.varied(name="smollm2", model="smollm2").record(exclude_unset=False) == smollm2.record(
        exclude_unset=False
    )
