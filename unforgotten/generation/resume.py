"""Finished rows, one line of JSON each, written as they come: what was finished before a kill is not asked again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unforgotten.runs import console, digests, strict_read
from unforgotten.runs.atomic import private_folder


class Kept:
    """A JSONL file of what is finished, by what was asked; without a path, nothing is kept. Safe for many threads."""

    def __init__(self, path: Path | None, asked: Sequence[Any]) -> None:
        """asked: of each row, all that determines its answer, as JSON; rows asked alike are told apart by their order.

        A line that a kill cut short is taken out of the file. What was asked otherwise stays in it.
        """
        seen: Counter[str] = Counter()
        self.keys = []
        for facts in asked:
            key = digests.digest(facts)
            self.keys.append(f"{key}-{seen[key]}" if seen[key] else key)
            seen[key] += 1
        self._path, self._lock = path, threading.Lock()
        self.facts: dict[int, dict[str, Any]] = {}
        """What was read back, by the row's index."""
        if path is None:
            return
        private_folder(path.parent)
        lines = _whole_lines(path)
        by_key = {line.pop("key"): line for line in lines if isinstance(line, dict) and "key" in line}
        self.facts = {index: by_key[key] for index, key in enumerate(self.keys) if key in by_key}

    @property
    def missing(self) -> list[int]:
        """The indices of the rows that are still to be asked."""
        return [index for index in range(len(self.keys)) if index not in self.facts]

    def add(self, index: int, facts: dict[str, Any]) -> None:
        """Writes one finished row."""
        self.add_all({index: facts})

    def add_all(self, finished: Mapping[int, dict[str, Any]]) -> None:
        """Writes finished rows in one go, so that a kill leaves all of them or next to none."""
        if self._path is None or not finished:
            return
        lines = ({"key": self.keys[index], **facts} for index, facts in finished.items())
        text = "".join(console.json_text(line, None, nan=True) + "\n" for line in lines)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def _whole_lines(path: Path) -> list[Any]:
    """The file's lines; one without an end is cut off, so that the next one does not continue it."""
    try:
        raw = strict_read.content(path)
    except FileNotFoundError:
        return []
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    lines = []
    for line in whole.split(b"\n"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # a line that cannot be read is asked again
    return lines
