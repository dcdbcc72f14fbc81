"""Rows become training examples, and everything that happened to them on the way is counted."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError
from unforgotten.models.chat import losses
from unforgotten.models.chat.encoded import IGNORED, Encoded, trained_turns
from unforgotten.models.chat.faults import Faults

if TYPE_CHECKING:
    from unforgotten.models.chat.chat import Chat


@dataclass
class Counts:
    """What became of the rows; `lines` says it."""

    rows: int = 0
    examples: int = 0
    split_rows: int = 0
    """Rows split into one example per assistant turn, since the template drops or changes earlier turns."""
    dropped: list[str] = field(default_factory=list)
    """Sources of the examples whose whole response is beyond the length limit."""
    cut_examples: int = 0
    """Examples whose response is partly beyond the length limit."""
    control_tokens: int = 0
    """Control tokens inside the text of rows, encoded as plain text."""
    boundary_merges: int = 0
    context_turns: int = 0
    """Assistant turns outside the loss: marked so in the file, or before the first user turn."""
    lost: Counter[str] = field(default_factory=Counter)
    """Parts of the context that the template leaves out, counted by kind over all examples."""
    tokens: int = 0
    trained_tokens: int = 0
    row_of: list[int] = field(default_factory=list)
    """For each example, the index of its row."""

    shown_sources = 20

    def lines(self) -> list[str]:
        """One sentence for each thing that happened."""
        tokens = f"{self.trained_tokens:,} of {self.tokens:,} tokens trained on"
        said = [f"{self.rows:,} rows, {self.examples:,} examples, {tokens}"]
        if self.split_rows:
            said.append(f"{self.split_rows:,} rows split into one example per assistant turn: the template drops or "
                        "changes earlier turns")  # fmt: skip
        if self.dropped:
            names = ", ".join(self.dropped[: self.shown_sources])
            more = len(self.dropped) - self.shown_sources
            said.append(
                f"{len(self.dropped):,} examples dropped: their whole response is beyond the length limit: "
                f"{names}{f' and {more:,} more' if more > 0 else ''}"
            )  # fmt: skip
        if self.cut_examples:
            said.append(
                f"{self.cut_examples:,} examples cut at the length limit. They do not teach the model to end its turn"
            )
        if self.control_tokens:
            said.append(f"{self.control_tokens:,} control tokens inside the text encoded as plain text")
        if self.boundary_merges:
            said.append(f"{self.boundary_merges:,} tokens across prompt and answer split as in generation")
        if self.context_turns:
            said.append(
                f"{self.context_turns:,} assistant turns are context and not in the loss: marked so in the file, or "
                "before the first user turn"
            )  # fmt: skip
        if self.lost:
            said.append(losses.said(self.lost))
        return said


def encode_rows(
    chat: Chat,
    rows: Sequence[Row],
    max_length: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Counts]:
    """Every row as {"input_ids", "labels"}, and the counts. `progress(done, rows)` is called now and then.

    Raises one error with all rows that cannot be encoded: TemplateError or DataError, whose `problems` names the lines.
    """
    counts = Counts(rows=len(rows))
    examples: list[dict[str, Any]] = []
    faults = Faults(len(rows))
    for index, row in enumerate(rows):
        full_length: list[Encoded] = []
        with faults.of(row, index):
            full_length, controls = chat.examples(row, index)
            counts.control_tokens += controls
            counts.context_turns += sum(m["role"] == "assistant" for m in row.messages) - len(trained_turns(row))
            counts.split_rows += full_length[0].turn is not None
        for example in full_length:
            cut = example.within(max_length)
            if cut is None:
                counts.dropped.append(example.source)
                continue
            counts.cut_examples += cut.cut
            counts.boundary_merges += cut.merges
            counts.lost.update(cut.lost)
            counts.tokens += len(cut.input_ids)
            counts.trained_tokens += sum(label != IGNORED for label in cut.labels)
            counts.row_of.append(index)
            examples.append({"input_ids": cut.input_ids, "labels": cut.labels})
        if progress and (index % 100 == 99 or index == len(rows) - 1):
            progress(index + 1, len(rows))
    faults.refuse()
    counts.examples = len(examples)
    if rows and not examples:
        raise DataError(
            f"No row is left: with max_length={max_length}, every response is beyond the limit. Raise max_length. "
            f"({'; '.join(counts.lines()[1:])})"
        )
    return examples, counts


def digest_ids(ids: Iterable[Sequence[int]]) -> str:
    """The SHA-256 of token ids, lists kept apart by their lengths."""
    seen = hashlib.sha256()
    for row_ids in ids:
        seen.update(struct.pack(f"<{len(row_ids) + 1}q", len(row_ids), *row_ids))
    return seen.hexdigest()
