"""The contract can fail: each check catches a method that breaks it; a right method from a user's file passes all."""

from pathlib import Path

import pytest

from unforgotten import testing

OUTSIDE = Path(__file__).parent / "outside.py"


@pytest.mark.parametrize("adapter_mode", ["merge", "full"])
@pytest.mark.parametrize("check", testing.CHECKS)
def test_a_right_method_from_outside_passes(check: str, adapter_mode: testing.AdapterMode, tmp_path: Path) -> None:
    testing.CHECKS[check](f"{OUTSIDE}:Average", adapter_mode, tmp_path)


@pytest.mark.parametrize(
    ("name", "check", "said"),
    [
        ("MeanOfMeans", "split", "micro-batches of 2 differ"),
        ("MeanOfMeans", "ranks", "differs from one rank"),
        ("LocalCount", "split", "micro-batches of 2 differ"),
        ("Forgets", "resume", "== 0.0"),
        ("MovesFrozen", "neutral", "frozen weights were changed"),
        ("NeverNeutral", "neutral", "== 0.0"),
        ("DoesNothing", "effect", "> 0.0"),
        ("DoesNothing", "documented", "weight"),
    ],
)
def test_a_wrong_method_is_caught(name: str, check: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        testing.CHECKS[check](f"{OUTSIDE}:{name}", "merge", tmp_path)
    assert said in str(caught.value) or said in str(caught.traceback[-1].statement)
