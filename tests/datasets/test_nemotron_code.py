"""Nemotron code: questions put back from their sets, reasoning kept or dropped, long answers left out."""

from __future__ import annotations

import json

import pytest

from unforgotten import registry
from unforgotten.errors import DataError, RecipeError

THOUGHT = "<think>\nAdd them.\n</think>\n\nWe add both numbers.\n\n```python\nprint(1 + 2)\n```"


def nemotron_code(**settings):
    return registry.build("datasets", {"name": "nemotron_code", **settings})


def row(dataset: str = "taco", split: str = "train", index: object = 1, question: str = "-", answer: str = THOUGHT):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    metadata = {"dataset": dataset, "split": split, "index": index, "source": "codeforces"}
    return {"messages": turns, "metadata": json.dumps(metadata), "reasoning": "on"}


def lines(*rows: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


CODEFORCES = {
    "description": "Add two numbers.",
    "input_format": "Two numbers.",
    "output_format": "Their sum.",
    "examples": [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}],
    "note": "They are small.",
}
REBUILT = (
    "Add two numbers.\n\nInput\n\nTwo numbers.\n\nOutput\n\nTheir sum.\n\nExamples\n\nInput\n\n1 2\n\nOutput\n\n3"
    "\n\nInput\n\n2 2\n\nOutput\n\n4\n\nNote\n\nThey are small."
)


@pytest.fixture
def sources(tmp_path, parquet):
    """The four sets as they lie in their repositories, in folders; TACO's shards are two."""
    parquet("taco/ALL/train-00000-of-00002.parquet", [{"question": "taco 0", "solutions": ""}] * 3)
    parquet("taco/ALL/train-00001-of-00002.parquet", [{"question": "taco 3", "solutions": ""}])
    parquet("code_contests/data/valid-00000-of-00001-5e67.parquet", [{"description": "contest 0", "name": "a"}])
    parquet("codeforces/data/test-00000-of-00001.parquet", [{**CODEFORCES, "id": "1/A"}, {"description": None}])
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps/test.jsonl").write_text(lines({"question": "apps 0"}, {"question": "apps 1"}))
    return {name: str(tmp_path / name) for name in ("taco", "apps", "code_contests", "codeforces")}


def test_the_questions_of_four_sets_are_put_back(write, sources) -> None:
    path = write(
        "code.jsonl",
        lines(
            row("taco", "train", 3),
            row("open-r1/codeforces", "test", "0"),
            row("apps", "test", 1),
            row("taco", "train", 0),
            row("code_contests", "valid", 0),
            row(question="Print one."),
        ),
    )
    data = nemotron_code(path=path, **sources)
    rows = data.rows()
    assert [(r.request, r.category) for r in rows] == [
        ("taco 3", "taco"),  # the first row of the second shard
        (REBUILT, "open-r1/codeforces"),
        ("apps 1", "apps"),
        ("taco 0", "taco"),
        ("contest 0", "code_contests"),
        ("Print one.", ""),  # a question that is there already stays
    ]
    assert {r.response for r in rows} == {"We add both numbers.\n\n```python\nprint(1 + 2)\n```"}
    assert {r.kind for r in rows} == {"task"} and rows[1].source == f"{path}:2" and data.label == "nemotron_code"


def test_a_question_of_few_parts_is_as_nvidia_makes_it(write, tmp_path) -> None:
    (tmp_path / "cf").mkdir()
    bare = {**CODEFORCES, "input_format": None, "output_format": "", "examples": None, "note": None}
    (tmp_path / "cf/train.jsonl").write_text(lines(bare, {**bare, "examples": [{"output": "3"}]}))
    path = write("code.jsonl", lines(*(row("open-r1/codeforces", "train", i) for i in (0, 1))))
    assert [r.request for r in nemotron_code(path=path, codeforces=str(tmp_path / "cf")).rows()] == [
        "Add two numbers.",
        "Add two numbers.\n\nExamples\n\nOutput\n\n3",
    ]


def test_reasoning_is_dropped_or_kept_and_long_answers_left_out(write) -> None:
    answers = [THOUGHT, "<think>\nand so on", "No thought, a program.", "<think>x</think>  ", "a" * 500]
    path = write("code.jsonl", lines(*(row(question="Q", answer=answer) for answer in answers)))
    dropped = [r.response for r in nemotron_code(path=path).rows()]
    assert dropped == [THOUGHT.partition("</think>\n\n")[2], "No thought, a program.", "a" * 500]
    assert [r.response for r in nemotron_code(path=path, reasoning="keep").rows()] == answers
    assert [r.response for r in nemotron_code(path=path, max_answer_chars=100).rows()] == dropped[:2]
    with pytest.raises(DataError, match="none of the 5 rows read has an answer that fits max_answer_chars"):
        nemotron_code(path=path, max_answer_chars=3).rows()
    with pytest.raises(DataError, match=r"of the 5 rows read \(first_rows\), those that fit: n_rows is 4, but there"):
        nemotron_code(path=path, n_rows=4).rows()
    with pytest.raises(RecipeError, match="reasoning"):
        nemotron_code(reasoning="shorten")


def test_only_the_questions_of_the_drawn_rows_are_looked_up(write, tmp_path) -> None:
    (tmp_path / "taco").mkdir()
    (tmp_path / "taco/train.jsonl").write_text(lines(*({"question": f"taco {i}"} for i in range(20))))
    path = write("code.jsonl", lines(*(row(index=i) for i in range(20)), row("apps", "train", 0)))
    # Of the 21 rows none that is drawn needs APPS, which is not there.
    data = nemotron_code(path=path, n_rows=5, seed=3, taco=str(tmp_path / "taco"))
    asked = [r.request for r in data.rows()]
    assert asked == [f"taco {i}" for i in sorted(int(a.split()[1]) for a in asked)] and data.rows() == data.rows()


