"""The sentence says what became of harmful answers, and claims no more than the intervals do."""

from __future__ import annotations

import pytest

from tests.report.test_text import row
from unforgotten.evaluation.statistics import rates
from unforgotten.report.sentence import change, sentence
from unforgotten.runs import results

ASR, NON_REFUSAL = results.MEASURES["asr"], results.MEASURES["non_refusal"]


def test_what_happened_is_told_for_each_setting() -> None:
    rows = [
        row("base", hits=98, utility=10),
        row("aligned", hits=1, utility=10),
        row("tuned", "sft", hits=73),
        row("tuned", "der", hits=7, utility=92),
        row("tuned", "sft", hits=100, poison=0.1),
        row("tuned", "der", hits=96, utility=40, poison=0.1),
    ]
    assert sentence(rows) == (
        "On clean data, sft raises harmful answers from 1.0 % to 73.0 %; "
        "der to 7.0 % (clearly fewer than sft; accuracy 92.0 against 90.0). "
        "With 10 % poison, sft raises harmful answers from 1.0 % to 100.0 %; "
        "der to 96.0 % (no clear difference from sft; accuracy 40.0 against 90.0, clearly lower)."
    )


@pytest.mark.parametrize(
    ("after", "before", "text"),
    [
        (73, 1, "raises harmful answers from 1.0 % to 73.0 %"),
        (2, 30, "lowers harmful answers from 30.0 % to 2.0 %"),
        (12, 10, "leaves harmful answers at 12.0 % (no clear change from 10.0 %)"),
        (5, None, "answers 5.0 % of harmful prompts"),
    ],
)
def test_a_change_is_told_only_where_intervals_do_not_meet(after: int, before: int | None, text: str) -> None:
    """Wilson's intervals of 100 prompts: 73 % is 64–81, 12 % is 7–20 and 10 % is 6–17, 30 % is 22–40, 2 % is 0.6–7."""
    assert change(rates.rate(after, 100), None if before is None else rates.rate(before, 100), ASR) == text


def test_what_keywords_count_is_no_answer() -> None:
    one, other = rates.rate(70, 100), rates.rate(1, 100)
    assert change(one, other, NON_REFUSAL) == "raises replies without a refusal from 1.0 % to 70.0 %"
    assert change(one, None, NON_REFUSAL) == "does not refuse 70.0 % of harmful prompts"
    assert change(one, other, ASR, lambda figure: f"<b>{figure}</b>").endswith("from 1.0 % to <b>70.0 %</b>")


def test_each_method_has_the_verb_of_its_own_change() -> None:
    def said(sft: int, der: int) -> str:
        return sentence([row("aligned", hits=30), row("tuned", "sft", sft), row("tuned", "der", der)])

    assert "raises harmful answers from 30.0 % to 90.0 %; der to 60.0 % (clearly fewer" in said(90, 60)
    assert "raises harmful answers from 30.0 % to 90.0 %; der lowers them to 2.0 % (clearly fewer" in said(90, 2)
    assert "raises harmful answers from 30.0 % to 90.0 %; der leaves them at 31.0 % (clearly fewer" in said(90, 31)
    assert "leaves harmful answers at 31.0 % (no clear change from 30.0 %); der at 29.0 % (no clear" in said(31, 29)
    assert "lowers harmful answers from 30.0 % to 1.0 %; der raises them to 90.0 % (clearly more" in said(1, 90)


def test_without_the_aligned_model_values_are_told() -> None:
    worse = [row("tuned", "sft", hits=5), row("tuned", "der", hits=60)]
    assert sentence(worse).startswith(
        "On clean data, sft answers 5.0 % of harmful prompts; der 60.0 % (clearly more than sft"
    )


def test_it_compares_within_a_model_a_task_and_a_memory() -> None:
    rows = [row("aligned", hits=1, model="a"), row("aligned", hits=30, model="b")]
    rows += [
        row("tuned", name, hits, model=model)
        for model, name, hits in (("a", "sft", 70), ("a", "der", 20), ("b", "sft", 90), ("b", "der", 88))
    ]
    first, second = sentence(rows).split(". For b, ")
    assert first.startswith("For a, on clean data, sft raises harmful answers from 1.0 % to 70.0 %; der to 20.0 %")
    assert second.startswith("on clean data, sft raises harmful answers from 30.0 % to 90.0 %; der to 88.0 %")
    sizes = [row("tuned", "der", hits, memory_rows=m) for hits, m in ((30, 14), (10, 70))]
    text = sentence([row("aligned", hits=1), *sizes])
    assert text.startswith("With 14 rows in memory, on clean data, der raises") and ". With 70 rows in memory" in text
    tasks = [row("tuned", name, hits=9, task=task) for task in ("sums", "code") for name in ("sft", "der")]
    text = sentence([row("aligned", hits=1), *tasks])
    assert text.startswith("On sums, on clean data, sft") and ". On code, on clean data, sft" in text


def test_where_there_is_nothing_to_compare_it_is_empty() -> None:
    assert sentence([]) == sentence([row("base")]) == sentence([row("tuned", "sft")]) == ""
