"""Methods on architectures with a trait of their own: flat tokens, turned weights, experts, buffers, tied heads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.methods.architectures import tried

CASES = [
    ("opt", "merge", "all-linear", "ewc"),
    ("opt", "full", "", "refresh"),
    ("gpt2", "merge", "all-linear", "ewc"),
    ("gpt2", "merge", "all-linear", "ema"),
    ("gpt2", "merge", "all-linear", "safelora"),
    ("gpt2", "continue", "all-linear", "magmax"),
    ("gpt2", "continue", "all-linear", "interpolate"),
    ("mixtral", "full", "", "interpolate"),
    ("gpt2", "full", "", "safelora"),
    ("mixtral", "merge", "all-linear", "refresh"),
    ("mixtral", "merge", "all-linear", "ewc adapter"),
    ("mixtral", "merge", "all-linear", "ema"),
    ("mixtral", "full", "", "ewc"),
    ("mixtral", "full", "", "magmax"),
    ("qwen2_moe", "merge", "attention", "ewc"),
    ("deepseek_v3", "stack", "attention", "safelora"),
    ("deepseek_v3", "full", "", "magmax"),
    ("gpt_oss", "merge", "all-linear", "ewc"),
]


@pytest.mark.parametrize(("name", "adapter_mode", "targets", "method"), CASES)
def test_a_method_is_whole_on_an_architecture_of_its_own(
    name: str, adapter_mode: str, targets: str, method: str, tmp_path: Path
) -> None:
    assert tried(name, adapter_mode, targets, method, tmp_path) == "ok"


@pytest.mark.parametrize(
    ("name", "adapter_mode", "targets", "method", "why"),
    [
        ("mixtral", "merge", "all-linear", "ewc", "experts, or what routes"),
        ("mixtral", "merge", "all-linear", "magmax", "experts, or what routes"),
        ("mixtral", "full", "", "safelora", "all experts in one tensor"),
        ("mixtral", "stack", "all-linear", "sft", "experts kept as one parameter"),
    ],
)
def test_what_a_method_would_leave_out_is_refused_before_the_first_step(
    name: str, adapter_mode: str, targets: str, method: str, why: str, tmp_path: Path
) -> None:
    assert why in tried(name, adapter_mode, targets, method, tmp_path).removeprefix("refused: ")
