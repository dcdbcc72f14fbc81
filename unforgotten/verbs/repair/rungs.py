"""The rungs of a ladder, the cheapest first, and the candidates that each can make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.errors import UnforgottenError
from unforgotten.models.shelf import part_of
from unforgotten.recipe.data_sets import safety_rows
from unforgotten.runs import digests
from unforgotten.runs.progress import Say
from unforgotten.verbs.repair.one_shot import NO_REFUSAL, generic_refusal, patch
from unforgotten.verbs.repair.repair import repair

if TYPE_CHECKING:
    from unforgotten.evaluation.suite_stages import Suite
    from unforgotten.recipe.base import Spec
    from unforgotten.verbs.repair.subject import Subject


class NothingMade(Exception):
    """A candidate came to no model; says why."""


@dataclass(frozen=True)
class Candidate:
    """A model that a rung can make."""

    rung: int
    what: str
    """`interpolate, s 0.75`."""
    spec: Any
    """All that makes it: what is read of it may be rounded."""
    make: Callable[[Path, Say], tuple[str, str]]
    """Makes it in a folder unless it is there; gives the model's folder, and what is to be said of it.

    Raises NothingMade, or an error of a user's, which is recorded as well.
    """

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and apart from all others."""
        return f"{self.rung}-{digests.digest(self.spec)}"


@dataclass(frozen=True)
class Skipped:
    """A rung, or a candidate of one, that cannot be tried."""

    rung: int
    what: str
    why: str


Step = Candidate | Skipped
DERS = ("der", "derpp")
RUNGS = ("as it is", "a share of the change", "one-shot patch", "edits of layers", "one more run")


def rungs(subject: Subject, lookalikes: Sequence[Suite], ceiling: Callable[[float], float]) -> Iterator[list[Step]]:
    """Each rung's steps, in the order in which they are tried. lookalikes: for the early stop of the patch."""
    yield [Candidate(0, "the model as it is", None, lambda folder, say: (subject.tuned, ""))]
    yield _scaled(subject)
    yield _patches(subject, lookalikes, ceiling)
    yield _edits(subject)
    yield _last_run(subject)


def _scaled(subject: Subject) -> list[Step]:
    if not subject.ladder.scales:
        return [Skipped(1, RUNGS[1], "repair.scales is empty")]
    specs = [{"name": "interpolate", "scale": scale} for scale in subject.ladder.scales]
    return [Candidate(1, f"interpolate, s {_value(spec['scale'])}", spec, _edited(subject, spec)) for spec in specs]


def _edited(subject: Subject, spec: dict[str, Any]) -> Callable[[Path, Say], tuple[str, str]]:
    reads = registry.build("methods", spec).needs_unaligned_model

    def make(folder: Path, say: Say) -> tuple[str, str]:
        if not folder.exists():
            repair(
                spec,
                unaligned_model=subject.unaligned_model if reads else None,
                aligned=subject.aligned,
                tuned=subject.tuned,
                out=str(folder),
            )
        facts = json.loads((folder / "repair.json").read_text(encoding="utf-8"))
        if not facts["edited"]:
            raise NothingMade("it changed no weight")
        return str(folder), f"edited {facts['edited']} of {facts['of']}"

    return make


def _patches(subject: Subject, lookalikes: Sequence[Suite], ceiling: Callable[[float], float]) -> list[Step]:
    one_shot = subject.ladder.one_shot
    if one_shot is None:
        return [Skipped(2, RUNGS[2], "repair.one_shot is null")]
    if not lookalikes:
        return [Skipped(2, RUNGS[2], "evaluate.refusal names no look-alikes, which would stop it in time")]
    from unforgotten.evaluation.suites import suites

    prompts = [row.request for suite in suites(subject.settings, sets=subject.sets) for row in suite.rows]
    try:
        safety = safety_rows(subject.recipe, subject.sets).rows
    except UnforgottenError as error:
        return [Skipped(2, RUNGS[2], f"`safety_data` cannot be read: {error}")]
    row = generic_refusal(safety, prompts)
    if row is None:
        return [Skipped(2, RUNGS[2], NO_REFUSAL)]

    def step(rate: float) -> Candidate:
        def make(folder: Path, say: Say) -> tuple[str, str]:
            note = folder.with_suffix(".note")
            if not folder.exists():
                done = patch(
                    subject.tuned,
                    row,
                    rate,
                    one_shot,
                    lookalikes,
                    ceiling,
                    subject.settings,
                    subject.recipe.seed,
                    folder,
                    say,
                )
                if not done.steps:
                    raise NothingMade(done.note)
                note.write_text(done.note, encoding="utf-8")
            return str(folder), note.read_text(encoding="utf-8") if note.exists() else ""

        return Candidate(2, f"one-shot patch, learning rate {_value(rate)}", ["one-shot", rate], make)

    return [step(rate) for rate in one_shot.learning_rates]


