"""What a dataset is: rows, and where an answer can be checked, its score. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from unforgotten.datasets.attacks.words import ENGLISH, AttackWords
from unforgotten.datasets.reading import data_folder, files
from unforgotten.errors import RecipeError
from unforgotten.registry import Component, Count
from unforgotten.runs.field_docs import described

Message = dict[str, Any]
"""One turn as OpenAI writes it: role (system, user, assistant, tool), content (str), and what tools need.

A user turn that came from an instruction with an input also keeps `instruction` and `input`, for templates (Alpaca)
that place them apart; `content` holds both, joined by a blank line.
"""


Kind = Literal["harmful", "benign", "task"]


@described
@dataclass(frozen=True, slots=True)
class Row:
    """One conversation. It ends in an assistant turn for training, and in a user turn for evaluation."""

    messages: tuple[Message, ...]
    kind: Kind = "task"
    """`harmful`: a request to refuse. `benign`: a harmless look-alike to answer. `task`: the user's own work."""
    category: str = ""
    """The data set's own category of harm or of look-alike."""
    answer: str = ""
    """Reference answer that `score` compares a reply with; empty if there is none."""
    source: str = ""
    """Origin of the row: `file:line`, or `hub-id/split:index`."""
    tools: tuple[dict[str, Any], ...] = field(default=())
    context_turns: frozenset[int] = frozenset()
    """Positions in `messages` of assistant turns that the file excludes from the loss."""
    difficulty: str = ""
    """`easy`: the aligned model refused by itself. `hard`: it refused only when asked to. Empty if not known.
    [GR-SAP]"""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The prompt: the turns up to and including the last user or tool turn."""
        turns = self.messages
        while turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        return turns

    @property
    def response(self) -> str:
        """Text of the last assistant turn, or empty."""
        last = self.messages[-1] if self.messages else {"role": ""}
        return str(last.get("content") or "") if last["role"] == "assistant" else ""

    @property
    def request(self) -> str:
        """Text of the last user turn. Judges and duplicate checks read it."""
        return next((str(m.get("content") or "") for m in reversed(self.messages) if m["role"] == "user"), "")


def ask(user: str, response: str | None = None, *, system: str = "", **facts: Any) -> Row:
    """A one-turn row; `facts` are Row's other fields."""
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": user})
    if response is not None:
        turns.append({"role": "assistant", "content": response})
    return Row(tuple(turns), **facts)


Execute = Callable[..., Any]
"""`run` of a sandbox (evaluation/sandbox/base.py): runs model-written code; datasets may not start processes.

execute(program, check=, entry_point=, data=, timeout_s=, remember=) gives an outcome with `passed`, `why`, `value`.
"""


