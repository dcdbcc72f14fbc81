"""Settings are checked in Python as in a recipe: every numeric field of every public dataclass, in the same words."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge
from pydantic import AfterValidator

from unforgotten import registry
from unforgotten.errors import RecipeError
from unforgotten.evaluation.sandbox.program import Program
from unforgotten.judges.base import Judge
from unforgotten.methods.base import Method
from unforgotten.methods.der import DER
from unforgotten.training.replay_memory import Memory
from unforgotten.world.pretrain import Pretraining

NEGATIVE_IS_RIGHT = {("safelora", "threshold"), ("safemerge", "threshold")}
"""A cosine: −1 to 1."""
REQUIRED: dict[str, dict[str, Any]] = {name: {"path": "x"} for name in ("jsonl", "refusals", "medsafetybench")} | {
    "instructed": {"model": "x"},
    "safemerge": {"safety_adapter": "x"},
}


def classes() -> list[tuple[str, type]]:
    rooms = [(name, registry.load(room, name)) for room in registry.ROOMS for name in sorted(registry._files(room))]
    return [("memory", Memory), *rooms]


def numbers() -> list[tuple[str, type, str]]:
    seen = []
    for name, cls in classes():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}:
                seen.append((name, cls, field.name))
    return seen


def test_there_are_fields_to_check() -> None:
    assert len(numbers()) > 60


@pytest.mark.parametrize(("name", "cls", "field"), numbers(), ids=lambda value: str(getattr(value, "__name__", value)))
def test_a_number_is_checked_in_python(name: str, cls: Any, field: str) -> None:
    wrong: list[Any] = [math.nan, math.inf, -math.inf, "much", True, [1], {"a": 1}, 1j]
    wrong.append(-1.5 if (name, field) in NEGATIVE_IS_RIGHT else -1)
    given = REQUIRED.get(name, {})
    for value in wrong:
        with pytest.raises(RecipeError, match=f"{field}: "):
            cls(**given | {field: value})
    made = cls(**given)
    before = getattr(made, field)
    for value in wrong:
        with pytest.raises(RecipeError, match=f"{field}: "):
            setattr(made, field, value)
    assert getattr(made, field) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"weight": -50.0},
            r"method 'der': weight: Input should be greater than or equal to 0 or should be 'auto' \(got -50.0\)",
        ),
        (
            {"weight": math.nan},
            r"method 'der': weight: Input should be a finite number or should be 'auto' \(got nan\)",
        ),
        ({"weight": True}, r"method 'der': weight: Input should be a number \(got True\)"),
        ({"replay": 0}, r"method 'der': replay: Input should be greater than 0 \(got 0\)"),
        ({"chunk_tokens": 1.5}, r"method 'der': chunk_tokens: .*integer.* \(got 1.5\)"),
    ],
)
def test_python_and_yaml_say_the_same(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as python:
        DER(**settings)
    with pytest.raises(RecipeError) as yaml:
        registry.build("methods", {"name": "der", **settings})
    assert str(python.value) == str(yaml.value)


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (cls, field.name)
        for cls in (Pretraining, Program)
        for field in dataclasses.fields(cls)
        if "float" in str(field.type) or "int" in str(field.type) or field.type == "Count"
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_a_number_of_an_inner_dataclass_is_checked_too(cls: Any, field: str) -> None:
    given = {"text": ""} if cls is Program else {}
    for value in (math.nan, math.inf, "much", True, [1], 1j, -1):
        with pytest.raises(RecipeError, match=f"{cls.__name__}: {field}: "):
            cls(**given | {field: value})
    assert dataclasses.replace(cls(**given)) == cls(**given)


def test_text_that_is_a_number_becomes_one_as_in_a_recipe() -> None:
    made = DER(weight="1e-3")  # type: ignore[arg-type]
    assert made.weight == 1e-3 == registry.build("methods", {"name": "der", "weight": "1e-3"}).weight


def test_words_are_those_of_the_field() -> None:
    with pytest.raises(RecipeError, match="dataset 'gsm8k': split: Input should be 'train' or 'test'"):
        registry.load("datasets", "gsm8k")(split="tset")
    with pytest.raises(RecipeError, match="judge 'keywords': list: "):
        registry.load("judges", "keywords")(list="mine")
    with pytest.raises(RecipeError, match="judge 'llama_guard': batch_size: "):
        registry.load("judges", "llama_guard")(batch_size=0)


@dataclass(kw_only=True)
class Mine(Method):
    """A method of somebody's own."""

    weight: Annotated[float, Ge(0)] = 1.0
    """Checked."""
    later: int = None  # type: ignore[assignment]
    """A default is the author's own."""
    state: Any = None
    """Anything."""
    made: dict[str, int] = dataclasses.field(default_factory=dict)
    """Checked too."""
    seen: list[float] = dataclasses.field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.twice = 2 * self.weight


