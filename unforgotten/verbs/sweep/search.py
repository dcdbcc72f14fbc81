"""The search: proposes settings, is told what came of them, and keeps both in an Optuna study on disk.

Optuna's TPE with constraints: lowest ASR within the limits. Of 20 trials on a known function with noise (three
fields of which one is a nuisance, and a choice; 60 seeds; best reachable ASR 18) it came to 33 on average, 10 random
trials first; with 6 first 35, with two objectives 33, multivariate or not the same; NSGA-II 48, random 52.

A proposal is a function of the search's seed, the trial's number and the finished trials before its batch alone: the
sampler is made anew for each. So a search that was killed proposes what it would have proposed, whatever was under way,
and the study holds finished trials only. What a killed trial had trained lies in its run's folder and is gone on from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import UnsupportedError
from unforgotten.runs.atomic import private_folder
from unforgotten.verbs.sweep.space import Place, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "sweep"
"""Name of the study in its file."""


@dataclass(frozen=True)
class Outcome:
    """What came of a setting, in percent, on the prompts that the search sees."""

    asr: float
    utility: float
    """With several tasks: the mean."""
    refusal: float | None = None
    missed: Mapping[str, float] = field(default_factory=dict)
    """By limit: the points by which the trial misses it. 0 or less if the limit holds."""

    @property
    def holds(self) -> bool:
        """All limits."""
        return all(points <= 1e-9 for points in self.missed.values())

    @property
    def shortfall(self) -> float:
        """Points missed, over all limits."""
        return sum(max(0.0, points) for points in self.missed.values())


@dataclass(frozen=True)
class Trial:
    """A setting that was tried."""

    number: int
    settings: Settings
    outcome: Outcome | None
    """None if training failed."""
    note: str = ""
    """Why training failed."""


Tried = tuple[Outcome | None, str]
Objective = Callable[[int, Sequence[Settings]], Sequence[Tried]]
"""Takes the first trial's number and settings that may run in parallel. Returns an outcome for each, or None and the
reason."""


def optuna() -> Any:
    """The package, quiet. Raises UnsupportedError where it is not installed."""
    try:
        import optuna as package
    except ImportError:
        raise UnsupportedError("`sweep` needs Optuna. Run `pip install 'unforgotten[sweep]'`.") from None
    package.logging.set_verbosity(package.logging.ERROR)
    return package


def search(
    places: Sequence[Place],
    objective: Objective,
    *,
    trials: int,
    seed: int = 0,
    jobs: int = 1,
    first: Settings | None = None,
    storage: Path | None = None,
) -> list[Trial]:
    """So many trials, in their order; those that `storage` holds are not tried again.

    first: what is tried before anything is proposed. Without storage nothing is kept.
    """
    with study(storage) as stored:
        done = finished(stored)
        while len(done) < trials:
            start = len(done) // jobs * jobs
            proposed = propose(places, done[:start], seed, jobs, first)
            # Part of a batch may be there already: its other part is proposed as if it were not.
            todo = proposed[len(done) - start : trials - start]
            for settings, (outcome, note) in zip(todo, objective(len(done), todo), strict=True):
                trial = Trial(len(done), settings, outcome, note)
                stored.add_trial(_frozen(trial, places))
                done.append(trial)
    return done[:trials]


def propose(
    places: Sequence[Place], done: Sequence[Trial], seed: int, count: int, first: Settings | None = None
) -> list[Settings]:
    """The next `count` settings after those that are done."""
    package = optuna()
    memory = package.create_study(direction="minimize")
    memory.add_trials([_frozen(trial, places) for trial in done])
    proposed: list[Settings] = []
    for number in range(len(done), len(done) + count):
        if number == 0 and first is not None:
            proposed.append(dict(first))
            memory.enqueue_trial(_known(places, first))
        else:
            proposed.append({})
        digest = hashlib.sha256(f"sweep {seed} {number}".encode()).digest()
        memory.sampler = package.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"))
        asked = memory.ask(_distributions(places))
        if not proposed[-1]:
            proposed[-1] = {p.name: p.rounded(_value(p, asked.params[p.name])) for p in places}
    return proposed


@contextmanager
def study(storage: Path | None) -> Iterator[Any]:
    """The study in a file, made on first use; its connections are closed after."""
    package = optuna()
    if storage is None:
        yield package.create_study(direction="minimize")
        return
    private_folder(storage.parent)
    # Optuna's own tools (its dashboard, say) open the file as it is.
    held = package.storages.RDBStorage(f"sqlite:///{storage.resolve()}")
    try:
        yield package.create_study(study_name=NAME, storage=held, direction="minimize", load_if_exists=True)
    finally:
        held.remove_session()
        held.engine.dispose()


def finished(stored: Any) -> list[Trial]:
    """The trials of a study that are finished, by number."""
    return [
        Trial(
            number,
            t.user_attrs["settings"],
            Outcome(**t.user_attrs["outcome"]) if t.user_attrs["outcome"] else None,
            t.user_attrs["note"],
        )
        for number, t in enumerate(t for t in stored.get_trials(deepcopy=False) if t.state.is_finished())
    ]


def best(trials: Sequence[Trial]) -> Trial | None:
    """Least ASR among those that keep the limits, then most utility, fewest refusals, the earlier one; where none keeps
    them, the one that misses them least. None where every trial broke down."""

    def rank(trial: Trial) -> tuple[float, ...]:
        outcome = trial.outcome
        assert outcome is not None
        return (
            0.0 if outcome.holds else outcome.shortfall,
            outcome.asr,
            -outcome.utility,
            outcome.refusal or 0.0,
            trial.number,
        )

    return min((t for t in trials if t.outcome), key=rank, default=None)


def importance(trials: Sequence[Trial], places: Sequence[Place], of: str) -> dict[str, float]:
    """PED-ANOVA's share of each field in whether a trial is among the best quarter, by `asr` or `utility`.

    [arXiv 2304.10255]. Empty where there are too few trials, fields or values to tell.
    """
    tried = [t for t in trials if t.outcome is not None]
    if len(tried) < 8 or len(places) < 2 or len({getattr(t.outcome, of) for t in tried}) < 3:
        return {}
    package = optuna()
    memory = package.create_study(direction="minimize")
    for trial in tried:
        assert trial.outcome is not None
        frozen = _frozen(trial, places)
        frozen.value = trial.outcome.asr if of == "asr" else -trial.outcome.utility
        memory.add_trial(frozen)
    judge = package.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return dict(package.importance.get_param_importances(memory, evaluator=judge))


def _distributions(places: Sequence[Place]) -> dict[str, Any]:
    kinds = optuna().distributions
    distributions: dict[str, Any] = {}
    for p in places:
        if p.choices:
            # By place: a value may be a list or null, which no database column holds.
            distributions[p.name] = kinds.CategoricalDistribution(range(len(p.choices)))
        elif p.whole:
            distributions[p.name] = kinds.IntDistribution(int(p.low), int(p.high), log=p.log)
        else:
            distributions[p.name] = kinds.FloatDistribution(p.low, p.high, log=p.log)
    return distributions


def _value(place: Place, known: Any) -> Any:
    return place.choices[known] if place.choices else known


def _known(places: Sequence[Place], settings: Settings) -> dict[str, Any]:
    """Settings as Optuna has them."""
    return {p.name: p.choices.index(settings[p.name]) if p.choices else settings[p.name] for p in places}


def _frozen(trial: Trial, places: Sequence[Place]) -> Any:
    package = optuna()
    outcome = trial.outcome
    state = package.trial.TrialState
    return package.trial.create_trial(
        # Pruned, not failed: TPE then keeps away from where training breaks down.
        state=state.COMPLETE if outcome else state.PRUNED,
        value=outcome.asr if outcome else None,
        params=_known(places, trial.settings),
        distributions=_distributions(places),
        constraints=dict(outcome.missed) if outcome else None,
        user_attrs={
            "settings": trial.settings,
            "outcome": asdict(outcome) if outcome else None,
            "note": trial.note,
        },
    )