def _edits(subject: Subject) -> list[Step]:
    steps: list[Step] = []
    for spec in subject.ladder.edits:
        settings = {"name": spec} if isinstance(spec, str) else dict(spec)
        if registry.build("methods", settings).needs_unaligned_model and subject.unaligned_model is None:
            why = "it reads θ₀, the model before alignment, and nothing says where that is (--unaligned-model)"
            steps.append(Skipped(3, in_words(settings), why))
        else:
            steps.append(Candidate(3, in_words(settings), settings, _edited(subject, settings)))
    if not steps:
        steps.append(Skipped(3, "safelora", "repair.edits is empty"))
    if not any(step.what.startswith("safemerge") for step in steps):
        why = "no safety adapter is named: repair.edits can have {name: safemerge, safety_adapter: …}"
        steps.append(Skipped(3, "safemerge", why))
    return steps


def _last_run(subject: Subject) -> list[Step]:
    ladder, recipe = subject.ladder, subject.recipe
    if not ladder.retrains:
        return [Skipped(4, RUNGS[4], "repair.retrains is false")]
    if recipe.data is None:
        return [Skipped(4, RUNGS[4], "the recipe has no `data`, so there is nothing to train on")]
    if recipe.replay == "safety_data" and not recipe.safety_data:
        return [Skipped(4, RUNGS[4], "the recipe has no `safety_data` to replay")]
    methods = stronger(recipe.methods, ladder.factor) if ladder.retrain is None else ladder.retrain
    listed = methods if isinstance(methods, list) else [methods]

    def make(folder: Path, say: Say) -> tuple[str, str]:
        from unforgotten.verbs.finetune.finetune import train

        again = recipe.varied(method=methods, settings={}, probe=None, compare=None, sweep=None, repair=None)
        job = train(again, say, sets=subject.sets)
        return str(part_of(job.folder)), f"run {job.folder.name}"

    what = " and ".join(in_words({"name": m} if isinstance(m, str) else m) for m in listed)
    return [Candidate(4, f"a run with {what}", listed, make)]


def stronger(methods: Sequence[Spec], factor: float) -> list[Spec]:
    """The same methods with DER's weight multiplied; DER alone, at a multiple of its default, where there is no DER.

    A weight of 0 is no DER. Where the weight is `auto`, what it finds its size by is made stricter by the factor.
    """
    built = [registry.spec_of(registry.build("methods", spec)) for spec in methods]
    if not any(spec["name"] in DERS and spec["weight"] for spec in built):
        built = [registry.spec_of(registry.build("methods", "der"))]
    return [_stronger(spec, factor) if spec["name"] in DERS else spec for spec in built]


def _stronger(spec: dict[str, Any], factor: float) -> dict[str, Any]:
    if spec["weight"] != "auto":
        return {**spec, "weight": spec["weight"] * factor}
    if spec["auto"] == "ratio":
        return {**spec, "ratio": spec["ratio"] * factor}
    return {**spec, "hold": spec["hold"] / factor}


def in_words(spec: dict[str, Any]) -> str:
    """`safelora, layers 5`: a method and the fields that are set."""
    defaults = registry.spec_of(type(built)()) if (built := registry.build("methods", spec)) and _bare(built) else {}
    fields = {k: v for k, v in spec.items() if k != "name" and defaults.get(k, object()) != v}
    return ", ".join([str(spec["name"]), *(f"{k} {_value(v)}" for k, v in fields.items())])


def _bare(method: Any) -> bool:
    """Can it be built without any field?"""
    try:
        type(method)()
    except UnforgottenError:
        return False
    return True


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(digests.public_name(value)) if isinstance(value, str) else str(value)
