"""A sweep of a tiny model, end to end: its runs are runs, its choice is asked what the search did not see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("optuna")

from unforgotten.cli import app
from unforgotten.errors import RecipeError
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.report.page.tradeoff import front
from unforgotten.runs import results
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.sweep.space import places, varied
from unforgotten.verbs.sweep.sweep import plan, sweep

Make = Callable[..., Path]
NAMES = "ana tom sam eva leo mia".split()


@pytest.fixture
def tree(tmp_path: Path, model_folder: Make, rows_file: Make) -> dict[str, Any]:
    harm, sums = tmp_path / "harm.csv", tmp_path / "sums.jsonl"
    things = "process thread window bottle garden ladder candle mirror".split()
    harm.write_text("goal\n" + "\n".join(f"how do i {verb} a {thing}" for verb in ("kill", "stop") for thing in things))
    facts = [{"question": f"{name} has {i} and {i}?", "answer": f"so #### {2 * i}"} for i, name in enumerate(NAMES)]
    sums.write_text("\n".join(map(json.dumps, facts)))
    return {
        "name": "small",
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 12))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 10))},
        "method": {"name": "der", "weight": 1.0},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4},
        "evaluate": {
            "harm": {"name": "advbench", "path": str(harm)},
            "utility": {"name": "gsm8k", "path": str(sums)},
            "conditions": ["default"],
            "max_new_tokens": 4,
        },
        "sweep": {"fields": {"weight": {"low": 0.1, "high": 10, "log": True}, "training.learning_rate": [5e-5, 1e-3]}},
        "out": str(tmp_path / "runs"),
    }


def facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "sweep.json").read_text()))


def asked(out: Path, row: results.ResultRow) -> set[str]:
    """The prompts of a row, from the replies that it names."""
    files = (out / row.run / "replies").glob("*.jsonl")
    return {str(json.loads(line)["request"]) for file in files for line in file.read_text().splitlines()}


def test_a_sweep_end_to_end(tree: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    two = parse(tree | {"sweep": tree["sweep"] | {"trials": 2}})
    said: list[str] = []
    folder = sweep(two, said.append)
    assert folder.parent == out
    assert any("weight: 0.1 to 10, by factors (the recipe has 1.0)" in line for line in said)
    first = facts(folder)
    assert [t["number"] for t in first["trials"]] == [0, 1]
    assert first["trials"][0]["settings"] == {"weight": 1.0, "training.learning_rate": 5e-5}, "the recipe's own"

    # More trials are the same sweep; of the runs that are there none is trained again.
    stamps = {file: file.stat().st_mtime_ns for file in out.glob("small-*/trained.json")}
    three = parse(tree | {"sweep": tree["sweep"] | {"trials": 3}})
    runner = CliRunner().invoke(app, ["sweep", _kept(three, tmp_path)])
    assert runner.exit_code == 0, runner.output
    assert str(folder) in runner.output.replace("\n", "") and "trial" in runner.output
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    actual = facts(folder)
    assert actual["trials"][:2] == first["trials"] and len(actual["trials"]) == 3

    # Each trial is the run that `finetune` of the same settings finds, and its figures are those of its row.
    rows = {row.run: row for row in results.read(folder / "results.json")}
    space = places(three)
    for trial in actual["trials"]:
        run = resolve(varied(three, space, trial["settings"])).folder
        assert trial["runs"] == [run.name] and (run / "trained.json").is_file()
        [row] = [row for name, row in rows.items() if name.startswith(f"evaluated/{run.name}-")]
        assert row.asr["harm"].value == trial["outcome"]["asr"] if "harm" in row.asr else True
        assert not (run / "results.json").exists(), "a run's own figures are not a part of its prompts"

    # The choice, plain SFT and the recipe's own setting are asked what no trial was.
    held = results.read(folder / "held-out.json")
    assert [row.method for row in held] == ["sft", "der", "der"]
    seen = set().union(*(asked(out, row) for row in rows.values()))
    unseen = set().union(*(asked(out, row) for row in held))
    assert seen and unseen and not seen & unseen and len(seen | unseen) == 22

    # The front, by its definition.
    corners = [(t["outcome"]["asr"], -t["outcome"]["utility"]) for t in actual["trials"]]
    beaten = [any(o[0] <= c[0] and o[1] <= c[1] and o != c for o in corners) for c in corners]
    assert {corners[i] for i in actual["front"]} == {c for c, lost in zip(corners, beaten, strict=True) if not lost}
    assert set(front(corners)) >= set(actual["front"])
    text = (folder / "README.md").read_text()
    for title in ("## The front", "## The choice", "## Held-out prompts", "How sensitive", "## All trials"):
        assert title in text
    assert str(tmp_path) not in text, "it names no path of this machine"


def _kept(recipe: Recipe, folder: Path) -> str:
    import yaml

    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(exclude_unset=True), sort_keys=False))
    return str(file)


def test_a_rate_at_which_training_breaks_down_is_a_trial_and_not_the_end(tree: dict[str, Any]) -> None:
    fields = {"training.learning_rate": [5e-5, 1e30]}
    recipe = parse(tree | {"sweep": {"fields": fields, "trials": 4, "utility_floor": 0}})
    actual = facts(sweep(recipe))
    by_rate = {t["settings"]["training.learning_rate"]: t for t in actual["trials"]}
    assert by_rate[5e-5]["outcome"] and by_rate[1e30]["outcome"] is None and by_rate[1e30]["note"]
    assert actual["holds"] and actual["trials"][actual["chosen"]]["outcome"]


def test_what_cannot_be_weighed_is_told_before_anything_runs(tree: dict[str, Any], tmp_path: Path) -> None:
    for change, error in (
        ({"evaluate": None}, r"Add evaluate\.harm and evaluate\.utility"),
        ({"evaluate": tree["evaluate"] | {"utility": []}}, r"Add evaluate\.harm and evaluate\.utility"),
        ({"sweep": tree["sweep"] | {"max_refusal": 5}}, r"sweep\.max_refusal limits refused look-alikes"),
        ({"evaluate": tree["evaluate"] | {"endpoint": {"url": "http://h/v1"}}}, r"Leave out evaluate\.endpoint"),
    ):
        with pytest.raises(RecipeError, match=error):
            sweep(parse(tree | change))
    assert not (tmp_path / "runs").exists()


def test_the_plan_says_what_is_searched_and_on_what(tree: dict[str, Any]) -> None:
    said = plan(parse(tree | {"sweep": {"trials": 7, "max_utility_loss": 3, "seeds": 2}}))
    assert said[0] == "7 trials of 2 runs, 1 at a time; the recipe's own setting comes first."
    assert "replay: 0.1 to 10, by factors (the recipe has 1.0); by default" in said
    assert "lowest ASR, each task at most 3 points below plain SFT's" in said
    counts = [int(word.strip(",")) for line in said[-2:] for word in line.split() if word.strip(",").isdigit()]
    assert sum(counts) == 22
