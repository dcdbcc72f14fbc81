"""One model's measurement: asked first, judged later, so no tuned model shares the memory with a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.errors import DataError
from unforgotten.evaluation import probe, reference_solutions, reply_files
from unforgotten.evaluation.ask import answered, ask, read_asked
from unforgotten.evaluation.judging import Panel, asked, check
from unforgotten.evaluation.reply_flags import task_answers_of
from unforgotten.evaluation.responder import Model
from unforgotten.evaluation.scores import differing, figures, unread
from unforgotten.evaluation.sealed import KEPT, forget, forget_comparisons, sealed
from unforgotten.evaluation.suite_stages import Judged, Suite
from unforgotten.evaluation.suites import settings_digest, wanted_of
from unforgotten.models.shelf import Shelf
from unforgotten.runs import results, trust
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.runs.result_types import ModelDigests, TemplateFacts

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.evaluation.sandbox import Sandbox
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe


@dataclass
class TrainedOn:
    """The rows that a model was trained on, as far as they are known here."""

    sets: dict[str, Sequence[Row]]
    task: Sequence[Row] = ()
    """The user's own, without harmful ones put among them."""


@dataclass
class Measurement:
    """One model, asked first and judged later."""

    name: str
    folder: Path
    settings: Evaluate
    suites: list[Suite]
    weights_digest: str
    """A digest: figures of other weights in the same folder are not taken for these."""
    model: Callable[[Shelf, Say], Model]
    facts: Callable[[], results.ResultRow]
    """What the row says beside what replies tell."""
    trained: Callable[[], TrainedOn | None]
    """None where the rows that the model was trained on are unknown."""
    task: str | None = None
    recipe: Recipe | None = None
    """What it comes from, for others to be measured alike."""
    system: str = ""
    card: Callable[[results.ResultRow], None] | None = None
    """Writes the model's card with the row's figures."""
    row: results.ResultRow | None = field(default=None)
    """Set where it is measured already."""
    called: str | None = None
    """The name in tables of a model that was asked by itself; the same weights may lie in folders of other names."""

    def __post_init__(self) -> None:
        self.digest = settings_digest(self.settings, self.suites, self.system)
        self._moved = self._distrusted = self._gated = False
        self.panel = Panel(self.settings.judges)
        self._judges = self.panel.specs()
        self.panel.check(s.kind for s in self.suites)
        if any(s.kind != "utility" for s in self.suites):
            wanted_of(self.settings, self.system)
        self._look()

    def move(self, folder: Path) -> None:
        """Keeps this measurement elsewhere than in the run's own folder."""
        self.folder, self.card, self._moved = folder, None, True
        self._look()

    def distrust(self) -> None:
        """Nothing that lies in the folder counts: its replies, verdicts and figures may be whatever its maker wrote."""
        self.row, self._distrusted = None, True

    def distrust_others(self, say: Say = quiet) -> None:
        """For a gate: replies, verdicts and figures that this user did not write, or not so, do not count."""
        self._gated = True
        if not self._distrusted and not trust.is_sealed(self.folder, *KEPT):
            say(
                f"{self.folder} holds replies or figures that were not written here. They are put aside, and the model "
                "is asked again."
            )
            self.distrust()

    def _look(self) -> None:
        """Reads the row, where this very measurement is finished already."""
        if self._distrusted:
            return
        try:
            [row] = results.read(self.folder / "results.json")
        except (DataError, ValueError):
            return
        ours = (row.digests.settings, row.digests.weights, row.judges) if row.digests else None
        if ours == (self.digest, self.weights_digest, self._judges) and read_asked(self.folder, self.digest):
            self.row = replace(row, task=self.task)  # θ_safe is measured once for every task

    def ask(self, shelf: Shelf | None = None, say: Say = quiet) -> None:
        """Makes the replies that are missing."""
        if self.row is not None:
            return
        sandbox = self._sandbox()  # opened before any reply is made: where nothing confines, nothing is asked
        with alone(self.folder, say) as lease:
            self._look()  # another process may have measured it meanwhile
            if self.row is None:
                with sealed(self.folder) as seal:
                    self._check(sandbox, say)
                    model = self.model(shelf or Shelf(), say)
                    if self._distrusted:
                        forget(self.folder)
                        seal.ours = True
                    self._ask(model, lease, say)

    def _check(self, sandbox: Sandbox | None, say: Say) -> None:
        """Checks tasks and judges. A missing judge is an error now, not after all replies are made."""
        from unforgotten.runs.bars import phase, progress_bar

        phase("reading the prompts and the judges")
        if sandbox is not None:
            with progress_bar() as bar:
                reference_solutions.check(self.suites, sandbox, bar)
        for note in _of_files(self.suites):
            say(f"Note: {note}")
        self.panel.prepare([row for s in self.suites if s.kind != "utility" for row in s.rows])

    def _ask(self, model: Model, lease: Lease, say: Say) -> None:
        from unforgotten.runs.bars import phase, progress_bar

        with progress_bar() as bar:
            phase(f"loading {self.name}")

            def watched(what: str, done: int, n: int) -> None:
                lease.watch()
                bar(what, done, n)

            ask(
                model,
                self.suites,
                self.settings,
                self.folder,
                self.digest,
                system=self.system,
                progress=watched,
                begins=lambda n: say(f"Asking {self.name} {n} prompts."),
            )

    def judge(self, say: Say = quiet) -> results.ResultRow:
        """Scores and judges the replies, and writes them back with their verdicts, then the row. Needs the replies."""
        if self.row is None:
            with alone(self.folder, say) as lease, sealed(self.folder) as seal:
                if self._gated and not seal.ours:
                    raise DataError(f"{self.folder}: its replies were changed after they were made. Evaluate again.")
                self._look()
                if self.row is None:
                    self.row = self._judge(lease)
        return self.row

    def _judge(self, lease: Lease) -> results.ResultRow:
        from unforgotten.runs.bars import phase, progress_bar

        phase(f"judging {self.name}")
        panel = self.panel
        suites, facts = answered(self.folder, self.suites, self.digest, self.weights_digest)
        sandbox = self._sandbox()
        trained = self.trained()
        sets = {name: list(asked(rows)) for name, rows in (trained.sets if trained else {}).items()}
        task = task_answers_of(trained.task if trained else [])
        tasks = [s.dataset.is_answer for s in suites if s.kind == "utility" and s.dataset] + ([task] if task else [])
        with progress_bar() as bar:
            judged_suites = [
                panel.judge(check(suite, trained=sets, tasks=tasks, sandbox=sandbox, progress=bar), self.folder, bar)
                for suite in suites
            ]
        row, answered_by = self.facts(), {name: facts[name] for name in ("weights", "loaded", "prompts")}
        lease.check()  # what follows writes
        row = replace(
            judged(row, judged_suites, panel, self.folder, bool(trained and trained.sets)),
            task=self.task,
            run=f"{self.folder.parent.name}/{self.folder.name}" if self._moved else row.run,
            template=TemplateFacts(**facts["template"]),
            decoding=facts["decoding"],
            sandbox=sandbox.facts() if sandbox else None,
            digests=replace(row.digests or ModelDigests(), **answered_by, settings=self.digest),
            notes=(*(row.notes or ()), *facts["notes"], *_of_files(self.suites), *unread(suites)),
            probe=probe.read_again(self.folder, panel),
        )
        if self.card:
            self.card(row)
        forget_comparisons(self.folder)
        results.write(self.folder / "results.json", [row])
        return row

    def _sandbox(self) -> Sandbox | None:
        """What runs replies, where a task is checked so. Raises SandboxError where nothing here confines."""
        if not any(suite.dataset is not None and suite.dataset.executes for suite in self.suites):
            return None
        from unforgotten.evaluation.sandbox import open_sandbox

        return open_sandbox()


def _of_files(suites: Sequence[Suite]) -> list[str]:
    """How the suites' files were read, where that could surprise."""
    return list(dict.fromkeys(note for suite in suites if suite.dataset for note in suite.dataset.notes))


def judged(
    row: results.ResultRow, suites: Sequence[Judged], panel: Panel, folder: Path, known: bool
) -> results.ResultRow:
    """The row with what judges decide; the verdicts, and where they differ, are written beside the replies.

    known: are the rows known that the model was trained on?
    """
    for suite in suites:
        reply_files.write(reply_files.path(folder, suite), reply_files.checked(suite))
    apart = folder / "disagreements.jsonl"
    if len(panel.judges) > 1:
        reply_files.write(apart, differing(suites, panel))
    else:
        apart.unlink(missing_ok=True)
    return figures(row, suites, panel, known)
