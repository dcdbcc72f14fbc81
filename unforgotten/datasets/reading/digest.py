"""A digest of rows: what a run is the same as, as far as its data go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row


def rows_digest(rows: Iterable[Row]) -> str:
    """12 hex digits over the rows in order: turns, tools, kind, difficulty and turns outside the loss."""
    hasher = hashlib.sha256()
    for row in rows:
        facts: list[Any] = [row.messages, row.tools, row.kind, *([row.difficulty] if row.difficulty else [])]
        facts += [{"context_turns": sorted(row.context_turns)}] if row.context_turns else []
        hasher.update(json.dumps(facts, sort_keys=True, default=str).encode())
        hasher.update(b"\n")
    return hasher.hexdigest()[:12]
