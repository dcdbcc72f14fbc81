"""What a part adds, by hand; and correlations against the textbook formula."""

from __future__ import annotations

import pytest

from tests.report.evidence.conftest import run, standard
from unforgotten.report.evidence.parts import effects, parts, verdicts
from unforgotten.report.evidence.recorded import EvidenceRun
from unforgotten.report.evidence.studies import Study, studies
from unforgotten.report.evidence.units import correlations

FULL = {"use": "odds", "weight": 2.0, "neighbours": 0}


def study(*settings: tuple[str, dict[str, object], tuple[int, int, int]]) -> Study:
    """Two seeds of each, alike."""
    runs = [
        run("tuned", standard(*figures), method, settings=given, seed=seed)
        for method, given, figures in settings
        for seed in (0, 1)
    ]
    # One more run of the first, so that it is the usual setting of its name.
    method, given, figures = settings[0]
    [only] = studies([*runs, run("tuned", standard(*figures), method, settings=given, seed=2)])
    return only


def test_parts_are_single_differences_from_the_method() -> None:
    only = study(
        ("guarded", FULL, (5, 10, 90)),
        ("guarded", FULL | {"neighbours": 8}, (5, 10, 90)),
        ("guarded", FULL | {"neighbours": 8, "use": "list"}, (5, 10, 90)),
        ("kl", {"weight": 16.0}, (25, 10, 90)),
        ("own_replies", {"use": "odds", "neighbours": 0}, (10, 10, 90)),
        ("guarded+ema", FULL, (5, 10, 90)),
        ("sft", {}, (60, 0, 90)),
    )
    assert [(part.name, part.present, part.absent, part.unlike) for part in parts(only)] == [
        ("neighbours = 0 (absent: 8)", "guarded", "guarded(neighbours=8)", ""),
        ("own replies", "guarded", "kl", "weight 2.0 and 16.0"),
        ("replay of the memory", "guarded", "own_replies", ""),
        ("ema", "guarded+ema", "guarded", ""),
    ]
    assert parts(study(("der", {}, (1, 1, 1)))) == []


def test_a_part_stays_where_its_interval_leaves_0_out_on_the_good_side() -> None:
    only = study(
        ("guarded", FULL, (5, 30, 90)),
        ("guarded", FULL | {"weight": 0.0}, (25, 10, 90)),
        ("own_replies", {"use": "odds", "neighbours": 0}, (6, 30, 90)),
    )
    by_part = {effect.part.name: effect for effect in effects(only)}
    weight = by_part["weight = 2.0 (absent: 0.0)"]
    asr = weight.differences["asr"]
    # 20 prompts fewer of 100, none more: Wilson's 95 % interval of 20 of 100 (a printed example: 13.3 to 28.9).
    assert asr is not None and weight.seeds == 2
    assert (asr.value, asr.low, asr.high) == pytest.approx((-20, -28.88, -13.34), abs=0.01)
    assert weight.kinds("better") == ["asr"] and weight.kinds("worse") == ["refusal"]
    said = verdicts(effects(only))
    assert said["weight = 2.0 (absent: 0.0)"] == "stays: ASR at p = 0.1; costs over-refusal at p = 0.1"
    assert said["replay of the memory"].startswith("goes: ")
    assert verdicts(effects(only), "non-refusal")["weight = 2.0 (absent: 0.0)"].startswith("stays: non-refusal at")


def drifted(i: int, asr: int, **extras: object) -> EvidenceRun:
    return run("tuned", standard(asr, 0, 90), "der", seed=i, extras=extras)


def test_correlations_are_spearmans() -> None:
    order = [10, 20, 30, 40, 60, 50]
    runs = [
        drifted(i, asr, drift={"kl_refusals": float(i), "state_lookalikes": -float(asr)}, weight=1.0)
        for i, asr in enumerate(order)
    ]
    runs.append(drifted(6, 70))  # has no drift: is not counted for it
    [only] = studies(runs)
    rows = {(c.unit.partition(" ")[0].partition("(")[0], c.rows): c for c in correlations(only)}
    kl = rows[("KL", "refusals")]
    # 1 − 6 Σd² / (n (n² − 1)) = 1 − 6 · 2 / 210.
    assert kl.runs == 6 and kl.rho is not None and kl.rho[0] == pytest.approx(1 - 12 / 210)
    assert kl.rho[1] < kl.rho[0] <= kl.rho[2]
    moved = rows[("distance", "look-alikes")]
    assert moved.rho is not None and moved.rho[0] == pytest.approx(-1)
    assert rows[("λ", "")].rho is None and rows[("λ", "")].runs == 6
    assert ("gradient", "") not in rows


def test_few_runs_are_not_correlated() -> None:
    [only] = studies([drifted(i, 10 * i, weight=float(i)) for i in range(5)])
    [weight] = correlations(only)
    assert weight.runs == 5 and weight.rho is None
