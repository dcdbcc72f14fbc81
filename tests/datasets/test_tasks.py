"""The everyday tasks are as many as they say, and none of them is a prompt of the task that is measured."""

from __future__ import annotations

from collections import Counter

from unforgotten import registry
from unforgotten.datasets.sst2 import INSTRUCTION
from unforgotten.evaluation.contamination import normalised


def test_the_rows() -> None:
    dataset = registry.build("datasets", "tasks")
    rows = dataset.rows()
    assert len(rows) == len({normalised(row.request) for row in rows}) == 390
    assert all(row.kind == "benign" and not row.response for row in rows)
    counts = Counter(row.category for row in rows)
    assert len(counts) == 11 and min(counts.values()) >= 13
    assert dataset.rows_kind() == "benign"


def test_each_is_an_instruction_and_a_text_apart() -> None:
    parts = [row.request.split("\n\n") for row in registry.build("datasets", "tasks").rows()]
    assert all(len(part) == 2 and all(part) for part in parts)
    instructions, texts = ({part[i] for part in parts} for i in (0, 1))
    assert len(instructions) == 30 and len(texts) == 40


def test_no_instruction_is_that_of_the_measured_task() -> None:
    """They share no run of five words with SST-2's instruction."""

    def runs(text: str) -> set[str]:
        words = normalised(text).split()
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}

    task = runs(INSTRUCTION)
    shared = {run for row in registry.build("datasets", "tasks").rows() for run in runs(row.request) & task}
    assert not shared