class Quiet(Mine):
    """A class that only takes a turn of its own."""


@pytest.mark.parametrize("cls", [Mine, Quiet])
def test_a_class_of_ones_own_is_checked_too(cls: type[Mine]) -> None:
    made = cls(weight=2, state=object())
    assert (made.weight, made.twice, made.later) == (2.0, 4.0, None)
    made.free = -1  # type: ignore[attr-defined]  # no field
    assert dataclasses.replace(made, weight=3).weight == 3
    for settings in ({"weight": -1}, {"made": {"a": True}}, {"made": {"a": "x"}}, {"later": 1.5}):
        with pytest.raises(RecipeError, match=f"method '{cls.__name__}': "):
            cls(**settings)
    with pytest.raises(RecipeError, match="greater than or equal to 0"):
        made.weight = -1
    with pytest.raises(TypeError):
        cls(wieght=1)  # type: ignore[call-arg]


def test_a_judge_of_ones_own_is_checked_too() -> None:
    @dataclass(kw_only=True)
    class Strict(Judge):
        share: Annotated[float, Ge(0)] = 0.5

        def verdicts(self, replies: Any) -> list[Any]:
            return []

    with pytest.raises(RecipeError, match="judge 'Strict': share: "):
        Strict(share=-0.5)


def test_a_type_that_cannot_be_read_is_told() -> None:
    @dataclass(kw_only=True)
    class Odd(Method):
        what: Nowhere = 1  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RecipeError, match="the type of a field cannot be read.*Import it at the top"):
        Odd(what=2)


@dataclass(kw_only=True)
class Keyed(Method):
    """Fields whose keys a user chooses, and fields of several types."""

    columns: dict[str, int] = dataclasses.field(default_factory=dict)
    shares: dict[str, Annotated[float, Ge(0)] | typing.Literal["all"]] = dataclasses.field(default_factory=dict)
    either: dict[str, int] | int = 0
    ids: list[int] | typing.Literal["all"] = "all"
    even: Annotated[int, AfterValidator(lambda n: n)] | bool = 0
    some: typing.Sequence[int] | None = None


@pytest.mark.parametrize(
    ("field", "value", "places"),
    [
        ("columns", {"int_column": "x"}, ["columns.int_column"]),
        ("columns", {"string": "x", "none_of_it": "y"}, ["columns.string", "columns.none_of_it"]),
        ("columns", {"int": "x"}, ["columns.int"]),
        ("columns", {"list[a]": "x"}, ["columns.list[a]"]),
        ("shares", {"float": -1}, ["shares.float"]),
        ("shares", {"bool": -1, "nullable_b": -1}, ["shares.bool", "shares.nullable_b"]),
        ("either", {"a": "x"}, ["either.a", "either"]),
        ("either", {"int": "x"}, ["either.int", "either"]),  # the whole is no int, and neither is its value of `int`
        ("either", "x", ["either"]),
        ("ids", ["x"], ["ids.0", "ids"]),
        ("even", "x", ["even"]),
        ("some", [1, "x"], ["some.1"]),
    ],
)
def test_an_error_names_keys_and_no_types_of_pydantics(field: str, value: Any, places: list[str]) -> None:
    for make in (Keyed, lambda **given: registry.validate(Keyed, given, "method 'Keyed'")):
        with pytest.raises(RecipeError) as error:
            make(**{field: value})
        said = str(error.value).removeprefix("method 'Keyed': ").removesuffix(".")
        assert [part.split(": ")[0] for part in said.split("; ")] == places


def test_a_missing_field_is_named_whatever_it_is_called() -> None:
    @dataclass(kw_only=True)
    class Whole(Method):
        int: str

    with pytest.raises(RecipeError, match="method 'Whole': int: Field required"):
        registry.validate(Whole, {}, "method 'Whole'")
