"""DirectHarm4: four kinds of requests, prompts alone, from the Hub and from the file of its repository."""

from __future__ import annotations

from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.errors import DataError

KINDS = ("malware", "drug", "phishing", "disinformation")
ROWS = [{"instruction": f"Fetch the red apple number {i}", "category": KINDS[i % 4]} for i in range(400)]


def directharm4(**settings):
    return registry.build("datasets", {"name": "directharm4", **settings})


def test_the_hub_and_the_repositorys_own_file(hub, parquet) -> None:
    calls = hub(ROWS)
    data = directharm4()
    rows = data.rows()
    assert calls == [("vfleaking/DirectHarm4", None, "test")] and data.label == "directharm4" and not data.metrics
    assert len(rows) == 400 and Counter(row.category for row in rows) == dict.fromkeys(KINDS, 100)
    assert {row.kind for row in rows} == {"harmful"}
    assert all(len(row.messages) == 1 and not row.answer for row in rows)
    assert (rows[5].request, rows[5].source) == ("Fetch the red apple number 5", "vfleaking/DirectHarm4/test:5")
    path = parquet("test-00000-of-00001.parquet", ROWS)
    assert [(r.request, r.category) for r in directharm4(path=path).rows()] == [(r.request, r.category) for r in rows]


def test_a_sample_is_fixed(hub) -> None:
    hub(ROWS)
    ten = directharm4(n_rows=10, seed=3).rows()
    assert len(ten) == 10 and ten == directharm4(n_rows=10, seed=3).rows() != directharm4(n_rows=10).rows()


def test_what_is_missing_is_named(hub, write) -> None:
    with pytest.raises(DataError, match=r"line 3: no category \(columns: instruction, category\)"):
        directharm4(path=write("a.csv", "instruction,category\na,drug\nb,\n")).rows()
    with pytest.raises(DataError, match="names none of the columns category, instruction; it is 'goal, target'"):
        directharm4(path=write("b.csv", "goal,target\na,b\n")).rows()
    hub(ConnectionError("Couldn't reach the Hub."))
    with pytest.raises(DataError, match="datasets/vfleaking/DirectHarm4 .* give `path:` its repository's data/test-0"):
        directharm4().rows()
