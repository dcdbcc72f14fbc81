"""OR-Bench: three configs, which of them is harmful, and a sample of the large one with each category's share."""

from __future__ import annotations

from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.datasets.or_bench import by_category
from unforgotten.errors import DataError, RecipeError

NAMES = "deception harassment harmful hate illegal privacy self-harm sexual unethical violence".split()


def or_bench(**settings):
    return registry.build("datasets", {"name": "or_bench", **settings})


def prompts(*counts: int) -> list[dict]:
    """So many prompts of each category, one after the other."""
    named = [name for name, count in zip(NAMES, counts, strict=False) for _ in range(count)]
    return [{"prompt": f"Paint fence {i}", "category": name} for i, name in enumerate(named)]


def test_three_configs_of_which_one_is_harmful(hub) -> None:
    calls = hub(prompts(3, 2))
    for part, kind in (("80k", "benign"), ("hard-1k", "benign"), ("toxic", "harmful")):
        data = or_bench(part=part)
        assert data.label == f"or-bench-{part}"
        assert [(r.request, r.category, r.kind) for r in data.rows()] == [
            (r["prompt"], r["category"], kind) for r in prompts(3, 2)
        ]
    assert calls == [("bench-llm/or-bench", f"or-bench-{part}", "train") for part in ("80k", "hard-1k", "toxic")]
    assert or_bench().label == "or-bench-hard-1k"
    with pytest.raises(RecipeError, match="part"):
        or_bench(part="easy")


def test_all_of_the_small_parts_and_a_thousand_of_the_large(hub) -> None:
    hub(prompts(*[132] * 9, 131))
    assert len(or_bench().rows()) == 1319
    hub(prompts(*[65] * 9, 70))
    assert len(or_bench(part="toxic").rows()) == 655
    counts = (8000, 4000, 2000, 1000, 1000, 500, 500, 500, 300, 100)
    hub(prompts(*counts))
    rows = or_bench(part="80k").rows()
    actual = Counter(row.category for row in rows)
    assert len(rows) == 1000
    for name, count in zip(NAMES, counts, strict=True):  # 17,900 in all
        assert abs(actual[name] - 1000 * count / sum(counts)) <= 1
    assert len(or_bench(part="80k", n_rows=17_900).rows()) == 17_900


def test_the_sample_is_fixed_keeps_the_order_and_grows() -> None:
    rows = [ask(f"{i}", category=NAMES[i * i % 7]) for i in range(500)]
    fifty = by_category(rows, 50, 0, "x")
    assert fifty == by_category(rows, 50, 0, "x") != by_category(rows, 50, 1, "x")
    numbers = [int(row.request) for row in fifty]
    assert numbers == sorted(numbers) and len(set(numbers)) == 50
    for more in range(51, 501, 50):
        larger = [row.request for row in by_category(rows, more, 0, "x")]
        assert len(larger) == more and set(larger) > {row.request for row in fifty}
    assert by_category(rows, None, 0, "x") == rows == by_category(rows, 500, 0, "x")
    for wrong in (0, 501):
        with pytest.raises(DataError, match=f"x: n_rows is {wrong}, but there are 500 rows"):
            by_category(rows, wrong, 0, "x")


def test_the_sample_is_the_same_on_every_machine() -> None:
    # random.Random("a 0").shuffle makes [2, 1, 3, 0] of 0..3, and "b 0" makes [5, 4] of 4, 5; their places are
    # 1/8, 3/8, 5/8, 7/8 and 1/4, 3/4.
    rows = [ask(f"{i}", category="aaaabb"[i]) for i in range(6)]
    drawn = [[int(r.request) for r in by_category(rows, n, 0, "x")] for n in (1, 2, 3, 4)]
    assert drawn == [[2], [2, 5], [1, 2, 5], [1, 2, 3, 5]]


def test_local_files_and_a_file_of_another_part(write) -> None:
    content = 'prompt,category\n"Paint, please, a fence",illegal\n'
    path = write("or-bench-hard-1k.csv", content)
    [row] = or_bench(path=path).rows()
    assert (row.request, row.kind, row.source) == ("Paint, please, a fence", "benign", f"{path}:2")
    toxic = write("or-bench-toxic.csv", content)
    with pytest.raises(DataError, match="or-bench-toxic.csv is not or-bench-hard-1k: set `part: toxic`"):
        or_bench(path=toxic).rows()  # harmful prompts counted as harmless would turn a good model into a bad one
    assert or_bench(path=toxic, part="toxic").rows()[0].kind == "harmful"
    with pytest.raises(DataError, match="line 2: no category"):
        or_bench(path=write("a.csv", "prompt,category\nPaint,\n")).rows()


def test_out_of_reach_names_the_file(hub) -> None:
    hub(ConnectionError("Couldn't reach the Hub."))
    with pytest.raises(DataError, match="give `path:` its repository's or-bench-80k.csv"):
        or_bench(part="80k").rows()
