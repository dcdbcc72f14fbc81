"""Interpolation by hand, the end of real runs on the line between θ_safe and an SFT run, and its kind kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.test_magmax import dense_weights, finished
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.interpolate import between
from unforgotten.registry import build


def test_three_points_of_a_line_by_hand() -> None:
    safe, tuned = torch.tensor([1.0, -2.0]), torch.tensor([5.0, -2.0])
    assert between(safe, tuned, 0.25).tolist() == [2.0, -2.0]
    assert torch.equal(between(safe, tuned, 0.0), safe) and torch.equal(between(safe, tuned, 1.0), tuned)


def test_narrow_weights_are_summed_in_float32() -> None:
    # 1 + 2⁻⁷ is bfloat16's next number after 1; half of that change is lost in it and kept in float32.
    safe, tuned = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0 + 2**-7], dtype=torch.bfloat16)
    actual = between(safe, tuned, 0.5)
    assert actual.dtype == torch.float32 and actual.item() == 1 + 2**-8


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_a_run_ends_at_its_share_of_the_change(adapter_mode: Any, tmp_path: Path) -> None:
    scale = 0.3
    trainer, safe = finished({"name": "interpolate", "scale": scale}, adapter_mode, tmp_path / "it")
    tuned = dense_weights(finished("sft", adapter_mode, tmp_path / "sft")[0].model)
    expected = {name: (1 - scale) * safe[name] + scale * tuned[name] for name in safe}
    assert testing.distance(dense_weights(trainer.model), expected) < 1e-12
    assert testing.distance(expected, tuned) > 1e-5
    # Two factors that both moved from θ_safe's have no adapter of their rank on the line between.
    assert trainer.edited == (["interpolate"] if adapter_mode == "continue" else [])
    assert hasattr(trainer.model, "peft_config") == (adapter_mode in ("merge", "stack"))


def test_after_an_edit_of_whole_weights_it_is_refused_at_the_door(tmp_path: Path) -> None:
    base = testing.base_of(testing.tiny_model("merge", dtype=torch.float64), "merge")
    with pytest.raises(RecipeError, match="unforgotten repair --method interpolate"):
        finished(["magmax", "interpolate"], "merge", tmp_path, base)


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_a_scale_off_the_line_is_refused(scale: float) -> None:
    with pytest.raises(RecipeError, match="scale"):
        build("methods", {"name": "interpolate", "scale": scale})
