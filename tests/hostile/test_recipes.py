"""A recipe that is made to do harm: it is refused at once, by name, and nothing of it is done."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from unforgotten import strict_yaml
from unforgotten.errors import RecipeError
from unforgotten.recipe import parse, read

LAUGHS = "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
MERGED = "".join(
    f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
N = 250_000
HOSTILE = {
    "aliases that multiply": ("a: &a [l, l]\n" + LAUGHS, "more than 100,000 values"),
    "merges that multiply": ("a: &a {x: 1}\n" + MERGED, "more than 100,000 values"),
    "a list in itself": ("a: &a [*a]", r"line 1: `\*a` stands inside"),
    "a mapping in itself": ("model: m\nx: &a {b: [*a]}", r"line 2: `\*a` stands inside"),
    "lists in lists": ("[" * N, "40 levels of nesting"),
    "mappings in mappings": ("{a: " * (N // 4), "40 levels of nesting"),
    "dashes": ("- " * (N // 2), "40 levels of nesting"),
    "questions": ("? " * (N // 2), "40 levels of nesting"),
    "a long text": ("a: " + "b" * 300_000, "more than 262,144 bytes"),
    "a key twice": ("model: m\nseed: 1\nseed: 2", "line 3: 'seed' stands twice"),
    "a key twice, further in": ("model: m\ntraining: {epochs: 1, 'epochs': 2}", "line 2: 'epochs' stands twice"),
    "a number as key": ("1: a", "a key must be text, and '1'"),
    "a truth as key": ("model: m\nno: a", "line 2: a key must be text, and 'no'"),
    "a list as key": ("? [a]\n: b", "a list or a mapping is not"),
    "code": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag"),
    "a binary": ("a: !!binary aGk=", "the tag"),
    "a tag of somebody's own": ("a: !mine 1", "the tag '!mine'"),
    "two documents": ("a: 1\n---\nb: 1", "is not YAML"),
    "bad letters": ("a: \x00", "is not YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_yaml_that_is_too_much_is_refused_at_once(case: str, tmp_path: Path) -> None:
    text, said = HOSTILE[case]
    (tmp_path / "r.yaml").write_text(text)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RecipeError, match=said):
        read(tmp_path / "r.yaml")
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_the_bounds_of_yaml_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strict_yaml.load("a: [[1]]", "x") == {"a": [[1]]}
    monkeypatch.setenv("UNFORGOTTEN_MAX_YAML_DEPTH", "2")
    with pytest.raises(RecipeError, match="2 levels"):
        strict_yaml.load("a: [[1]]", "x")
    monkeypatch.setenv("UNFORGOTTEN_MAX_YAML_DEPTH", "-1")
    with pytest.raises(RecipeError, match="UNFORGOTTEN_MAX_YAML_DEPTH is '-1'"):
        strict_yaml.load("a: [[1]]", "x")


def test_what_a_person_writes_is_read_as_it_is_written() -> None:
    text = "a: &a {x: 1, y: [1.5, 5.0e-5, 20_000]}\nb: {<<: *a, x: 2}\nc: *a\n"
    text += "d: 2026-01-01\ne: 1:30\nf: 010\ng: ~\nh: true"
    assert strict_yaml.load(text, "r.yaml") == {
        "a": {"x": 1, "y": [1.5, 5e-5, 20_000]},
        "b": {"x": 2, "y": [1.5, 5e-5, 20_000]},
        "c": {"x": 1, "y": [1.5, 5e-5, 20_000]},
        "d": "2026-01-01",
        "e": "1:30",
        "f": "010",
        "g": None,
        "h": True,
    }


@pytest.mark.parametrize("value", ["&a [*a]", "{a: 1, a: 2}", "[" * 1000, "!!binary aGk="])
def test_what_set_gives_is_bounded_too(value: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m")
    with pytest.raises(RecipeError, match="--set x"):
        read(tmp_path / "r.yaml", {"variables.x": value})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate.*finite"),
        ({"training": {"epochs": float("nan")}}, "training.epochs"),
        ({"training": {"epochs": "nan"}}, "training.epochs"),
        ({"training": {"epochs": True}}, "training.epochs.*no numbers"),
        ({"memory": {"share": float("inf")}}, "memory.share"),
        ({"compare": {"seed": [0, True]}}, "compare.seed"),
        ({"compare": {"poison": [-0.5]}}, "compare.poison"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"method": {"name": "der", "weight": float("inf")}}, "weight.*finite"),
        ({"method": {"name": "der", "weight": True}}, "weight.*number"),
        ({"data": {"name": "jsonl", "path": "x", "seed": -1}}, "seed"),
        ({"data": {"name": "jsonl", "path": "x", "n_rows": True}}, "n_rows"),
        ({"sweep": {"fields": {"weight": {"low": 0, "high": float("inf")}}}}, "high"),
        ({"compare": {"seed": list(range(200)), "poison": [0.0, 0.1], "model": ["m"] * 30}}, "12,000 runs"),
    ],
)
def test_a_number_that_is_none_is_refused(tree: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse({"model": "m", **tree})
