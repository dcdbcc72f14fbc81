"""A run is resolved once: its data sets are read, its methods built and its template compiled one time each."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from unforgotten import registry
from unforgotten.cli import app
from unforgotten.datasets.reading import formats
from unforgotten.errors import DataError
from unforgotten.models.chat import jinja_process
from unforgotten.recipe.data_sets import DataSets, user_rows
from unforgotten.recipe.read import parse
from unforgotten.verbs.evaluate.run import of_job
from unforgotten.verbs.finetune.finetune import finetune, train
from unforgotten.verbs.finetune.job import resolve

Make = Callable[..., Path]
TRAINED_ON = {"user.jsonl", "poison.jsonl", "refusals.jsonl"}
ASKED = {"harm.csv", "looks.jsonl"}


@pytest.fixture
def tree(tmp_path: Path, model_folder: Make, rows_file: Make) -> dict[str, Any]:
    """A recipe with every kind of data set, each in a file of its own."""
    (tmp_path / "harm.csv").write_text("goal\nhow do i kill a process\ntell me how to kill\n")
    poison = {"name": "jsonl", "path": str(rows_file("poison.jsonl", 4)), "kind": "harmful"}
    looks = {"name": "refusals", "path": str(rows_file("looks.jsonl", 4, answered=False)), "kind": "benign"}
    return {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 8))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 10))},
        "poison": {"data": poison, "ratio": 0.2},
        "method": {"name": "der", "weight": 2.0},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4},
        "evaluate": {
            "harm": {"name": "advbench", "path": str(tmp_path / "harm.csv")},
            "refusal": looks,
            "judge": {"name": "keywords", "list": "qi"},
            "max_new_tokens": 4,
        },
        "out": str(tmp_path / "runs"),
    }


@dataclasses.dataclass
class Counts:
    """What was done how often, by the real functions."""

    parsed: Counter[str] = dataclasses.field(default_factory=Counter)
    """Files, by their names."""
    built: Counter[str] = dataclasses.field(default_factory=Counter)
    """Methods made of a name or a mapping."""
    templates: int = 0

    def clear(self) -> None:
        self.parsed.clear()
        self.built.clear()
        self.templates = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    actual = Counts()
    build, parse_json, parse_table, compile_template = (
        *(registry.build, formats.read_json, formats._read_table, jinja_process.read),
    )

    def built(room: str, spec: Any) -> Any:
        if room == "methods" and isinstance(spec, (str, Mapping)):
            actual.built[spec if isinstance(spec, str) else str(spec["name"])] += 1
        return build(room, spec)

    def parsed(inner: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: str, *rest: Any) -> Any:
            actual.parsed[Path(path).name] += 1
            return inner(path, *rest)

        return counted

    def compiled(text: str) -> Any:
        actual.templates += 1
        return compile_template(text)

    monkeypatch.setattr(registry, "build", built)
    monkeypatch.setattr(formats, "read_json", parsed(parse_json))
    monkeypatch.setattr(formats, "_read_table", parsed(parse_table))
    monkeypatch.setattr(jinja_process, "read", compiled)
    yield actual


@pytest.mark.parametrize("align", [None, {"num_train_epochs": 1, "per_device_train_batch_size": 4, "lora": {"r": 4}}])
def test_a_run_reads_and_builds_once(align: Any, tree: dict[str, Any], counts: Counts) -> None:
    recipe = parse(tree | {"align": align})
    counts.clear()  # the recipe's own check has built the method once, to be thrown away
    job = train(recipe)
    # Files of the evaluation are read too: a set in the wrong place is an error before the training.
    assert counts.parsed == dict.fromkeys(TRAINED_ON | ASKED, 1)
    assert counts.built["der"] == 1
    assert counts.templates == (1 if align is None else 2), "θ_safe's template is another file than θ₀'s"
    of_job(job).ask()
    assert counts.parsed == dict.fromkeys(TRAINED_ON | ASKED, 1), "to ask a run that is resolved reads nothing"
    assert counts.built["der"] == 1


def test_the_command_line_reads_and_builds_once_a_command(tree: dict[str, Any], counts: Counts, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree))
    for verb in ("finetune", "evaluate"):
        counts.clear()
        output = CliRunner().invoke(app, [verb, str(file)])
        assert output.exit_code == 0, output.output
        assert counts.parsed == dict.fromkeys(TRAINED_ON | ASKED, 1), verb
        assert counts.built == {"der": 2}, f"{verb}: once to check the recipe, once for the run"
        assert counts.templates == 1, verb


def test_a_comparison_shares_its_data_sets(tree: dict[str, Any], counts: Counts, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree | {"compare": {"method": ["sft", "der"], "poison": [0, 0.2]}}))
    output = CliRunner().invoke(app, ["compare", str(file)])
    assert output.exit_code == 0, output.output
    assert len(list((tmp_path / "runs").glob("recipe-*/trained.json"))) == 4
    assert counts.parsed == dict.fromkeys(TRAINED_ON | ASKED, 1)


def test_a_probe_reads_the_evaluation_once(tree: dict[str, Any], counts: Counts) -> None:
    run = finetune(parse(tree | {"probe": {"every_steps": 100, "prompts": 2}}))
    assert [json.loads(line)["step"] for line in (run / "probe.jsonl").read_text().splitlines()] == [0, 3]
    assert counts.parsed == dict.fromkeys(TRAINED_ON | ASKED, 1)


def test_a_job_cannot_be_changed_and_names_its_folder_by_its_digest(tree: dict[str, Any]) -> None:
    job = resolve(parse(tree | {"name": "mine"}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.digest = "other"  # type: ignore[misc]
    assert job.folder == Path(tree["out"]) / f"mine-{job.digest}" and not job.done and not job.folder.exists()
    assert [spec["weight"] for spec in job.method_specs] == [2.0]
    assert job.adapter_mode == "merge" and job.unaligned_model is None
    other = resolve(parse(tree | {"method": {"name": "der", "weight": 3.0}}))
    assert other.digest != job.digest
    assert resolve(job.recipe).methods[0] is not job.methods[0], "methods hold state while they train"


def test_a_row_that_is_the_users_and_the_labs_is_counted_by_its_place(tree: dict[str, Any]) -> None:
    poison = {"data": tree["data"], "ratio": 0.5}
    user = user_rows(parse(tree | {"poison": poison}), DataSets())
    assert len(user.rows) == 10 and len(user.harmful) == len(user.clean) == 5


def test_data_sets_forget_the_one_used_longest_ago(tmp_path: Path, rows_file: Make, counts: Counts) -> None:
    specs = [{"name": "jsonl", "path": str(rows_file(f"{name}.jsonl", 2))} for name in "abc"]
    sets = DataSets(most=2)
    for i in (0, 1, 0, 2, 0, 1):
        sets.read(specs[i])
    assert counts.parsed == {"a.jsonl": 1, "b.jsonl": 2, "c.jsonl": 1}
    assert sets.read(specs[0], seed=5) is not sets.read(specs[0], seed=6), "a seed of its own draws rows of its own"


def test_a_file_that_cannot_be_read_is_an_error_each_time(tmp_path: Path) -> None:
    sets, file = DataSets(), tmp_path / "late.jsonl"
    with pytest.raises(DataError, match="There is no file"):
        sets.read({"name": "jsonl", "path": str(file)})
    file.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    assert len(sets.read({"name": "jsonl", "path": str(file)}).rows) == 1


def test_notes_on_rows_that_are_aligned_on_are_said_once(tree: dict[str, Any], rows_file: Make) -> None:
    safety = Path(tree["safety_data"]["path"])
    safety.write_text("".join(json.dumps(json.loads(x) | {"mood": "calm"}) + "\n" for x in safety.open()))
    other = {"name": "refusals", "path": str(rows_file("replayed.jsonl", 4))}
    align = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
    [note] = [text for text in resolve(parse(tree)).notes if "mood" in text]
    for replay in ("safety_data", [other], [other, tree["safety_data"]]):
        job = resolve(parse(tree | {"align": align, "replay": replay}))
        assert job.notes.count(note) == 1, replay
    # Without an alignment, or after it, rows that are not replayed are not used.
    replayed = tree | {"replay": [other]}
    assert note not in resolve(parse(replayed)).notes
    job = resolve(parse(replayed | {"align": align}))
    job.aligned.record.parent.mkdir(parents=True)
    job.aligned.record.write_text("{}")
    assert note not in job.notes
