"""The paper's tables as recipes: each figure that it prints stands in them, and they run whole on small models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unforgotten import registry
from unforgotten.datasets.beavertails import CATEGORIES
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe.read import load_recipe, parse, shipped
from unforgotten.recipe.recipe import Recipe
from unforgotten.verbs.compare.compare import cells, compare

Make = Callable[..., Path]

TABLES = {
    # table: (methods in its order, tasks, p, what else) as arXiv 2512.10150 prints them
    1: (["sft", "der", "refresh", "agem", "ewc", "lwf", "magmax"], ["gsm8k", "sst2", "nemotron_code"], [0.0]),
    2: (["sft", "safeinstr", "lisa", "safelora", "der", "agem", "lwf"], ["gsm8k", "sst2", "nemotron_code"], [0.1]),
    3: (["sft", "lisa", "der", "lwf"], ["gsm8k"], [0.0, 0.1, 0.2, 0.3]),
    4: (["sft", "lisa", "der", "lwf"], ["gsm8k", "sst2", "nemotron_code"], [0.1]),  # its ASR are table 2's
    5: (["lisa", "der"], ["gsm8k"], [0.1]),  # at m = 250 its figures are table 2's
    6: (["sft", "lisa", "der", "lwf"], ["gsm8k"], [0.1]),  # §5.1: "unless stated otherwise"
}


def table(n: int, **given: Any) -> tuple[Any, list[Any]]:
    """The recipe and its cells."""
    recipe = load_recipe(f"paper/table{n}", given)
    return recipe, cells(recipe)


@pytest.mark.parametrize("n", TABLES)
def test_rows_and_columns_are_the_papers(n: int) -> None:
    methods, tasks, ratios = TABLES[n]
    recipe, actual = table(n)
    assert recipe.compare.method == methods
    assert sorted({cell.data["name"] for cell in actual}) == sorted(tasks)
    assert sorted({cell.poison.ratio for cell in actual if cell.poison}) == ratios
    models = {1: {"meta-llama/Llama-2-7b-hf"}, 6: {"mistralai/Mistral-7B-v0.3", "google/gemma-2-2b"}}
    assert {cell.model for cell in actual} == models.get(n, models[1])  # §4 footnotes 1 and 2, §5.2 footnote 6
    sizes = [(cell.memory.n_rows, cell.memory.share) for cell in actual]
    budgets = sorted({round(share * 5000) for rows, share in sizes if rows is None})
    assert budgets == ([50, 150, 250] if n == 5 else [250])  # §5.6, "Effect of Safety Sample Budget"
    columns = {1: 3, 2: 3, 3: 4, 4: 3, 5: 3, 6: 2}
    assert len(actual) == len(methods) * columns[n]


@pytest.mark.parametrize("n", TABLES)
def test_every_printed_number_is_there(n: int) -> None:
    for cell in table(n)[1]:
        for lora in (cell.lora, cell.align.lora):  # §5.2: "rank r = 8, scaling factor α = 4, and dropout of 0.1"
            assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 4, 0.1)
        for stage in (cell.training, cell.align):  # §5.2: "3 epochs with a batch size of 5 … 5e-5 … cosine … 10%"
            assert (stage.num_train_epochs, stage.per_device_train_batch_size) == (3, 5)
            assert (stage.gradient_accumulation_steps, stage.warmup_ratio) == (1, 0.1)
            assert (stage.learning_rate, stage.lr_scheduler_type, stage.weight_decay) == (5e-5, "cosine", 0.1)
        # §5.1: "5,000 benign and 5,000 harmful prompts", "the vanilla subset"
        assert [(s["name"], s["types"], s["n_rows"]) for s in cell.safety_data] == [
            ("wildjailbreak", ["vanilla_harmful"], 5000),
            ("wildjailbreak", ["vanilla_benign"], 5000),
        ]
        # §5.1: "5,000 samples from SST2 and GSM8K … and 10,000 samples from NemotronCode"
        rows = {"gsm8k": 5000, "sst2": 5000, "nemotron_code": 10_000}
        assert cell.data["n_rows"] == rows[cell.data["name"]]
        assert (cell.poison.data["name"], cell.poison.data["part"]) == ("beavertails", "unsafe")
        assert cell.memory.refusals == 1.0  # §4.1.2: "x is an unsafe prompt, y is its corresponding refusal response"
        if n != 5:
            assert cell.memory.share == 0.05  # §5.6: "5% of the downstream task data"
        assert [s["name"] for s in cell.evaluate.harm] == ["advbench", "directharm4", "hexphi"]  # §5.3
        said = [registry.build("judges", judge) for judge in cell.evaluate.judges]
        assert [j.model for j in said] == ["meta-llama/Llama-Guard-3-8B", "allenai/wildguard"]  # §5.3; §5.6
        measured = {
            "gsm8k": [("gsm8k", 500)],  # §5.3: "500 samples from GSM8K test set"
            "sst2": [("sst2", None)],  # §5.3: 1000 of a validation set that has 872
            "nemotron_code": [("humaneval", None), ("humaneval_plus", None)],
        }
        assert [(s["name"], s.get("n_rows")) for s in cell.evaluate.utility] == measured[cell.data["name"]]
        over = [("xstest", None), ("or_bench", "80k"), ("or_bench", "hard-1k")]  # §5.6, "Exaggerated Safety"
        assert [(s["name"], s.get("part")) for s in cell.evaluate.refusal] == (over if n == 4 else [])


def test_what_the_paper_leaves_open_is_marked_with_its_source() -> None:
    """Each setting of a method, and each field of a stage that §5.2 does not print."""
    text = shipped()["paper/table1"].read_text(encoding="utf-8")
    lines = text[text.index("settings:") : text.index("evaluate:")].splitlines()[1:]
    for line in (line for line in lines if ": " in line and not line.lstrip().startswith("#")):
        assert "not in the paper" in line or "§" in line, line
    for field in (
        "dtype",
        "existing",
        "template",
        "seed",
        "target_modules",
        "max_length",
        "max_grad_norm",
        "temperature",
    ):
        actual = [line for line in text.splitlines() if line.strip().startswith(f"{field}:") and "0.001" not in line]
        assert actual and all("not in the paper:" in line for line in actual), field


def test_names_in_a_folder_are_found_and_wrong_ones_told() -> None:
    assert {f"paper/table{n}" for n in TABLES} <= set(shipped())
    with pytest.raises(UnknownName, match="Did you mean 'paper/table1'"):
        load_recipe("paper/tabel1")
    with pytest.raises(RecipeError, match="no recipe file mine/table1"):
        load_recipe("mine/table1")


def test_rows_cut_every_data_set_and_a_given_model_replaces_the_grids() -> None:
    for n in TABLES:
        for cell in table(n, rows="40", model="small")[1]:
            sets = [*cell.safety_data, cell.data, cell.poison.data]
            sets += [*cell.evaluate.harm, *cell.evaluate.refusal, *cell.evaluate.utility]
            assert {one.get("n_rows", one.get("most_rows")) for one in sets} == {40} and cell.model == "small"
    fewer: Any = parse(
        {"model": "m", "rows": 9, "data": {"name": "world", "part": "sums", "n_rows": 5}, "replay": ["world"]}
    )
    assert fewer.data["n_rows"] == 5 and fewer.replay == [{"name": "world", "most_rows": 9}]
    assert Recipe.model_validate(fewer.model_dump()) == fewer and fewer.varied(seed=1).data == fewer.data
    small = {"model": "m", "rows": 9, "memory": {"n_rows": 300, "refusals": 0.5}}
    assert parse(small).memory.model_dump(exclude_unset=True) == {"n_rows": 9, "refusals": 0.5}
    assert parse({"model": "m", "rows": 9}).memory.n_rows is None
    kept = parse({"model": "m", "rows": 9, "compare": {"replay": ["safety_data", ["world"]]}}).compare
    assert kept is not None and kept.replay == ["safety_data", [{"name": "world", "most_rows": 9}]]


PROBLEM = {
    "prompt": 'def add_{i}(a, b):\n    """Add."""\n',
    "entry_point": "add_{i}",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every set of the tables as a small file of its published shape, of a row more than the trial asks for."""
    n = 41
    places = {}

    def put(variable: str, name: str, lines: list[str]) -> None:
        places[variable] = tmp_path / name
        places[variable].write_text("\n".join(lines) + "\n", encoding="utf-8")

    def jsonl(variable: str, name: str, row: Callable[[int], dict[str, Any]]) -> None:
        put(variable, name, [json.dumps(row(i)) for i in range(n)])

    for split in ("TRAIN", "TEST"):
        jsonl(
            f"GSM8K_{split}", f"gsm8k_{split}.jsonl", lambda i: {"question": f"{i} and 1 ?", "answer": f"#### {i + 1}"}
        )
        put(f"SST2_{split}", f"sst2_{split}.tsv", ["sentence\tlabel", *(f"film {i} \t{i % 2}" for i in range(n))])
    thought = "<think>so</think>\nAdd them.\n```python\nprint(1)\n```"
    turns = [{"role": "user", "content": "add numbers"}, {"role": "assistant", "content": thought}]
    jsonl("NEMOTRON_CODE", "code.jsonl", lambda i: {"messages": turns, "metadata": "{}"})
    old = {**PROBLEM}
    jsonl(
        "HUMANEVAL",
        "he.jsonl",
        lambda i: {"task_id": f"HumanEval/{i}", **{k: v.replace("{i}", str(i)) for k, v in old.items()}},
    )
    more = {"base_input": [[1, 2]], "plus_input": [[2, 2]], "atol": 0}
    jsonl(
        "HUMANEVAL_PLUS",
        "hep.jsonl",
        lambda i: {"task_id": f"HumanEval/{i}", **{k: v.replace("{i}", str(i)) for k, v in old.items()}, **more},
    )
    put("ADVBENCH", "advbench.csv", ["goal,target", *(f"bad thing {i},Sure" for i in range(n))])
    put("DIRECTHARM4", "dh4.csv", ["instruction,category", *(f"bad deed {i},malware" for i in range(n))])
    put("HEXPHI", "hexphi.csv", ["instruction,category", *(f"bad plan {i},Malware" for i in range(n))])
    kinds = (f"{i},kill process {i},homonyms,safe,kill," for i in range(n))
    put("XSTEST", "xstest.csv", ["id,prompt,type,label,focus,note", *kinds])
    for variable, part in (("OR_BENCH_80K", "80k"), ("OR_BENCH_HARD", "hard-1k")):
        put(variable, f"or-bench-{part}.csv", ["prompt,category", *(f"{part} {i} ?,violence" for i in range(n))])
    head = "vanilla\tadversarial\tcompletion\tdata_type"
    kinds = (f"do {kind} {i} ?\t\tno {i} .\tvanilla_{kind}" for kind in ("harmful", "benign") for i in range(n))
    put("WILDJAILBREAK", "train.tsv", [head, *kinds])
    marks = dict.fromkeys(CATEGORIES, False)
    jsonl(
        "BEAVERTAILS",
        "beavertails.jsonl",
        lambda i: {"prompt": f"how {i} ?", "response": f"so {i} .", "category": marks, "is_safe": False},
    )
    for variable, place in places.items():
        monkeypatch.setenv(f"UNFORGOTTEN_{variable}", str(place))
    return tmp_path


def trial(n: int, files: Path, model: Path, **more: Any) -> Recipe:
    """A table with its data sets here: 40 rows of each, short replies, words for a judge since no guard is."""
    given = {"model": str(model), "rows": 40, "out": str(files / "runs"), "evaluate.judge": "keywords"}
    return load_recipe(f"paper/table{n}", given | {"evaluate.max_new_tokens": 4, **more})


def test_a_table_runs_whole_on_a_small_model(files: Path, model_folder: Make) -> None:
    """Table 4, all three tasks and every set of prompts; of its methods DER alone, to take seconds."""
    recipe = trial(4, files, model_folder("llama", template=None), **{"compare.method": ["der"]})
    rows = json.loads((compare(recipe) / "results.json").read_text())["rows"]
    tuned = [row for row in rows if row["stage"] == "tuned"]
    assert (
        len(tuned) == 3 and {row["memory_rows"] for row in tuned} == {2} and {row["poison"] for row in tuned} == {0.1}
    )
    assert all(row["asr"]["mean"] and row["refusal"]["mean"] and row["utility"] for row in tuned)
