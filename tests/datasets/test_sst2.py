"""SST-2: the published counts, Lisa's form, and its two scores."""

from __future__ import annotations

from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.errors import DataError

INSTRUCTION = "Analyze the sentiment of the input, and respond only positive or negative"


def sst2(**settings):
    return registry.build("datasets", {"name": "sst2", **settings})


def test_the_published_rows(real) -> None:
    train, dev = sst2(path=real("sst2/train.tsv.gz")).rows(), sst2(path=real("sst2/dev.tsv")).rows()
    assert Counter(row.answer for row in train) == {"positive": 37569, "negative": 29780}  # 67,349
    assert Counter(row.answer for row in dev) == {"positive": 444, "negative": 428}  # 872
    assert dev[0].messages == (
        {
            "role": "user",
            "content": f"{INSTRUCTION}\n\nit 's a charming and often affecting journey .",
            "instruction": INSTRUCTION,
            "input": "it 's a charming and often affecting journey .",
        },
        {"role": "assistant", "content": "positive"},
    )
    assert all(row.messages[0]["input"] == row.messages[0]["input"].strip() for row in train)


def test_every_label_of_the_dev_set_scores_itself_alone(real) -> None:
    data = sst2(path=real("sst2/dev.tsv"))
    rows = data.rows()
    for make, exact, first_word in [
        (lambda label: label, 872, 872),
        (lambda label: f"{label.capitalize()}\n", 872, 872),
        (lambda label: f"{label}.", 0, 872),
        (lambda label: f"It is {label}", 0, 0),
        (lambda label: {"positive": "negative", "negative": "positive"}[label], 0, 0),
    ]:
        scores = [data.score(row, make(row.answer)) for row in rows]
        assert [sum(score[metric] for score in scores) for metric in data.metrics] == [exact, first_word]


@pytest.mark.parametrize(
    ("reply", "exact", "first_word"),
    [
        ("positive", True, True),
        (" Positive\n", True, True),
        ("POSITIVE", False, True),
        ("positive.", False, True),
        ("**Positive**", False, True),
        ("positive\nThe film is warm.", False, True),
        ("The sentiment is positive", False, False),
        ("positively dreadful", False, False),
        ("negative", False, False),
        ("", False, False),
        ("1", False, False),
    ],
)
def test_exact_is_lisas_rule_and_first_word_forgives_what_follows(reply, exact, first_word) -> None:
    assert sst2().score(ask("?", answer="positive"), reply) == {"exact": exact, "first_word": first_word}


def test_only_the_labels_themselves_are_answers_to_this_task() -> None:
    data = sst2()
    for reply in ("positive", "Negative.", " positive positive positive", "negative\nnegative\n"):
        assert data.is_answer(reply)
    for reply in ("", "Negative thoughts can be used to …", "Sure, positive", "positively", "I cannot help."):
        assert not data.is_answer(reply)


def test_the_hub_has_numbers_for_labels(hub) -> None:
    calls = hub([{"idx": 0, "sentence": "hide new secretions ", "label": 0}])
    [row] = sst2(split="validation").rows()
    assert calls == [("stanfordnlp/sst2", None, "validation")]
    assert (row.answer, row.source, row.messages[0]["input"]) == (
        "negative",
        "stanfordnlp/sst2/validation:0",
        "hide new secretions",
    )


def test_quotes_windows_lines_and_hidden_labels(write) -> None:
    [row] = sst2(path=write("a.tsv", 'sentence\tlabel\r\n" so - so " it \'s not \t0\r\n')).rows()
    assert row.messages[0]["input"] == '" so - so " it \'s not'
    with pytest.raises(DataError) as error:
        sst2(path=write("b.tsv", "sentence\tlabel\nfine \t1\nfair \t-1\nfoul \t2\n")).rows()
    assert error.value.problems == [
        (3, "label '-1' is neither 0 nor 1 (hidden, as in the test split: use validation)"),
        (4, "label '2' is neither 0 nor 1"),
    ]
