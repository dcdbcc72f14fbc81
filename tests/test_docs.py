"""The pages made from docstrings and from kept figures are up to date, and making them loads no torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unforgotten.evaluation.statistics import rates
from unforgotten.runs.result_types import Rate

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("script", ["generate", "reproduction", "readme", "evidence"])
def test_generated_pages_are_fresh_and_need_no_torch(script: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["docs/{script}.py", "--check"]
try:
    runpy.run_path("docs/{script}.py", run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def claims() -> Any:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "docs" / "claims.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["claims"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(**hits: int) -> Any:
    """Rates of so many of 1,000: 95 % intervals of about ±3 points in the middle, ±1 at the ends."""
    return lambda name, field: rates.rate(hits[name], 1000)


@pytest.mark.parametrize(
    ("low", "high", "hits", "word"),
    [
        (("der",), ("sft",), {"der": 20, "sft": 600}, "**yes**: der 2.0 (1.3–3.1) < sft 60.0"),
        (("der", "agem"), ("sft",), {"der": 20, "agem": 590, "sft": 600}, "**in order**: agem 59.0"),
        (("der",), ("sft",), {"der": 600, "sft": 590}, "**no**: der 60.0"),
        (("der",), ("sft",), {"der": 0, "sft": 0}, "**no**: der 0.0 (0.0–0.4) ≥ sft 0.0"),  # nobody is below
        (("der",), ("sft",), {"der": 600, "sft": 500}, "**clearly no**: der 60.0"),
        (("der",), ("2",), {"der": 10}, "**yes**: der 1.0 (0.5–1.8) < 2"),
        (("der",), ("2",), {"der": 15}, "**in order**: der 1.5 (0.9–2.5) < 2"),
        (("sft -2",), ("der",), {"sft": 500, "der": 490}, "**in order**: sft -2 48.0"),
    ],
)
def test_a_claim_holds_only_where_every_pair_is_in_order(
    claims: Any, low: tuple[str, ...], high: tuple[str, ...], hits: dict[str, int], word: str
) -> None:
    verdicts = claims.verdict(claims.Claim(1, "", "", "asr", low, high), figures(**hits))
    assert verdicts.startswith(word)


def test_a_memory_is_held_against_its_own_methods_larger_one(claims: Any) -> None:
    at = {"der m=1%": 31.0, "der m=5%": 30.0, "lisa m=1%": 9.0, "lisa m=5%": 8.0}
    claim = claims.Claim(5, "", "", "asr", ("lisa m=1%", "der m=1%"), ("lisa m=5% +2", "der m=5% +2"))
    verdicts = claims.verdict(claim, lambda name, field: Rate(at[name], None, None, at[name], at[name]))
    assert verdicts.startswith("**yes**"), "der's 31 is not held against lisa's 8 + 2"


def test_the_papers_own_figures_hold_where_its_text_says_so_and_not_where_they_are_odd(claims: Any) -> None:
    """Its Tables 1, 2 and 4, as printed, through the same claims."""
    asr = {
        1: {"sft": (66.0, 6.2, 46.4), "der": (0.5, 0.7, 0.5), "refresh": (0.2, 0.2, 0.0), "agem": (0.9, 1.6, 0.4),
            "ewc": (44.8, 1.6, 8.7), "lwf": (2.7, 2.1, 4.3), "magmax": (16.0, 2.2, 9.3)},
        2: {"sft": (76.7, 78.3, 86.9), "safeinstr": (5.8, 6.4, 7.2), "lisa": (1.8, 6.6, 1.2),
            "safelora": (24.4, 72.4, 35.5), "der": (2.3, 5.9, 1.7), "agem": (16.6, 15.0, 6.8), "lwf": (2.7, 2.1, 4.3)},
        4: {"sft": (1.3, 1.0, 0.9), "lisa": (18.0, 8.5, 23.5), "der": (14.4, 8.9, 16.1), "lwf": (3.0, 1.4, 2.1)},
    }  # fmt: skip
    held = {}
    for claim in claims.CLAIMS:
        if claim.table not in asr or claim.field == "utility" or "p=" in claim.low[0]:
            continue
        for task in claim.tasks:
            at = claims.TASKS.index(task)

            def figure(name: str, field: str, table: dict[str, Any] = asr[claim.table], at: int = at) -> Rate:
                value = table[name][at]
                return Rate(value, None, None, value, value)

            held[claim.says, task] = claims.verdict(claim, figure).startswith("**yes**")
    odd = {
        ("memory methods are safer than EWC, LwF and MagMax", "sentiment"),  # A-GEM and EWC: 1.6 both
        ("LwF is safer than EWC and MagMax", "sentiment"),
        ("Lisa is the safest baseline", "sentiment"),
        ("DER over-refuses less than Lisa", "sentiment"),
    }
    assert {case for case, holds in held.items() if not holds} == odd and len(held) > 20
