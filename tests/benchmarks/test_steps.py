"""Every row of the step benchmark runs: on a tiny shape, for a few steps. Its figures are of no worth here."""

from dataclasses import replace

import pytest

from benchmarks import steps
from benchmarks.shapes import Shape

TINY = Shape("tiny Llama", 16, 1, 64, 32, 2, 2, 8, batch=2, tokens=12, answer_tokens=6, user_rows=4, safety_rows=12)


def name_of(row: steps.Row) -> str:
    return row.method["name"] if isinstance(row.method, dict) else str(row.method)


@pytest.mark.parametrize("row", steps.ROWS, ids=name_of)
def test_a_row_is_a_race_of_two_trainings(row: steps.Row) -> None:
    figure = steps.step_over_sft(replace(row, cpu_shape=None), TINY, "cpu", pairs=1)
    assert figure.pairs == 1 and figure.seconds is not None and min(figure.seconds) > 0
    assert figure.reach == row.reach and figure.name.endswith("[tiny Llama]")


def test_what_row_weights_does_once_is_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SCORINGS", 1)
    figure = steps.scoring(TINY, "cpu")
    assert figure.seconds is not None and min(figure.seconds) > 0 and figure.reach is None
