"""Every method on tiny models of every family: trained, Fisher by brute force, saved and read back, neutral as SFT.

Minutes: `make test-families`, which also writes docs/families.md. A set-up that is refused must be refused before the
first step, by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.methods.architectures import METHODS, neutral_is_sft, tried
from tests.training.families import FAMILIES
from unforgotten import registry
from unforgotten.report.table import prose, table_of
from unforgotten.report.writers import markdown

pytestmark = pytest.mark.slow

SET_UPS = [("merge", "all-linear"), ("stack", "attention"), ("continue", "all-linear"), ("full", "")]
NAMES = ["LoRA on all linear layers", "LoRA on attention, on a LoRA", "the aligned LoRA trained on", "all weights"]
NO_ADAPTER = {"mamba"}
"""Families on which PEFT puts no LoRA by these targets."""

FOUND: dict[str, dict[tuple[str, str], dict[str, str]]] = {}


@pytest.fixture(scope="module", autouse=True)
def _page() -> Iterator[None]:
    yield
    if target := os.environ.get("FAMILIES_PAGE"):
        Path(target).write_text(page(), encoding="utf-8")


@pytest.mark.parametrize("set_up", SET_UPS, ids="-".join)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_on_a_family(name: str, set_up: tuple[str, str], tmp_path: Path) -> None:
    adapter_mode, targets = set_up
    if name in NO_ADAPTER and adapter_mode != "full":
        pytest.skip("PEFT refuses these targets on this family")
    outcomes, wrong = {}, []
    for method in METHODS:
        try:
            outcomes[method] = tried(name, adapter_mode, targets, method, tmp_path / method.replace(" ", "-"))
            plain = " " not in method and registry.load("methods", method).neutral
            if outcomes[method] == "ok" and plain and adapter_mode in ("merge", "full"):
                neutral_is_sft(name, adapter_mode, targets, method, tmp_path / method)
        except Exception as error:
            wrong.append(f"{method}: {type(error).__name__}: {str(error)[:400]}")
    FOUND.setdefault(name, {})[set_up] = outcomes
    assert not wrong, "\n".join(wrong)


def page() -> str:
    """What docs/families.md says."""
    lines = [
        "# Families",
        "",
        "Every method on tiny random models of each family, as `make test-families` tries them: three steps in",
        "float64, the Fisher against one backward a row, the saved files read back, the neutral setting against SFT.",
        "*all* means every method; what is refused is refused before the first step, by name.",
        "",
        *markdown.lines(
            table_of(
                [prose(title) for title in ("family", *NAMES)],
                [[name, *(_cell(by_set_up.get(s)) for s in SET_UPS)] for name, by_set_up in FOUND.items()],
            ),
            escaped=str,
        ),
    ]
    reasons = sorted({_reason(text) for by in FOUND.values() for o in by.values() for text in o.values()} - {""})
    return "\n".join([*lines, "", "Why a method is refused:", "", *(f"- {reason}" for reason in reasons), ""])


def _cell(outcomes: dict[str, str] | None) -> str:
    if outcomes is None:
        return "–"
    refused = [method for method, text in outcomes.items() if text != "ok"]
    if not refused:
        return "all"
    return "none" if len(refused) == len(outcomes) else "all but " + ", ".join(f"`{m}`" for m in refused)


def _reason(text: str) -> str:
    """A refusal's reason without the names of one model."""
    if text == "ok":
        return ""
    for mark, reason in REASONS.items():
        if mark in text:
            return reason
    return text.removeprefix("refused: ")


REASONS = {
    "experts, or what routes": "LoRA on experts that a layer keeps as one parameter has no ΔW = s·B·A of a linear "
    "layer: name linear layers in `lora.target_modules`, or use `space: adapter`.",
    "all experts in one tensor": "SafeLoRA edits matrices, and a layer keeps those of all experts in one tensor: "
    "`unforgotten repair` edits the saved files.",
    "has no exact sum": "Two adapters on experts kept as one parameter have no exact sum: `lora.existing: merge`.",
}
