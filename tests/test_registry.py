"""The folder is the registry: names, settings, files from outside, and what every component owes to be listed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import ClassVar

import pytest

from unforgotten import registry
from unforgotten.errors import RecipeError, UnforgottenError, UnknownName
from unforgotten.recipe.read import parse

OWN = [
    (room, name) for room in registry.ROOMS for name in registry.names(room) if name in registry._files(room)
]  # components of installed packages answer for themselves

MINE = '''
from dataclasses import dataclass
from unforgotten.methods.base import Method

@dataclass(kw_only=True)
class Mine(Method):
    """Does little."""
    weight: float = 1.0
    """How much of it."""
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py:Mine"


@pytest.mark.parametrize(("room", "name"), OWN)
def test_every_component_can_be_listed_and_documented(room: str, name: str) -> None:
    cls = registry.load(room, name)
    assert cls.room == room  # type: ignore[attr-defined]
    assert dataclasses.is_dataclass(cls)
    claim = (cls.__doc__ or "").strip().partition("\n")[0]
    assert claim and not claim.startswith(f"{cls.__name__}("), "the first docstring line says what it does"
    schema = registry.fields(cls)
    undocumented = [f.name for f in dataclasses.fields(cls) if f.init and not schema[f.name].get("description")]
    assert not undocumented, "one sentence under each field"


def test_names_are_sorted_and_without_base() -> None:
    for room in registry.ROOMS:
        names = registry.names(room)
        assert names == sorted(names)
        assert not {"base", "__init__"} & set(names)


def test_an_unknown_name_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", lambda room: frozenset({"der", "lwf"}))
    with pytest.raises(UnknownName, match="Unknown method 'derr'. Did you mean 'der'?"):
        registry.load("methods", "derr")


def test_a_class_from_the_users_file(mine: str) -> None:
    method = registry.build("methods", {"name": mine, "weight": 3})
    assert method.weight == 3.0
    assert registry.spec_of(method) == {"name": mine, "weight": 3.0}
    assert registry.spec_of(registry.build("methods", registry.spec_of(method))) == registry.spec_of(method)
    assert registry.build("methods", method) is method


def test_a_wrong_file_or_class_is_named(mine: str) -> None:
    with pytest.raises(RecipeError, match="no file"):
        registry.load("methods", "./not_there.py:Mine")
    with pytest.raises(UnknownName, match="Did you mean 'Mine'"):
        registry.load("methods", mine.replace(":Mine", ":Mina"))


def test_settings_are_checked_by_name_and_type(mine: str) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'weight'"):
        registry.build("methods", {"name": mine, "wieght": 3})
    with pytest.raises(RecipeError, match=r"weight: .*number.*got 'much'"):
        registry.build("methods", {"name": mine, "weight": "much"})
    with pytest.raises(RecipeError, match="needs a name"):
        registry.build("methods", {"weight": 3})


def test_an_installed_package_offers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("counts", "collections:Counter", "unforgotten.methods")
    monkeypatch.setattr(registry, "_entry_points", lambda room: {"counts": point})
    assert "counts" in registry.names("methods")
    assert registry.load("methods", "counts").__name__ == "Counter"


def test_a_later_field_is_in_a_digest_only_where_it_is_set() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Kept(registry.Component):
        later: ClassVar[tuple[str, ...]] = ("unit",)
        weight: float = 1.0
        unit: str = "sum"

    assert registry.spec_of(Kept()) == {"name": "Kept", "weight": 1.0, "unit": "sum"}
    assert registry.determining(Kept()) == {"name": "Kept", "weight": 1.0}
    assert registry.determining(Kept(unit="relative")) == {"name": "Kept", "weight": 1.0, "unit": "relative"}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30, 3.5e38, -1e308])
def test_a_number_that_no_tensor_holds_is_refused_at_the_door(value: float) -> None:
    field, room = ("chunk_tokens", "kl") if isinstance(value, int) else ("weight", "kl")
    with pytest.raises(RecipeError, match=f"{field}: Input should be a number that tensors hold"):
        registry.build("methods", {"name": room, field: value})
    method = registry.build("methods", room)
    with pytest.raises(RecipeError, match="a number that tensors hold"):
        setattr(method, field, value)
    with pytest.raises(RecipeError, match="rows: Input should be a number that tensors hold"):
        parse({"model": "m", "rows": value})


@pytest.mark.parametrize("method", ["agem", "der", "kl", "refresh", "safegrad"])
def test_a_replay_that_no_machine_draws_is_refused(method: str) -> None:
    with pytest.raises(RecipeError, match="replay: Input should be less than or equal to 1000"):
        registry.build("methods", {"name": method, "replay": 1e30})


@pytest.mark.parametrize(
    ("judge", "said"),
    [("nosuch", "Unknown judge 'nosuch'"), ({}, "A judge needs a name"), ("llama_guard", "does not tell refusals")],
)
def test_the_judge_of_a_method_is_checked_when_the_recipe_is_read(judge: object, said: str) -> None:
    for tree in ({"method": {"name": "own_replies", "judge": judge}}, {"settings": {"guarded": {"judge": judge}}}):
        with pytest.raises(UnforgottenError, match=said):
            parse({"model": "m", **tree})
