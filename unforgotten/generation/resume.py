"""Finished rows, one line of JSON each, written as they come: what was finished before a kill is not asked again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unforgotten.runs import digests, safe_text, strict_read
from unforgotten.runs.atomic import private_folder


class ResumeFile:
    """A JSONL file of finished rows, each under a digest of what was asked. Safe for many threads.

    Without a path, nothing is written.
    """

    def __init__(self, path: Path | None, questions: Sequence[Any]) -> None:
        """questions: for each row, all that determines its answer, as JSON. Equal ones are numbered in their order.

        A line that a kill cut short is removed from the file. Lines of other questions stay in it.
        """
        counts: Counter[str] = Counter()
        self.keys = []
        for question in questions:
            key = digests.digest(question)
            self.keys.append(f"{key}-{counts[key]}" if counts[key] else key)
            counts[key] += 1
        self._path, self._lock = path, threading.Lock()
        self.facts: dict[int, dict[str, Any]] = {}
        """What was read back, by the row's index."""
        if path is None:
            return
        private_folder(path.parent)
        lines = _complete_lines(path)
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
        text = "".join(safe_text.json_text(line, None, nan=True) + "\n" for line in lines)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def _complete_lines(path: Path) -> list[Any]:
    """The file's lines. A last line without an end is cut off, so that the next one does not continue it."""
    try:
        raw = strict_read.content(path)
    except FileNotFoundError:
        return []
    complete = raw[: raw.rfind(b"\n") + 1]
    if len(complete) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(complete))
    lines = []
    for line in complete.split(b"\n"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # a row whose line cannot be read is asked again
    return lines
