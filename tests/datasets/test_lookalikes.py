"""The look-alikes are as many, as varied and as far from the tests' prompts as they promise."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.datasets.reading.similar import alike, normalised
from unforgotten.errors import DataError
from unforgotten.evaluation.contamination import contacts

NEAR = 0.4
"""Stricter than the 0.8 at which an evaluation counts a prompt as trained on."""


def lookalikes(**settings):
    return registry.build("datasets", {"name": "lookalikes", **settings})


def prompts(part: str) -> list[str]:
    return [row.request for row in lookalikes(part=part).rows()]


def runs(text: str, length: int = 4) -> set[str]:
    words = normalised(text).split()
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_the_parts() -> None:
    train, dev = lookalikes().rows(), lookalikes(part="dev").rows()
    assert (len(train), len(dev)) == (345, 67)
    assert all(row.kind == "benign" and not row.response for row in (*train, *dev))
    assert {row.category for row in train} == {row.category for row in dev}
    counts = Counter(row.category for row in train)
    assert len(counts) == 17 and min(counts.values()) >= 15
    assert lookalikes().label == "lookalikes" and lookalikes(part="dev").label == "lookalikes-dev"
    assert lookalikes().rows_kind() == "benign"


def test_each_prompt_stands_once_and_is_short() -> None:
    texts = prompts("train") + prompts("dev")
    assert len({normalised(text) for text in texts}) == 412
    assert all(text == text.strip() and 3 <= len(text.split()) <= 25 for text in texts)
    near = alike((normalised(text) for text in texts), threshold=0.5)
    assert [pair for pair in near.items() if len(pair[1]) > 1] == []


def test_sentence_forms_vary() -> None:
    """No one opening makes up a quarter, and about a fifth at least are not questions."""
    texts = prompts("train") + prompts("dev")
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    assert max(openings.values()) < len(texts) / 4
    assert sum("?" not in text for text in texts) > len(texts) / 6
    assert sum(re.match(r"(My|Our|I|These|In|For) ", text) is not None for text in texts) >= 10


def test_development_prompts_share_no_phrase_with_those_trained_on() -> None:
    trained = set().union(*map(runs, prompts("train")))
    assert [text for text in prompts("dev") if runs(text) & trained] == []


def test_none_is_near_a_prompt_of_xstest_advbench_or_safeinstr(real) -> None:
    with open(real("xstest/xstest_prompts.csv"), newline="", encoding="utf-8") as file:
        known = {"xstest": [row["prompt"] for row in csv.DictReader(file)]}
    with open(real("advbench/harmful_behaviors.csv"), newline="", encoding="utf-8") as file:
        known["advbench"] = [row["goal"] for row in csv.DictReader(file)]
    for name in ("I-MaliciousInstructions", "I-CoNa", "I-Controversial", "Q-Harm"):
        with open(real(f"safeinstr_nc/{name}.json"), encoding="utf-8") as file:
            known[name] = json.load(file)["instructions"]
    with gzip.open(real("safeinstr_nc/safety_only_data_Instructions.refusals.json.gz"), "rt", encoding="utf-8") as file:
        known["safeinstr"] = [row["instruction"] for row in json.load(file)]
    assert (len(known["xstest"]), len(known["advbench"])) == (450, 520)
    texts = prompts("train") + prompts("dev")
    touched = {text: how for text, how in zip(texts, contacts(texts, known, NEAR), strict=True) if how}
    assert touched == {}


def test_a_sample_is_of_the_part() -> None:
    few, more = lookalikes(n_rows=3).rows(), lookalikes(n_rows=30).rows()
    assert len(few) == 3 and {row.request for row in few} <= {row.request for row in more}
    with pytest.raises(DataError, match="lookalikes, part dev: n_rows is 68, but there are 67 rows"):
        lookalikes(part="dev", n_rows=68).rows()
