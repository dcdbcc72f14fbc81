"""MedSafetyBench: requests with safe responses, from the files for testing and for fine-tuning."""

from __future__ import annotations

from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.errors import DataError, RecipeError


def medsafetybench(**settings):
    return registry.build("datasets", {"name": "medsafetybench", **settings})


def test_the_published_files(real) -> None:
    n100, n900, test = (
        medsafetybench(path=real(f"medsafetybench/{name}")).rows()
        for name in ("ft_safety_med_n100.json", "ft_safety_med_n900.json", "med_safety_test.csv")
    )
    assert (len(n100), len(n900), len(test)) == (100, 900, 900)
    assert {row.request for row in n100} < {row.request for row in n900}
    assert not {row.request for row in n900} & {row.request for row in test}
    for row in (*n900, *test):
        assert row.kind == "harmful" and [m["role"] for m in row.messages] == ["user", "assistant"] and row.response
    assert set(Counter(row.category for row in test)) == set("123456789")
    assert test[0].response.startswith("I'm sorry, but I cannot fulfill this request.")


def test_a_hub_copy_and_what_is_missing(hub, write) -> None:
    calls = hub([{"harmful_medical_request": "Do", "safe_response": "No", "source": "x"}])
    [row] = medsafetybench(path="somebody/med-safety").rows()
    assert calls == [("somebody/med-safety", None, "test")] and (row.request, row.response) == ("Do", "No")
    with pytest.raises(DataError, match="line 3: no safe_response or output"):
        medsafetybench(path=write("a.csv", "harmful_medical_request,safe_response\na,b\nc,\n")).rows()
    with pytest.raises(RecipeError, match="path"):
        medsafetybench()  # there is no official Hub copy to fall back on
