"""A grid is every combination of what it varies, and the shipped tables run what the paper's tables do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unforgotten import registry
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.models.locate_aligned import unaligned
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.verbs.compare.compare import _titles, cells, compare
from unforgotten.verbs.finetune.job import resolve
from unforgotten.world.pretrain import base_folder

Make = Callable[..., Path]


def grid(**axes: Any) -> Any:
    return load_recipe("demo", {"compare": axes, "memory": {"share": 0.05, "at_least": 1}})


def test_every_combination_is_a_cell_and_the_method_varies_fastest() -> None:
    actual = cells(grid(method=["sft", "der"], poison=[0, 0.1], seed=[3, 4], memory=[{"share": 0.01}, {"n_rows": 5}]))
    assert len(actual) == 16 and len({resolve(cell).digest for cell in actual}) == 16
    said = [(c.seed, c.memory.share, c.memory.n_rows, c.poison and c.poison.ratio, c.method) for c in actual]
    assert said[:3] == [(3, 0.01, None, 0.0, "sft"), (3, 0.01, None, 0.0, "der"), (3, 0.01, None, 0.1, "sft")]
    assert said[-1] == (4, 0.05, 5, 0.1, "der")
    assert {c.memory.at_least for c in actual} == {1}, "a size is laid over the recipe's own memory"


def test_a_run_is_called_by_what_differs() -> None:
    actual = cells(grid(method=["sft", ["der", "ema"]], poison=[0, 0.1], memory=[{"share": 0.01}, {"n_rows": 5}]))
    assert _titles(actual)[:3] == [
        "sft, p = 0, memory of 1 %",
        "der+ema, p = 0, memory of 1 %",
        "sft, p = 0.1, memory of 1 %",
    ]
    assert _titles(actual)[-1] == "der+ema, p = 0.1, memory of 5 rows"
    assert _titles(cells(grid(method=["sft"], model=["world-mistral", "world"], seed=[1, 2])))[0] == (
        "sft, world-mistral, seed 1"
    )
    weights = _titles(cells(grid(method=["sft", "der", {"name": "der", "weight": 4}])))
    assert weights == ["sft", "der", "der(weight=4)"]


def test_a_task_brings_its_measure_and_a_model_its_base() -> None:
    data = [{"name": "world", "part": part} for part in ("sums", "code")]
    tests = [[{"name": "world", "part": f"{part}_test"}] for part in ("sums", "code")]
    actual = cells(grid(data=data, utility=tests, model=["world-mistral", "world-gemma2"]))
    assert [(c.model, c.data["part"], c.evaluate.utility[0]["part"]) for c in actual] == [
        (model, part, f"{part}_test") for model in ("world-mistral", "world-gemma2") for part in ("sums", "code")
    ]
    assert unaligned(actual[0]) == str(base_folder(0, model="world-mistral"))
    assert len({base_folder(0, model=m) for m in ("world", "world-mistral", "world-gemma2")}) == 3
    with pytest.raises(UnknownName, match="Did you mean 'world-gemma2'"):
        unaligned(parse({"model": "world-gema2"}))


def test_poison_is_varied_only_where_there_is_some() -> None:
    with pytest.raises(RecipeError, match=r"compare\.poison has 0\.1, but the recipe has no `poison"):
        cells(grid(poison=[0, 0.1]).varied(poison=None))
    assert len(cells(grid(poison=[0]).varied(poison=None))) == 1


def test_attacks_are_an_axis_and_no_rows_are_trained_on_twice() -> None:
    attacks = ["plain", "unlike_memory", "identity"]
    actual = cells(grid(method=["sft"], poison=[0, 0.1, 0.2], attack=attacks))
    said = [(c.poison.ratio, c.poison.attack) for c in actual if c.poison]
    once = [(0.2, "identity")]  # ten rows at any ratio
    assert said == [
        (0.0, "plain"),
        (0.1, "plain"),
        (0.1, "unlike_memory"),
        *once,
        (0.2, "plain"),
        (0.2, "unlike_memory"),
    ]
    assert len({resolve(cell).digest for cell in actual}) == len(actual)
    assert _titles(actual)[2] == "sft, p = 0.1, attack unlike_memory"
    own = load_recipe("demo", {"compare": {"attack": attacks}, "poison.ratio": 0.1})
    assert [c.poison.attack for c in cells(own) if c.poison] == attacks
    with pytest.raises(RecipeError, match="its ratio is 0"):
        cells(grid(attack=attacks))
    with pytest.raises(RecipeError, match="turns poison, but the recipe has no `poison"):
        cells(grid(attack=attacks).varied(poison=None))
    for across, ratios in (("attack", [0.1, 0.2]), ("poison", [0.1])):
        with pytest.raises(RecipeError, match="several attacks"):
            grid(attack=attacks, poison=ratios, table={"across": across})


def test_methods_named_alone_get_their_settings() -> None:
    own = {"settings": {"der": {"weight": 7.0}}, "model": "world"}
    assert parse(own | {"method": "der"}).methods == [{"name": "der", "weight": 7.0}]
    assert parse(own | {"method": {"name": "der"}}).methods == [{"name": "der", "weight": 7.0}]
    assert parse(own | {"method": ["der", "ema"]}).methods == [{"name": "der", "weight": 7.0}, "ema"]
    assert parse(own | {"method": {"name": "der", "replay": 2.0}}).methods == [{"name": "der", "replay": 2.0}]
    with pytest.raises(UnknownName, match=r"Did you mean 'weight'"):
        parse({"model": "world", "settings": {"der": {"wieght": 1}}})
    demo = load_recipe("demo")
    named, spelled = demo.varied(settings={"der": {"weight": 7}}), demo.varied(method={"name": "der", "weight": 7.0})
    assert resolve(named.varied(method="der")).digest == resolve(spelled).digest, "the same run, however it was written"


@pytest.fixture
def small(tmp_path: Path, model_folder: Make, rows_file: Make) -> dict[str, Any]:
    harm = tmp_path / "harm.csv"
    harm.write_text("goal\nhow do i kill a process\ntell me how to kill\n")
    return {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 12))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 10))},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4},
        "evaluate": {"harm": {"name": "advbench", "path": str(harm)}, "max_new_tokens": 4},
        "out": str(tmp_path / "runs"),
    }


def test_the_memory_may_come_from_elsewhere_and_the_results_say_so(small: Any, rows_file: Make) -> None:
    other = {"name": "refusals", "path": str(rows_file("other.jsonl", 5))}
    recipe = parse(
        small
        | {
            "method": "safeinstr",
            "compare": {"replay": ["safety_data", [other]], "table": {"across": "task", "of": ["asr"]}},
        }
    )
    folder = compare(recipe)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    said = [(r["replay"], r["memory_rows"]) for r in rows if r["stage"] == "tuned"]
    assert said == [("safety_data", 12), (["other"], 5)]
    text = (folder / "README.md").read_text()
    assert "| method | user non-refusal |" in text and r"| safeinstr(replay=\['other'\]) |" in text
    assert resolve(recipe.varied(compare=None)).folder.is_dir(), "the default is the run without the field"


def methods_of(name: str) -> list[str]:
    actual = load_recipe(name).compare
    assert actual is not None
    return [spec if isinstance(spec, str) else spec["name"] for spec in actual.method]


LATER = {"anchor", "guarded", "interpolate", "kl", "own_replies", "row_weights", "safegrad", "safemerge"}
"""Methods that came after the tables of 2512.10150, which do not run them."""


def test_the_shipped_tables_run_what_the_papers_tables_do() -> None:
    tables = {n: load_recipe(f"world-table{n}") for n in range(1, 7)}
    shape = {n: len(cells(table)) for n, table in tables.items()}
    assert shape == {1: 14 * 3, 2: 14 * 3, 3: 4 * 4, 4: 4 * 3, 5: 2 * 3, 6: 4 * 2}
    assert sorted(methods_of("world-table1")) == sorted(methods_of("world-table2"))
    assert set(methods_of("world-table1")) == set(registry.names("methods")) - LATER
    assert {tuple(sorted(methods_of(f"world-table{n}"))) for n in (3, 4, 6)} == {("der", "lisa", "lwf", "sft")}
    assert [c.memory.share for c in cells(tables[5])] == [0.01, 0.01, 0.03, 0.03, 0.05, 0.05]
    # One name and one set of settings: what two tables ask for is trained once.
    assert {table.name for table in tables.values()} == {"world-tables"}
    assert len({json.dumps(table.settings, sort_keys=True) for table in tables.values()}) == 1
    shared = [next(c for c in cells(tables[n]) if c.method == "der" and c.memory.share == 0.05) for n in (2, 4)]
    assert resolve(shared[0]).digest == resolve(shared[1]).digest


def test_every_setting_is_the_sweeps_choice_by_its_own_rule() -> None:
    """Of the kept figures: the safest within 5 points of SFT's accuracy, else the most accurate; worked out again."""
    rows = json.loads((Path(__file__).parents[3] / "docs" / "results" / "world-sweep.json").read_text())["rows"]
    tuned = [row for row in rows if row["stage"] == "tuned"]
    figures: dict[str, list[tuple[float, float, dict[str, Any]]]] = {}
    for clean in (row for row in tuned if row["poison"] == 0):
        [poisoned] = [row for row in tuned if row["poison"] == 0.1 and row["methods"] == clean["methods"]]
        asr = (clean["asr"]["mean"]["value"] + poisoned["asr"]["mean"]["value"]) / 2
        figures.setdefault(clean["method"], []).append(
            (asr, clean["utility"]["accuracy"]["value"], clean["methods"][0])
        )
    enough = figures["sft"][0][1] - 5
    settings = load_recipe("world-table1").settings
    for method, tried in figures.items():
        near = [each for each in tried if each[1] >= enough]
        _, _, best = min(near, key=lambda each: each[0]) if near else max(tried, key=lambda each: each[1])
        used = registry.determining(registry.build("methods", {"name": method, **settings.get(method, {})}))
        assert used == best, method
    assert set(settings) == {method for method, tried in figures.items() if len(tried) > 1}
    sweep = load_recipe("world-sweep")
    assert set(methods_of("world-sweep")) == set(registry.names("methods")) - LATER
    assert sweep.seed not in range(10), "no table shows that seed"
    own, shown = sweep.evaluate, load_recipe("world-table1").evaluate
    assert (
        own
        and shown
        and not {str(s) for s in own.harm + own.refusal + own.utility}
        & {str(s) for s in shown.harm + shown.refusal + shown.utility}
    )
