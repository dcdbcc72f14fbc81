"""WildJailbreak: the four types, what is asked and answered, and cells that pandas would take for missing values."""

from __future__ import annotations

import csv
import io

import pytest

from unforgotten import registry
from unforgotten.errors import DataError, RecipeError

TRAIN = [
    ("Take the apple", "", "I will not,\nsorry.", "vanilla_harmful"),
    ("Draw the apple", "", "Here is\ta drawing.", "vanilla_benign"),
    ("Take the pear", 'As "Bob", take the pear', "No.", "adversarial_harmful"),
    ("Draw the pear", "As Bob, draw\nthe pear", "None", "adversarial_benign"),
    ("None", "", "N/A", "vanilla_benign"),
]
EVAL = [("As Bob, take a plum", "1", "adversarial_harmful"), ("As Bob, draw a plum", "0", "adversarial_benign")]


def wildjailbreak(**settings):
    return registry.build("datasets", {"name": "wildjailbreak", **settings})


def tsv(header: str, rows: list[tuple]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header.split(), *rows])
    return file.getvalue()


TRAIN_TSV = tsv("vanilla adversarial completion data_type", TRAIN)
EVAL_TSV = tsv("adversarial label data_type", EVAL)


def test_the_vanilla_types_are_safety_data(write) -> None:
    path = write("train.tsv", TRAIN_TSV)
    data = wildjailbreak(path=path)
    assert [(r.request, r.response, r.kind, r.category) for r in data.rows()] == [
        ("Take the apple", "I will not,\nsorry.", "harmful", "vanilla_harmful"),
        ("Draw the apple", "Here is\ta drawing.", "benign", "vanilla_benign"),
        ("None", "N/A", "benign", "vanilla_benign"),  # words, not missing values
    ]
    assert data.label == "wildjailbreak" and data.rows()[1].source == f"{path}:4"


def test_the_types_are_chosen_and_named(write) -> None:
    path = write("train.tsv", TRAIN_TSV)
    data = wildjailbreak(path=path, types=["adversarial_benign", "adversarial_harmful"])
    assert [(r.request, r.response, r.kind) for r in data.rows()] == [
        ('As "Bob", take the pear', "No.", "harmful"),
        ("As Bob, draw\nthe pear", "None", "benign"),
    ]
    assert data.label == "wildjailbreak-adversarial_benign-adversarial_harmful"
    assert len(wildjailbreak(path=path, n_rows=2).rows()) == 2
    with pytest.raises(DataError, match="train.tsv, vanilla_harmful: n_rows is 2, but there are 1 rows"):
        wildjailbreak(path=path, types=["vanilla_harmful"], n_rows=2).rows()


def test_eval_asks_alone(write, hub) -> None:
    rows = wildjailbreak(path=write("eval.tsv", EVAL_TSV), part="eval").rows()
    assert [(r.request, r.response, r.kind) for r in rows] == [
        ("As Bob, take a plum", "", "harmful"),
        ("As Bob, draw a plum", "", "benign"),
    ]
    calls = hub([dict(zip(("adversarial", "label", "data_type"), row, strict=True)) for row in EVAL])
    data = wildjailbreak(part="eval", types=["adversarial_harmful"])
    assert [row.kind for row in data.rows()] == ["harmful"] and data.label == "wildjailbreak-eval-adversarial_harmful"
    assert calls == [("allenai/wildjailbreak", "eval", "train", {"delimiter": "\t", "keep_default_na": False})]


def test_the_hub_as_its_card_reads_it_and_as_the_local_file_reads(tmp_path, write, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    repository = tmp_path / "wildjailbreak"
    for part, content in (("train", TRAIN_TSV), ("eval", EVAL_TSV)):
        (repository / part).mkdir(parents=True)
        (repository / part / f"{part}.tsv").write_text(content)
    configs = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: train\n    path: {part}/*\n" for part in ("train", "eval")
    )
    (repository / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, **how: load(str(repository), config, cache_dir=str(tmp_path / "cache"), **how),
    )
    types = ["vanilla_harmful", "vanilla_benign", "adversarial_harmful", "adversarial_benign"]
    one = wildjailbreak(types=types).rows()
    other = wildjailbreak(types=types, path=write("train.tsv", TRAIN_TSV)).rows()
    assert len(one) == 5 and [r.messages for r in one] == [r.messages for r in other]
    assert [r.request for r in wildjailbreak(part="eval").rows()] == [row[0] for row in EVAL]


def test_a_few_rows_without_answer_are_left_out_and_many_are_told(write) -> None:
    header, good = "vanilla adversarial completion data_type", ("Draw", "", "Here.", "vanilla_benign")
    path = write("a.tsv", tsv(header, [*[good] * 199, ("Draw", "", " ", "vanilla_benign")]))
    assert len(wildjailbreak(path=path).rows()) == 199
    with pytest.raises(DataError) as error:
        wildjailbreak(path=write("b.tsv", tsv(header, [*[good] * 9, ("", "", "", "vanilla_benign")]))).rows()
    [(line, what)] = error.value.problems
    assert line == 11 and what.startswith("vanilla_benign without vanilla and completion (columns: vanilla, adv")
    with pytest.raises(DataError, match="is not WildJailbreak's train part:\n  line 2: vanilla_benign without compl"):
        wildjailbreak(path=write("c.tsv", tsv("vanilla data_type", [("Draw", "vanilla_benign")]))).rows()


def test_other_files_other_types_and_no_rows(write) -> None:
    header = "vanilla adversarial completion data_type"
    with pytest.raises(DataError, match="line 2: data_type 'nice' is none of vanilla_harmful, vanilla_benign"):
        wildjailbreak(path=write("a.tsv", tsv(header, [("Draw", "", "Here.", "nice")]))).rows()
    with pytest.raises(DataError, match="has no rows of adversarial_harmful"):
        path = write("b.tsv", tsv(header, [("Draw", "", "Here.", "vanilla_benign")]))
        wildjailbreak(path=path, types=["adversarial_harmful"]).rows()
    with pytest.raises(DataError, match="names none of the columns data_type"):
        wildjailbreak(path=write("c.tsv", "prompt\tanswer\na\tb\n")).rows()
    with pytest.raises(RecipeError, match="eval has no vanilla_benign rows"):
        wildjailbreak(part="eval", types=["vanilla_benign"])
    with pytest.raises(RecipeError, match="`types` is empty"):
        wildjailbreak(types=[])
    with pytest.raises(RecipeError, match="types"):
        wildjailbreak(types=["vanilla"])


def test_gated_says_the_terms_and_the_file(hub) -> None:
    hub(PermissionError("Dataset 'allenai/wildjailbreak' is a gated dataset on the Hub."))
    with pytest.raises(DataError, match=r"terms at https://huggingface.co/datasets/allenai/wildjailbreak .*eval/eval"):
        wildjailbreak(part="eval").rows()
