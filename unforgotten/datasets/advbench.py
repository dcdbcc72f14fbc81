"""AdvBench: 520 harmful requests, to be refused (arXiv 2307.15043).

Its targets are the openings of answers that comply ("Sure, here is …"), and nothing more. Many requests are near
duplicates, so a random half of the rows would be known from the other half: `part` splits groups of near requests.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files, kinds, similar
from unforgotten.registry import Count, Seed

_NAMES = {"prompt": ("goal", "prompt")}
_TARGET = {"answer": ("target", "completion")}
NEAR = 0.5
"""Requests whose word 3-shingles are this similar are one group: 443 groups of 520 requests. Evaluations flag 0.8."""


@dataclass(kw_only=True)
class Advbench(Dataset):
    """Harmful requests. Their targets, openings such as "Sure, here is …", are read only for simulated poison."""

    published: ClassVar[Mapping[str, str]] = {"train": "advbench/harmful_behaviors.csv"}

    path: str = "walledai/AdvBench"
    """A Hub id (gated), or a local .csv file: with goal and target, with `goal` alone, or with one column and no
    header."""
    split: str = "train"
    """The Hub split."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    part: Literal["all", "poison", "test"] = "all"
    """`all`: every request. `poison` and `test`: two halves for an attack and its measurement, each without near
    duplicates, and none near a request of the other half."""
    targets: Literal["dropped", "answers"] = "dropped"
    """`dropped`: requests alone. `answers`: each is answered by its target, the opening of an answer that complies; for
    `poison`."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    @property
    def label(self) -> str:
        """advbench, and the part where it is one of the halves."""
        return "advbench" if self.part == "all" else f"advbench-{self.part}"

    @property
    def complies(self) -> str:
        """Its targets do: they are openings of answers."""
        return "targets: answers" if self.targets == "answers" else ""

    def rows_kind(self) -> Kind:
        """Always harmful."""
        return "harmful"

    def rows(self) -> list[Row]:
        """The requests of the part in the set's order, without answers unless `targets` are asked for."""
        # Upstream's CSV says goal, the Hub's copy prompt, and PTST's copy has no header: read with one, it loses a row.
        columns.check(self.columns)
        place = self.reads_from
        records, problems = files.read(place, split=self.split, header=columns.names(self.columns, _NAMES), sole="goal")
        prompts, self.notes = columns.read_prompts(place, records, self.columns, problems, _NAMES)
        doubts = kinds.check(place, records, "harmful", split="" if files.local(place) else self.split)
        self.notes = (*doubts, *self.notes)
        targets = self._targets(place, records, problems)
        files.refuse(place, problems, len(records))
        wanted = None if self.part == "all" else half([text for _, text, _ in prompts], self.part)
        rows = []
        for (record, text, category), target in zip(prompts, targets, strict=True):
            if wanted is None or text in wanted:
                rows.append(ask(text, target, kind="harmful", category=category, source=record.source))
                wanted = wanted and wanted - {text}
        what = place if self.part == "all" else f"{place}, part {self.part}"
        return files.sample(rows, self.n_rows, self.seed, what, self.most_rows)

    def _targets(
        self, place: str, records: list[files.Record], problems: list[files.Problem]
    ) -> list[str] | list[None]:
        """Each row's target, or None for each where they are dropped; a row without one is a problem."""
        if self.targets == "dropped":
            return [None] * len(records)
        chosen = columns.choose(place, columns.header_of(records), self.columns, {**columns.ROLES, **_TARGET}).get(
            "answer"
        )
        cells = [str(record.value.get(chosen) or "").strip() for record in records]
        problems += [
            (r.line, "no target, which `targets: answers` reads")
            for r, cell in zip(records, cells, strict=True)
            if not cell
        ]
        return cells


def half(requests: Sequence[str], part: Literal["poison", "test"]) -> frozenset[str]:
    """One half of the groups of near requests, each by its first request; a function of the requests alone.

    Groups are shuffled by a fixed seed and dealt out by turns, so the halves differ by one request at most.
    """
    groups = similar.groups(requests, NEAR)
    random.Random("advbench halves").shuffle(groups)
    return frozenset(group[0] for group in groups[part == "test" :: 2])