def test_the_first_rows_are_streamed_from_the_hub(hub, sources) -> None:
    taken = []

    def rows(**options):
        for i in range(1000):
            taken.append(i)
            yield row(question=f"Question {i}")

    calls = hub(rows)
    actual = nemotron_code(first_rows=40, n_rows=3).rows()
    assert calls == [("nvidia/Nemotron-Post-Training-Dataset-v1", None, "code", {"streaming": True})]
    assert len(taken) == 40 and len(actual) == 3
    assert actual[0].source.startswith("nvidia/Nemotron-Post-Training-Dataset-v1/code:")


@pytest.mark.parametrize(
    ("dataset", "split", "builder", "name", "files", "columns"),
    [
        ("taco", "train", "parquet", "BAAI/TACO", "ALL/train-*.parquet", ["question"]),
        ("apps", "test", "json", "codeparrot/apps", "test.jsonl", None),
        ("code_contests", "valid", "parquet", "deepmind/code_contests", "data/valid-*.parquet", ["description"]),
    ],
)
def test_sets_are_streamed_file_by_file(write, hub, dataset, split, builder, name, files, columns) -> None:
    taken = []

    def rows(**options):
        for i in range(1000):
            taken.append(i)
            yield {(columns or ["question"])[0]: f"Question {i}"}

    calls = hub(rows)
    [actual] = nemotron_code(path=write("code.jsonl", lines(row(dataset, split, 7)))).rows()
    options = {"data_files": {split: f"hf://datasets/{name}/{files}"}, "streaming": True}
    assert calls == [(builder, None, split, options | ({"columns": columns} if columns else {}))]
    assert actual.request == "Question 7" and len(taken) == 8  # no further than is needed


def test_datasets_itself_reads_the_files_so(write, sources, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    load, at = (
        datasets.load_dataset,
        {"BAAI/TACO": "taco", "codeparrot/apps": "apps", "open-r1/codeforces": "codeforces"},
    )

    def load_dataset(builder, config, *, data_files, **how):
        [(split, url)] = data_files.items()
        for name, setting in at.items():
            url = url.replace(f"hf://datasets/{name}", sources[setting])
        return load(builder, config, data_files={split: url}, **how)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    path = write(
        "code.jsonl", lines(row(index=3), row("apps", "test", 1), row("open-r1/codeforces", "test", 0), row(index=2))
    )
    assert [r.request for r in nemotron_code(path=path).rows()] == ["taco 3", "apps 1", REBUILT, "taco 0"]


def test_a_set_that_is_missing_says_what_to_put_where(write, sources, hub, tmp_path) -> None:
    path = write("code.jsonl", lines(row("taco", "test", 0)))
    with pytest.raises(DataError) as error:
        nemotron_code(path=path, **sources).rows()
    message = str(error.value)
    assert (
        f"questions are in taco, split test, but {sources['taco']} has no ALL/test-*.parquet or test-*.parquet"
        in message
    )
    assert "Put ALL/test-*.parquet of its repository there, or leave `taco` to the Hub." in message
    with pytest.raises(DataError, match="There is no folder"):
        nemotron_code(path=path, taco=str(tmp_path / "nowhere")).rows()
    hub(ConnectionError("Couldn't reach the Hub."))
    with pytest.raises(DataError) as error:
        nemotron_code(path=path).rows()
    assert "BAAI/TACO (split test) cannot be read from the Hub" in str(error.value)
    assert "Or give `path:` (here `taco:`) a folder with its ALL/test-*.parquet." in str(error.value)


def test_questions_that_are_not_in_their_set_are_named(write, sources) -> None:
    path = write(
        "code.jsonl", lines(row("taco", "train", 3), row("taco", "train", 9), row("open-r1/codeforces", "test", 1))
    )
    with pytest.raises(DataError, match="questions of 2 rows are missing") as error:
        nemotron_code(path=path, **sources).rows()
    assert error.value.problems == [
        (2, f"its question is row 9 of taco, train, and {sources['taco']} has none"),
        (3, f"its question is row 1 of open-r1/codeforces, test, and {sources['codeforces']} has none"),
    ]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "a"}, "`messages` must be a user turn and an assistant turn"),
        ({**row(), "messages": row()["messages"][:1]}, "`messages` must be a user turn and an assistant turn"),
        ("row", "`messages` must be a user turn and an assistant turn"),
        (row(question=" "), "a turn is empty"),
        (row(answer=""), "a turn is empty"),
        ({**row(), "metadata": None}, "the question is `-`, and `metadata` has no dataset, split and index"),
        ({**row(), "metadata": "{"}, "the question is `-`, and `metadata` has no dataset, split and index"),
        (row(index="first"), "the question is `-`, and `metadata` has no dataset, split and index"),
        (
            row("leetcode"),
            "the question is in 'leetcode', which is none of taco, apps, code_contests, open-r1/codeforces",
        ),
        (row(index=-1), "`metadata` names row -1 of split 'train'"),
        (row(split="../train"), "`metadata` names row 1 of split '../train'"),
    ],
)
def test_rows_that_are_not_as_published_are_named(write, record, what) -> None:
    with pytest.raises(DataError) as error:
        nemotron_code(path=write("code.jsonl", lines(row(question="Q"), record))).rows()
    assert error.value.problems == [(2, what)]


def test_a_shard_of_the_repository(parquet, sources) -> None:
    path = parquet("code-00000-of-00001.parquet", [row(index=3), row("apps", "test", 0)])
    assert [r.request for r in nemotron_code(path=path, **sources).rows()] == ["taco 3", "apps 0"]
