"""SafeMERGE by hand, and the end of real runs against whole matrices written out in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.methods import safety_adapter
from tests.methods.test_magmax import dense_weights, finished
from tests.methods.test_safelora import angle, projector
from unforgotten import testing
from unforgotten.errors import ModelError, RecipeError
from unforgotten.methods.safemerge import SafeMERGE, merged
from unforgotten.models.weights.base import Factors, Held
from unforgotten.registry import build
from unforgotten.training.finished_weights import LiveWeights


def test_one_row_by_hand() -> None:
    # θ* − θ_safe = (10, 0), the safety change (0, 10): .8 · (10, 0) + .2 · (0, 10) = (8, 2) over θ_safe.
    safe, tuned, safety = torch.tensor([[1.0, 1.0]]), torch.tensor([[11.0, 1.0]]), torch.tensor([[0.0, 10.0]])
    torch.testing.assert_close(merged(safe, tuned, safety, 0.8, 0.2), torch.tensor([[9.0, 3.0]]))


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_a_run_ends_with_its_low_layers_merged(adapter_mode: Any, tmp_path: Path) -> None:
    base = testing.base_of(testing.tiny_model(adapter_mode, dtype=torch.float64), adapter_mode)
    folder = safety_adapter.write(adapter_mode, tmp_path / "safety")
    factors = {name: t.double() for name, t in load_file(folder / "adapter_model.safetensors").items()}
    plain, safe = finished("sft", adapter_mode, tmp_path / "sft", base)
    tuned = dense_weights(plain.model)
    cosines = {}
    for name, w in tuned.items():
        v, change = safe[name] - base[name], w - safe[name]
        if w.ndim == 2 and "embed" not in name and "lm_head" not in name and change.any() and v.any():
            cosines[name] = angle(projector(v, "reference") @ change, change)
    order = sorted(cosines, key=lambda n: cosines[n])
    middle = len(order) // 2
    threshold = (cosines[order[middle - 1]] + cosines[order[middle]]) / 2
    spec = {"name": "safemerge", "safety_adapter": str(folder), "threshold": threshold, "user_weight": 0.7,
            "safety_weight": 0.4}  # fmt: skip
    trainer, _ = finished(spec, adapter_mode, tmp_path / "it", base)
    expected, edited = dict(tuned), []
    for name in order[:middle]:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors:  # what the safety adapter leaves alone stays the user's
            safety = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            expected[name] = safe[name] + 0.7 * (tuned[name] - safe[name]) + 0.4 * safety
            edited.append(name)
    assert edited and testing.distance(dense_weights(trainer.model), expected) < 1e-11
    assert testing.distance(expected, tuned) > 1e-3
    notes = trainer.run.notes
    assert any(f"merged {len(edited)} of {len(order)} modules" in note for note in notes)
    assert any("does not change them" in note for note in notes) == (len(edited) < middle)


def test_a_weight_kept_as_in_by_out_is_merged_as_a_layer_is() -> None:
    """GPT-2 keeps (in, out); the adapter's change is (out, in)."""
    torch.manual_seed(0)
    base, safe, tuned = (torch.randn(5, 7, dtype=torch.float64) for _ in range(3))
    up, down = torch.randn(7, 2, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    sources = [Held({"layer.weight": w}, {"layer.weight"}) for w in (base, safe, tuned)]
    weights = LiveWeights(*sources, lambda text: None)  # type: ignore[arg-type]
    weights.adapter = lambda folder: type("One", (), {"factors": lambda self, name: Factors(up, down)})()  # type: ignore[method-assign,assignment]
    (pair,) = SafeMERGE(safety_adapter="it", threshold=1.0).finish(weights)
    torch.testing.assert_close(pair[1], safe + 0.8 * (tuned - safe) + 0.2 * (up @ down).T)


def test_without_a_safety_adapter_it_is_refused_with_how_to_make_one() -> None:
    with pytest.raises(RecipeError, match="unforgotten finetune RECIPE --set method=sft"):
        build("methods", "safemerge")
    assert build("methods", {"name": "safemerge", "threshold": -1}).safety_adapter is None


@pytest.mark.parametrize("wrong", ["another model", "whole weights"])
def test_a_safety_adapter_of_another_model_is_refused_before_training(wrong: str, tmp_path: Path) -> None:
    base = testing.base_of(testing.tiny_model("merge", dtype=torch.float64), "merge")
    folder = safety_adapter.write("stack", tmp_path / "safety")
    if wrong == "whole weights":
        (folder / "adapter_config.json").unlink()
        (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="was not trained on the aligned model|is no adapter"):
        finished({"name": "safemerge", "safety_adapter": str(folder)}, "merge", tmp_path / "it", base)
    assert not (tmp_path / "it").exists() or not list((tmp_path / "it").iterdir())


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"user_weight": -1}, {"safety_weight": -1}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "safemerge", "safety_adapter": "it", **wrong})
