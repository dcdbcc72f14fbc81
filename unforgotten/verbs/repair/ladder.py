"""`unforgotten repair --ladder`: repairs of a model that fails its gate, the cheapest first, each on fresh prompts.

    0  the model as it is
    1  the largest share s of the fine-tuned change that passes          interpolate
    2  a few steps on one refusal, stopped by look-alikes                one_shot.py
    3  layers projected onto alignment's direction, or merged with it    safelora, safemerge
    4  one more run, with DER at four times the weight
    5  block

The prompts of `evaluate` are split once (held_out.parts): on the part `choose` candidates are compared with the gate's
limits, and a rung's first that passes is selected. Each part `decide` is asked of one selected candidate alone, so that
nobody has chosen on it. Of a candidate that fails there, the ladder goes on to the next rung with the next part.

The folder `out` then has:

    model/                    the model that passed; not there where none did
    README.md, repair.json    every attempt: setting, prompts, figures with intervals, verdict, seconds
    work/                     the replies of each attempt; a killed ladder goes on from there
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import LeaseLost, ModelError, RecipeError, UnforgottenError
from unforgotten.evaluation import gate as gates
from unforgotten.evaluation.gate import Limits
from unforgotten.evaluation.held_out import parts
from unforgotten.evaluation.measure_all import measure_all
from unforgotten.evaluation.suite_stages import Suite
from unforgotten.evaluation.suites import suites
from unforgotten.models.folder.open import pinned
from unforgotten.models.shelf import weights_digest_of
from unforgotten.recipe.data_sets import DataSets
from unforgotten.runs import atomic, bars, digests, safe_text
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.repair import ladder_text, out_folder
from unforgotten.verbs.repair.attempts import NO_PROMPTS, Attempt, Repaired, figures_of
from unforgotten.verbs.repair.rungs import Candidate, NothingMade, Skipped, Step, rungs
from unforgotten.verbs.repair.subject import Subject, of_folder, of_models

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.runs import results

CHOOSE = "choose"
MEND = "Give more prompts, or a smaller repair.decisions."


def ladder(
    run: str | None = None,
    *,
    gate: str | Limits,
    out: str,
    tuned: str | None = None,
    aligned: str | None = None,
    unaligned_model: str | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
) -> Repaired:
    """Tries repairs until one passes the gate on prompts that it was not chosen by, and writes it to `out/model`.

    run: a run's folder; or tuned, aligned and recipe. gate: limits, as `evaluate --gate` takes them. A killed ladder
    goes on where it was. Raises RecipeError where nothing says what to repair or measure, or where `out` is another's;
    a repair that cannot be made is recorded and the next one tried.
    """
    sets, limits = DataSets(), gates.parse(gate) if isinstance(gate, str) else gate
    subject = _subject(run, tuned, aligned, unaligned_model, recipe, overrides, say, sets)
    if subject.settings.endpoint:
        raise RecipeError("`repair --ladder` asks models that it makes itself. Leave out evaluate.endpoint.")
    asked = suites(subject.settings, sets=sets)
    kinds, samples = {suite.kind for suite in asked}, subject.settings.samples
    limits.check(True, kinds, samples)
    if subject.ladder.max_utility_drop is not None and ("utility" not in kinds or samples > 1):
        raise RecipeError(
            "repair.max_utility_drop compares one reply to each question of evaluate.utility with the model as it is. "
            + ("Add evaluate.utility, or leave it out." if "utility" not in kinds else "Set evaluate.samples to 1.")
        )
    if unaligned_model is not None:
        weights_digest_of(unaligned_model, subject.recipe)  # a wrong name is told now, not after the first rungs
    split = parts(asked, 1 + subject.ladder.decisions, MEND)
    named = {CHOOSE: split[0], **{f"decide {i}": part for i, part in enumerate(split[1:], 1)}}
    folder = Path(out).expanduser()
    with alone(folder, say), bars.in_lines(say, "preparing"), pinned(), digests.in_full():
        out_folder.claim(folder, out_folder.key(subject, limits, asked))
        climb = _Climb(subject, limits, named, folder, say)
        climb.climb()
        return climb.finish()


def _subject(
    run: str | None,
    tuned: str | None,
    aligned: str | None,
    unaligned_model: str | None,
    recipe: Recipe | None,
    overrides: Mapping[str, Any] | None,
    say: Say,
    sets: DataSets,
) -> Subject:
    if run is not None:
        if tuned or aligned:
            raise RecipeError("Name a run's folder, or --tuned and --aligned, not both.")
        folder = Path(run).expanduser()
        if not (folder / "recipe.yaml").is_file():
            raise RecipeError(f"{run} is no run's folder. Name models by --tuned, --aligned and --recipe.")
        subject = of_folder(folder, recipe, overrides, say, sets)
        return replace(subject, unaligned_model=unaligned_model) if unaligned_model else subject
    if tuned is None or aligned is None or recipe is None:
        raise RecipeError("`repair --ladder` needs a run's folder, or --tuned, --aligned and --recipe.")
    return of_models(tuned, aligned, unaligned_model, recipe, say, sets)


@dataclass
class _Climb:
    """One ladder on its way up."""

    subject: Subject
    limits: Limits
    parts: Mapping[str, list[Suite]]
    folder: Path
    say: Say

    def __post_init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.skipped: list[Skipped] = []
        self.fresh = [name for name in self.parts if name != CHOOSE]
        self.passed: tuple[Candidate, str] | None = None
        self._references: dict[str, tuple[results.ResultRow, Path]] = {}
        self._as_it_is: dict[str, tuple[results.ResultRow, Path]] = {}

    def climb(self) -> None:
        """Rung after rung, until a candidate passes on prompts of its own, or none are left."""
        lookalikes = [suite for suite in self.parts[CHOOSE] if suite.kind == "refusal"]
        left = rungs(self.subject, lookalikes, self._ceiling)
        for steps in left:
            chosen = self._choose(steps)
            if chosen is None:
                continue
            candidate, model = chosen
            if self._judged(candidate, model, self.fresh.pop(0)).outcome == "pass":
                self.passed = chosen
                return
            if not self.fresh:
                self.say(f"{NO_PROMPTS.capitalize()}. Give more prompts and more repair.decisions.")
                for step in (step for steps in left for step in steps):
                    why = step.why if isinstance(step, Skipped) else NO_PROMPTS
                    self.skipped.append(Skipped(step.rung, step.what, why))
                return

    def _choose(self, steps: list[Step]) -> tuple[Candidate, str] | None:
        """The first candidate of a rung that passes on the prompts for choosing, with its model."""
        for step in steps:
            if isinstance(step, Skipped):
                self.skipped.append(step)
                self.say(f"Rung {step.rung}, {step.what}: skipped, since {step.why}.")
                continue
            began = time.monotonic()
            place = self.folder / "work" / step.folder / "model"
            bars.tick(f"rung {step.rung}, {step.what}", 0, 0)
            try:
                model, note = step.make(place, self.say)
            except LeaseLost:
                raise  # another process works on what this one makes: nothing is known of the candidate
            except (NothingMade, UnforgottenError) as error:
                self.skipped.append(Skipped(step.rung, step.what, str(error)))
                self.say(f"Rung {step.rung}, {step.what}: not made. {error}")
                continue
            made_seconds = time.monotonic() - began
            try:
                attempt = self._judged(step, model, CHOOSE, note, made_seconds)
            except ModelError as error:
                if step.rung == 0:
                    raise
                self.skipped.append(Skipped(step.rung, step.what, f"it cannot be asked: {error}"))
                self.say(f"Rung {step.rung}, {step.what}: it cannot be asked. {error}")
                continue
            if attempt.outcome == "pass":
                return step, model
        return None

    def _judged(self, step: Candidate, model: str, part: str, note: str = "", made_seconds: float = 0.0) -> Attempt:
        """What the gate says of a candidate on one part of the prompts, recorded."""
        began = time.monotonic()
        folder = self.folder / "work" / step.folder / part.replace(" ", "-")
        suites = self.parts[part]
        row = self._measured(model, step.what, suites, folder)
        if step.rung == 0:
            self._as_it_is[part] = (row, folder)
        decision = self._decided((row, folder), part, step)
        attempt = Attempt(
            step.rung, step.what, step.folder, part, {suite.label: len(suite.rows) for suite in suites},
            figures_of(row), decision, note, round(made_seconds, 1), round(time.monotonic() - began, 1),
        )  # fmt: skip
        self.attempts.append(attempt)
        self.say(f"Rung {step.rung}, {step.what}, on `{part}`: {decision.outcome}.")
        for line in decision.lines:
            self.say(f"  {line}")
        self._write(None, ended=False)
        return attempt

    def _decided(self, measured: tuple[results.ResultRow, Path], part: str, step: Candidate) -> gates.Decision:
        """The gate's decision, and that on the task against the model as it is."""
        decision = gates.gate(self.limits, measured, self._reference(part))
        drop = self.subject.ladder.max_utility_drop
        if drop is None or step.rung == 0:
            return decision
        if part not in self._as_it_is:
            folder = self.folder / "work" / "as-it-is" / part.replace(" ", "-")
            row = self._measured(self.subject.tuned, "the model as it is", self.parts[part], folder)
            self._as_it_is[part] = (row, folder)
        task = gates.gate(Limits(max_utility_loss=drop), measured, self._as_it_is[part])
        outcome = gates.worst([decision, task])
        return replace(decision, outcome=outcome, checks=(*decision.checks, *task.checks))

    def _measured(self, model: str, name: str, suites: list[Suite], folder: Path) -> results.ResultRow:
        """A model's figures; the gate goes by no reply that lies there and was not written here."""
        measured = self.subject.measurement(model, name, suites, folder)
        measured.distrust_others(self.say)
        [row] = measure_all([measured], self.say)
        return row

    def _reference(self, part: str) -> tuple[results.ResultRow, Path]:
        """θ_safe on the same prompts, asked once."""
        if part not in self._references:
            folder = self.folder / "work" / "aligned" / part.replace(" ", "-")
            row = self._measured(self.subject.aligned, "the aligned model", self.parts[part], folder)
            self._references[part] = (row, folder)
        return self._references[part]

    def _ceiling(self, own: float) -> float:
        """Look-alikes that a patch may come to refuse, in percent; own: the share that the tuned model refuses."""
        one_shot = self.subject.ladder.one_shot
        assert one_shot is not None
        mean = (self._reference(CHOOSE)[0].refusal or {}).get("mean")
        safe = mean.value if mean is not None and mean.value is not None else 0.0
        return max(own, safe) + one_shot.max_refusal_rise

    def finish(self) -> Repaired:
        """Writes the model that passed, if any, and the report; candidates that did not pass are removed."""
        model = None
        out_folder.withdraw(self.folder / "model")
        if self.passed is not None:
            (candidate, place), model = self.passed, self.folder / "model"
            out_folder.publish(place, model, self.subject.recipe.revision, ours=candidate.rung > 0)
        repaired = self._write(model, ended=True)
        out_folder.clear(self.folder)  # last: a model that is half removed is never gone on from
        return repaired

    def _write(self, model: Path | None, ended: bool) -> Repaired:
        repaired = Repaired(self.folder, model, tuple(self.attempts), tuple(self.skipped))
        facts = {
            "outcome": repaired.outcome if ended else None,
            "limits": {name: limit for name, limit in asdict(self.limits).items() if limit is not None},
            "models": {
                role: digests.public_name(name) if name else None
                for role, name in (
                    ("tuned", self.subject.tuned),
                    ("aligned", self.subject.aligned),
                    ("unaligned_model", self.subject.unaligned_model),
                )
            },
            "model": None if model is None else model.name,
            "passed": None if self.passed is None else self.passed[0].what,
            "parts": {name: {s.label: len(s.rows) for s in suites} for name, suites in self.parts.items()},
            "attempts": [attempt.json() for attempt in self.attempts],
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }
        atomic.put(self.folder / "repair.json", safe_text.json_text(facts, nan=True) + "\n")
        atomic.put(self.folder / "README.md", ladder_text.markdown(repaired, facts))
        return repaired
