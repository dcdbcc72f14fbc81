"""A planted setting is found, limits are kept to, and a search that was killed goes on as if it had not been."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

pytest.importorskip("optuna")

from unforgotten.verbs.sweep.search import Outcome, Trial, Tried, best, finished, importance, propose, search, study
from unforgotten.verbs.sweep.space import Place, Settings

WEIGHT = Place("weight", 0, "weight", 1.0, low=0.01, high=1000, log=True)
NUISANCE = Place("nuisance", 0, "nuisance", 0.5, low=0.0, high=1.0)
WHERE = Place("where", 0, "where", "all", choices=("all", "last", None))
SPACE = [WEIGHT, NUISANCE, WHERE]
FIRST: Settings = {"weight": 1.0, "nuisance": 0.5, "where": "all"}


def planted(settings: Settings) -> Outcome:
    """Safer with weight; above 30 the task pays for it, and at `last` half as much is answered. Best: 30 at last."""
    push = math.log10(settings["weight"])
    asr = 80 / (1 + math.exp(2 * push)) * (0.5 if settings["where"] == "last" else 1.0)
    utility = 95 - 20 * max(0.0, push - math.log10(30)) ** 2
    return Outcome(asr, utility, None, {"utility": 93 - utility})


def objective(number: int, tried: Sequence[Settings]) -> list[Tried]:
    return [(planted(settings), "") for settings in tried]


EDGE = math.log10(30) + math.sqrt(2 / 20)
"""Where utility is 93: the best that can be reached stands there."""
LEAST = 40 / (1 + math.exp(2 * EDGE))


def by_chance(seed: int, trials: int) -> float:
    """What as many random settings find."""
    chance = random.Random(seed)
    drawn = [FIRST] + [
        {"weight": 10 ** chance.uniform(-2, 3), "nuisance": chance.random(), "where": chance.choice(WHERE.choices)}
        for _ in range(trials - 1)
    ]
    return min(item.asr for item in map(planted, drawn) if item.holds)


def test_a_planted_setting_is_found_and_sooner_than_by_chance() -> None:
    seen = []
    for seed in range(8):
        chosen = best(search(SPACE, objective, trials=30, seed=seed, first=FIRST))
        assert chosen and chosen.outcome and chosen.outcome.holds
        seen.append(chosen.outcome.asr)
    assert sum(asr < LEAST + 2 for asr in seen) >= 7, f"{LEAST:.1f} can be reached, found {seen}"
    assert fmean(seen) < fmean(by_chance(seed, 30) for seed in range(8))


def test_the_choice_keeps_the_limits_whatever_lies_beyond_them() -> None:
    trials = search(SPACE, objective, trials=15, seed=3, first=FIRST)
    beyond = [t.outcome for t in trials if t.outcome and not t.outcome.holds]
    chosen = best(trials)
    assert chosen and chosen.outcome and chosen.outcome.holds
    assert min(o.asr for o in beyond) < chosen.outcome.asr, "safer ones were there, at the price of the task"
    # Where nothing holds, the nearest; a trial that broke down never.
    none = [Trial(i, {}, Outcome(10 * i, 50, None, {"utility": 5.0 - i, "refusal": 2})) for i in range(3)]
    nearest = best([*none, Trial(3, {}, None, "NaN")])
    assert nearest and nearest.number == 2
    assert best([Trial(0, {}, None, "NaN")]) is None
    alike = [Trial(i, {}, Outcome(5, utility, 1)) for i, utility in enumerate((90, 91, 91))]
    assert best(alike) is alike[1], "of equal ASR the more useful, of those the earlier"


def test_every_proposal_lies_in_its_place_and_can_be_typed() -> None:
    whole = Place("layers", 0, "layers", 3, low=1, high=40, log=True, whole=True)
    mixed = Place("list", 0, "list", [1], choices=([1], [1, 2], None))
    space = [*SPACE, whole, mixed]
    tried = [t.settings for t in search(space, objective, trials=25)] + propose(space, [], 0, 60)
    for settings in tried:
        assert WEIGHT.holds(settings["weight"]) and len(f"{settings['weight']:.15g}".strip("0").replace(".", "")) <= 5
        assert isinstance(settings["layers"], int) and 1 <= settings["layers"] <= 40
        assert settings["where"] in WHERE.choices and settings["list"] in mixed.choices
    assert {str(s["list"]) for s in tried} == {"[1]", "[1, 2]", "None"}


@pytest.mark.parametrize("jobs", [1, 3])
def test_more_trials_are_the_same_search(tmp_path: Path, jobs: int) -> None:
    whole = [t.settings for t in search(SPACE, objective, trials=13, seed=5, jobs=jobs, first=FIRST)]
    file = tmp_path / "sweep.db"
    for trials in (2, 5, 13):
        part = search(SPACE, objective, trials=trials, seed=5, jobs=jobs, first=FIRST, storage=file)
        assert [t.settings for t in part] == whole[:trials]
    assert (
        search(SPACE, lambda n, s: pytest.fail("all is there"), trials=13, jobs=jobs, storage=file)[0].settings == FIRST
    )
    assert [t.settings for t in search(SPACE, objective, trials=13, seed=6, jobs=jobs)] != whole


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.verbs.sweep.test_search import FIRST, SPACE, planted
from unforgotten.verbs.sweep.search import search

def objective(first, tried):
    for i, settings in enumerate(tried, first):
        if i == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield planted(settings), ""

search(SPACE, objective, trials=14, seed=1, jobs=int(sys.argv[3]), first=FIRST, storage=Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("jobs", "at"), [(1, 11), (4, 10)])
def test_a_search_that_was_killed_proposes_what_it_would_have(tmp_path: Path, jobs: int, at: int) -> None:
    """In the middle of a batch too, part of which is then in the file."""
    file = tmp_path / "sweep.db"
    root = Path(__file__).parents[3]
    died = subprocess.run([sys.executable, "-c", KILLED, file, str(at), str(jobs)], cwd=root, timeout=120)
    assert died.returncode == -9
    with study(file) as kept:
        assert len(finished(kept)) == at
    resumed = search(SPACE, objective, trials=14, seed=1, jobs=jobs, first=FIRST, storage=file)
    whole = search(SPACE, objective, trials=14, seed=1, jobs=jobs, first=FIRST)
    assert resumed == whole


def test_the_file_is_a_study_that_optuna_reads(tmp_path: Path) -> None:
    import optuna

    file = tmp_path / "sweep.db"
    search(SPACE, objective, trials=4, storage=file, first=FIRST)
    read = optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}")
    assert [t.value for t in read.trials] == [planted(t.user_attrs["settings"]).asr for t in read.trials]
    assert read.trials[0].params["weight"] == 1.0
    assert [t.constraints["utility"] <= 0 for t in read.trials] == [
        planted(t.user_attrs["settings"]).holds for t in read.trials
    ]


def test_a_trial_that_broke_down_is_told_and_kept_away_from(tmp_path: Path) -> None:
    def fails(number: int, tried: Sequence[Settings]) -> list[Tried]:
        return [(None, "NaN") if s["nuisance"] > 0.5 else (planted(s), "") for s in tried]

    runs = [
        search(SPACE, fails, trials=40, seed=seed, first=FIRST, storage=tmp_path / f"{seed}.db") for seed in range(3)
    ]
    late = [t for trials in runs for t in trials[20:]]
    assert sum(t.outcome is None for t in late) <= 20, "by chance half of the 60 would"
    assert {t.note for trials in runs for t in trials if t.outcome is None} == {"NaN"}
    again = search(SPACE, lambda n, s: pytest.fail("all is there"), trials=40, storage=tmp_path / "0.db")
    assert again == runs[0]


def test_what_matters_is_told_from_what_does_not() -> None:
    trials = search(SPACE, objective, trials=40, seed=2)
    shares = importance(trials, SPACE, "utility")
    assert max(shares, key=shares.__getitem__) == "weight" and math.isclose(sum(shares.values()), 1)
    shares = importance(trials, SPACE, "asr")
    assert shares["nuisance"] < shares["weight"]
    assert importance(trials[:5], SPACE, "asr") == {}, "too few to tell"


def test_a_proposal_hangs_on_seed_number_and_what_is_done_alone() -> None:
    done = search(SPACE, objective, trials=12, seed=0)
    [one], [again] = propose(SPACE, done, 0, 1), propose(SPACE, done, 0, 1)
    assert one == again == propose(SPACE, done, 0, 3)[0]
    seen = [json.dumps(propose(SPACE, done[:n], seed, 1)) for seed, n in itertools.product((0, 1), (0, 3, 12))]
    assert len(set(seen)) == 6
