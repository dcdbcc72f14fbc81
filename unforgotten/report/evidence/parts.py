"""What each part of a method adds: runs with the part against runs without it, of the same seeds and prompts.

A part is a setting that differs from the method's usual one, a method composed with it, or one of the methods that it
is made of (`MADE_OF`). It stays if a 95 % interval of the paired difference excludes 0 on the good side somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from unforgotten.evaluation.statistics.paired import Difference
from unforgotten.report.evidence.studies import Study, difference, differing, same_seeds
from unforgotten.runs.results import Kind

MAIN = "guarded"
MADE_OF: Mapping[str, str] = {"kl": "own replies", "own_replies": "replay of the memory"}
"""Methods that are MAIN without one part, and that part."""


@dataclass(frozen=True, slots=True)
class AblatedPart:
    """A part, and the two settings that differ in it."""

    name: str
    present: str
    absent: str
    unlike: str = ""
    """Shared fields in which the two differ as well, so that the part alone is not what is measured."""


@dataclass(frozen=True, slots=True)
class PartEffect:
    """The part present less the part absent, at one poison ratio under one attack, in points."""

    part: AblatedPart
    poison: float
    attack: str | None
    seeds: int
    differences: Mapping[Kind, Difference | None]

    def kinds(self, side: Literal["better", "worse"]) -> list[Kind]:
        """Figures of which the interval excludes 0, on this side."""
        return [kind for kind, d in self.differences.items() if d is not None and _side(kind, d) == side]


def _side(kind: Kind, d: Difference) -> str:
    if d.low is None or d.high is None or d.low <= 0 <= d.high:
        return ""
    return "better" if (d.low > 0) == (kind == "utility") else "worse"


def parts(study: Study, main: str = MAIN) -> list[AblatedPart]:
    """All that the study's settings tell apart from the main one by a single part."""
    if main not in study.settings:
        return []
    own = study.settings[main]
    by_name: dict[str, list[AblatedPart]] = {}
    for label, specs in study.settings.items():
        if label != main and (part := _part(main, own, label, specs)) is not None:
            by_name.setdefault(part.name, []).append(part)
    # Of several settings of one stand-in, the one that shares most with the main setting.
    return [min(same, key=lambda part: len(part.unlike)) for same in by_name.values()]


def _part(
    main: str, own: Sequence[Mapping[str, Any]], label: str, specs: Sequence[Mapping[str, Any]]
) -> AblatedPart | None:
    ours, theirs = ([spec["name"] for spec in each] for each in (own, specs))
    if ours == theirs:
        fields = differing(own, specs)
        names = [f"{key} = {usual} (absent: {value})" for _, key, usual, value in fields]
        return AblatedPart(names[0], main, label) if len(names) == 1 else None
    if main == MAIN and label.partition("(")[0] in MADE_OF and len(own) == len(specs) == 1:
        shared = [key for key in own[0] if key in specs[0] and key != "name"]
        unlike = [f"{key} {own[0][key]} and {specs[0][key]}" for key in shared if own[0][key] != specs[0][key]]
        return AblatedPart(MADE_OF[label.partition("(")[0]], main, label, ", ".join(unlike))
    for more, less, present, absent in ((ours, theirs, main, label), (theirs, ours, label, main)):
        extra = [name for name in more if name not in less]
        if len(extra) == 1 and [name for name in more if name in less] == less:
            return AblatedPart(str(extra[0]), present, absent)
    return None


def effects(study: Study, main: str = MAIN) -> list[PartEffect]:
    """Of every part, in each cell in which it was both present and absent."""
    measured = []
    for part in parts(study, main):
        for _, poison, attack in [cell for cell in study.cells if cell[0] == part.present]:
            pairs = same_seeds(study.runs(part.present, poison, attack), study.runs(part.absent, poison, attack))
            if pairs:
                differences = {kind: difference(kind, pairs) for kind in get_args(Kind)}
                measured.append(PartEffect(part, poison, attack, len(pairs), differences))
    return measured


def verdicts(effects: Sequence[PartEffect], harm: str = "ASR") -> dict[str, str]:
    """Of each part by name: `stays` with what it improves and where, or `goes`; and what it costs.

    harm: what the share of harmful prompts is called.
    """
    said: dict[str, str] = {}
    for name in dict.fromkeys(effect.part.name for effect in effects):
        own = [effect for effect in effects if effect.part.name == name]
        better, worse = (_where(own, side, harm) for side in ("better", "worse"))
        said[name] = ("stays: " + better if better else "goes: no interval excludes 0 on the good side") + (
            f"; costs {worse}" if worse else ""
        )
    return said


def _where(effects: Sequence[PartEffect], side: Any, harm: str) -> str:
    named = []
    for kind, word in (("asr", harm), ("refusal", "over-refusal"), ("utility", "utility")):
        at = [f"{e.poison:g}" + (f" {e.attack}" if e.attack else "") for e in effects if kind in e.kinds(side)]
        named += [f"{word} at p = {', '.join(at)}"] if at else []
    return "; ".join(named)
