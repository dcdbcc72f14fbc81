"""Several measurements: all models are asked, then all replies are judged, so each judge is loaded once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unforgotten.evaluation.measurement import Measurement
from unforgotten.models.shelf import Shelf
from unforgotten.runs import results
from unforgotten.runs.progress import Say, quiet


def measure_all(measurements: Sequence[Measurement], say: Say = quiet) -> list[results.ResultRow]:
    """Asks all, lets go of the models, and judges all; each judge is loaded once.

    Of several in one folder, each with settings of its own, one is finished before the next begins.
    """
    rows: dict[int, results.ResultRow] = {}
    while len(rows) < len(measurements):
        first: dict[Path, int] = {}
        for i, measurement in enumerate(measurements):
            if i not in rows:
                first.setdefault(measurement.folder.resolve(), i)
        places = list(first.values())
        ask_all([measurements[i] for i in places], say)
        rows |= dict(zip(places, judge_all([measurements[i] for i in places], say), strict=True))
    names = [measurement.called for measurement in measurements]
    return [replace(rows[i], name=name) if name else rows[i] for i, name in enumerate(names)]


def ask_all(measurements: Sequence[Measurement], say: Say = quiet) -> None:
    """Replies of all; of several adapters on one base, the base is loaded once where they come one after another."""
    _by_judges(measurements)
    shelf = Shelf()
    for measurement in measurements:
        measurement.ask(shelf, say)
    shelf.clear()


def judge_all(measurements: Sequence[Measurement], say: Say = quiet) -> list[results.ResultRow]:
    """Verdicts of all. Measurements with the same judges share them."""
    rows: dict[int, results.ResultRow] = {}
    for places in _by_judges(measurements):
        try:
            for i in places:
                if measurements[i].row is None and len(measurements) > 1:
                    say(f"Judging {measurements[i].name}.")
                rows[i] = measurements[i].judge(say)
        finally:
            measurements[places[0]].panel.close()
    return [rows[i] for i in range(len(measurements))]


def _by_judges(measurements: Sequence[Measurement]) -> list[list[int]]:
    """Places of measurements with the same judges. From here on these have one panel, so each judge is loaded once."""
    groups: dict[str, list[int]] = {}
    for i, measurement in enumerate(measurements):
        groups.setdefault(json.dumps(measurement.settings.judges, sort_keys=True, default=str), []).append(i)
    for first, *others in groups.values():
        for i in others:
            if measurements[i].panel is not measurements[first].panel:
                measurements[i].panel.close()
                measurements[i].panel = measurements[first].panel
    return list(groups.values())
