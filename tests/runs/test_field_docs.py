"""`help` of a class lists its fields: type, default and the sentence that the source has under it."""

from __future__ import annotations

import pydoc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt
from pydantic import Field

import unforgotten
from unforgotten import registry
from unforgotten.runs import field_docs

OWN = '''
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unforgotten import DER

if TYPE_CHECKING:
    from torch import Tensor

@dataclass(kw_only=True)
class Mine(DER):
    """Does little.

    In two paragraphs.
    """

    much: float = 2.5
    """How much of it.

    At most."""
    shape: "Tensor | None" = None
    bare: int = 3
'''


def help_of(cls: Any) -> str:
    """What `help` prints, as one line."""
    return " ".join(pydoc.render_doc(cls, renderer=pydoc.plaintext).replace("|", " ").split())


@pytest.mark.parametrize("name", ["DER", "Jsonl", "Memory", "Row", "Verdict", "Reply"])
def test_help_shows_each_field_with_its_sentence(name: str) -> None:
    cls = getattr(unforgotten, name)
    shown, source = help_of(cls), Path(__import__(cls.__module__, fromlist=["x"]).__file__).read_text()
    assert " Fields: " in shown
    for line in re.split("def |\nclass |\n@", source.partition(f"class {name}")[2])[0].splitlines():
        if line.startswith('    """'):  # the claim, and what stands under each field
            assert " ".join(line.strip(' "').replace("|", " ").split()) in shown


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in registry.ROOMS for name in registry.names(room)])
def test_help_lists_every_setting_of_every_component(room: str, name: str) -> None:
    cls: Any = registry.load(room, name)
    schema = registry.fields(cls)
    assert [s.name for s in field_docs.settings(cls)] == list(registry.settings_of(cls))
    assert all(s.sentence == schema[s.name]["description"] for s in field_docs.settings(cls)), "as pydantic reads them"
    assert (" Fields: " in help_of(cls)) == bool(schema)
    assert field_docs.claim(cls)[-1] in ".]", "a claim is one line: what comes after it, arXiv ids too, is in no table"


def test_help_of_der_says_type_and_default() -> None:
    assert "weight: float ≥ 0 'auto' = 1.0 λ, the weight of the mean squared difference" in help_of(unforgotten.DER)
    assert "Fields:" not in field_docs.docstring(unforgotten.DER)
    assert field_docs.claim(unforgotten.DER).startswith("Dark Experience Replay: ")


def test_help_of_a_recipe_lists_its_fields_and_parts() -> None:
    from unforgotten.recipe.training import Training

    shown = help_of(unforgotten.Recipe)
    assert "seed: int ≥ 0 and < 4294967296 = 0 Random seed for the alignment" in shown
    assert "training: Training = Training()" in shown and "poison: Poison None = None" in shown
    assert "learning_rate: float > 0 = 5e-05 Peak learning rate." in help_of(Training)
    assert [s.name for s in field_docs.settings(Training)] == list(Training.model_fields)


def test_help_of_a_class_in_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    shown = help_of(registry.load("methods", f"{tmp_path}/mine.py:Mine"))
    assert "In two paragraphs. Fields: weight: float ≥ 0 'auto' = 1.0 λ, the weight of" in shown, "inherited ones first"
    assert "much: float = 2.5 How much of it. At most. shape: Tensor None = None bare: int = 3" in shown


def test_without_a_source_the_sentences_are_missing_and_nothing_else() -> None:
    space: dict[str, Any] = {"__name__": __name__}
    exec(OWN, space)
    assert "much: float = 2.5" in help_of(space["Mine"])


def test_an_undocumented_class_has_what_dataclasses_write() -> None:
    @dataclass(kw_only=True)
    class Bare(unforgotten.Method):
        weight: float = 1.0

    assert Bare.__doc__ == "Bare(*, weight: 'float' = 1.0)"


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Annotated[int, Ge(0), Lt(9)], "int ≥ 0 and < 9"),
        (Annotated[float | None, Ge(0)], "float ≥ 0 | None"),
        (list[Annotated[float, Field(ge=0, le=1)]], "list[float ≥ 0 and ≤ 1]"),
        (Literal["a", 2], "'a' | 2"),
        (dict[str, list[int] | None], "dict[str, list[int] | None]"),
        (tuple[int, ...], "tuple[int, …]"),
        (Callable[[int], str], "Callable[str]"),
        (Any, "Any"),
        (None, "None"),
        ("Unread[int]", "Unread[int]"),
    ],
)
def test_types_in_words(hint: Any, text: str) -> None:
    assert field_docs.type_text(hint) == text