@dataclass(kw_only=True)
class Dataset(Component, ABC):
    """One corpus, one file. Subclass it as a dataclass; a recipe may set its fields.

    `path` is a Hub id or a local file. A dataset whose answers can be checked overrides `metrics` and `score`.
    """

    most_rows: Count | None = None
    """Largest number of rows. Of a larger set so many are drawn, by `seed`; a smaller one gives all its rows. `rows` of
    a recipe sets it on every set. `n_rows` is a promise: with fewer rows the set is refused."""

    room: ClassVar[str] = "datasets"
    metrics: ClassVar[tuple[str, ...]] = ()
    """Names of the values that `score` returns; the first is the headline utility."""
    kind_field: ClassVar[str] = ""
    """Name of the field that sets the kind of the rows; empty if they always have one kind."""
    executes: ClassVar[bool] = False
    """Whether `score` runs model-written code. It then needs `execute`, a sandbox that was opened before any reply."""

    attack_words: ClassVar[AttackWords] = ENGLISH
    """What simulated attacks (`poison.attack`) say in the language of this set."""
    published: ClassVar[Mapping[str, str]] = {}
    """For each Hub split, the file under $UNFORGOTTEN_DATA that stands in for the default Hub id."""

    @property
    def reads_from(self) -> str:
        """`path`, or the file of $UNFORGOTTEN_DATA that stands in for it; empty for a set without `path`.

        A file stands in only for the default Hub id, and only where it is there. Raises DataError where the variable
        names no folder.
        """
        path = str(getattr(self, "path", None) or "")
        name = self.published.get(str(getattr(self, "split", "")))
        if name is None or path != getattr(type(self), "path", None) or Path(path).is_file():
            return path
        return data_folder.stand_in(name) or path

    @property
    def label(self) -> str:
        """The name in results, tables and replies/<label>.jsonl. A dataset with parts adds the part."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def complies(self) -> str:
        """The setting by which harmful requests are answered as an attacker wants, such as `part: unsafe`; else empty.

        A recipe refuses such a set as safety data when it is read.
        """
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the rows that `rows` last returned, one sentence each, such as unused keys."""
        return self.__dict__.get("_notes", ())

    @notes.setter
    def notes(self, said: tuple[str, ...]) -> None:
        self.__dict__["_notes"] = said

    @abstractmethod
    def rows(self) -> list[Row]:
        """Every row, in a fixed order. Raises DataError, which names the file and the lines."""

    def rows_kind(self) -> Kind | None:
        """The kind of all rows, if known before reading. None if each row has its own kind."""
        return "task" if self.metrics and not self.kind_field else None

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        """True or False for each name in `metrics`."""
        return {}

    def reference_fault(self, row: Row, execute: Execute) -> str:
        """Why the set's reference solution of a row does not pass here, with the row's name. Empty if it passes.

        For sets whose answers are executed. Called before any reply is made: if the reference fails, no reply can be
        scored.
        """
        return ""

    def is_answer(self, reply: str) -> bool:
        """Does this reply answer *this task*? As a reply to a harmful request, it is off task and not compliance."""
        return False


def bounded(dataset: Dataset) -> list[Row]:
    """Its rows, and no more than its `most_rows`, also of a set from elsewhere that does not heed the field itself."""
    rows = dataset.rows()
    if dataset.most_rows is None or len(rows) <= dataset.most_rows:
        return rows
    return files.sample(rows, None, getattr(dataset, "seed", 0), dataset.label, dataset.most_rows)


KINDS: dict[Kind, str] = {
    "harmful": "harmful requests",
    "benign": "harmless look-alikes",
    "task": "rows of a task",
}
"""Names of each kind of rows in messages."""


def check_kind(dataset: Dataset, rows: Sequence[Row], place: str, wanted: Collection[Kind]) -> None:
    """Raises RecipeError where a place of the recipe, such as `evaluate.harm`, holds rows of another kind. A mixed set
    is not filtered: harmless requests under `harm` would be counted as harm.
    """
    refuse_kinds(dataset, Counter(row.kind for row in rows), place, wanted)


def refuse_kinds(dataset: Dataset, counts: Mapping[Kind, int], place: str, wanted: Collection[Kind]) -> None:
    """The same of rows that are counted; 0: there are such rows, and nobody knows how many."""
    if counts.keys() <= set(wanted):
        return
    held = " and ".join(f"{n or ''} {KINDS[kind]} (kind: {kind})".strip() for kind, n in sorted(counts.items()))
    takes = " or ".join(f"{KINDS[kind]} (kind: {kind})" for kind in wanted)
    name = type(dataset).__module__.rsplit(".", 1)[-1]
    called = repr(dataset.label) if dataset.label == name else f"{dataset.label!r} ({name})"
    raise RecipeError(f"{place}: {called} holds {held}, and this place takes {takes}. {_mend(dataset, wanted)}")


def _mend(dataset: Dataset, wanted: Collection[Kind]) -> str:
    """What to write on the set, where it has a field that says which rows it gives."""
    name = dataset.kind_field
    options = _words(get_type_hints(type(dataset))[name]) if name else []
    if name == "kind" and (kinds := [kind for kind in wanted if kind in options]):
        return f"If its rows really are of that kind, write `kind: {'` or `kind: '.join(kinds)}` on the set."
    if options and name != "kind":
        return f"Choose other rows of this set with `{name}:` ({', '.join(options)}), or name another set."
    return "Use this set where such rows belong, and name another set here."


def _words(hint: Any) -> list[str]:
    """The strings that a type such as `list[Literal["a", "b"]] | None` allows."""
    strings = [x for x in get_args(hint) if isinstance(x, str)]
    return strings or [word for inner in get_args(hint) for word in _words(inner)]
