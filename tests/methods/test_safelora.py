"""SafeLoRA's thin products against d × d matrices written out in float64, and the end of real runs against them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.test_magmax import Weights, dense_weights, finished
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.base.projection import cosine, orthogonal, reference, streamed_cosine
from unforgotten.methods.safelora import SafeLoRA
from unforgotten.models.weights.base import ByRows, Held
from unforgotten.registry import build
from unforgotten.training.finished_weights import LiveWeights
from unforgotten.verbs.repair.models import FinishedModels

USER = testing.ragged_rows(8, 1)
PROJECTORS: list[Any] = ["reference", "orthogonal"]


def projector(v: Tensor, kind: str) -> Tensor:
    """P, (out, out): V Vᵀ/‖V‖_F, or V V⁺."""
    return v @ v.T / v.square().sum().sqrt() if kind == "reference" else v @ torch.linalg.pinv(v, rtol=1e-10)


def angle(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def test_the_codes_projection_by_hand() -> None:
    # V = diag(3, 4), ‖V‖_F = 5: P = diag(9, 16) / 5. ΔW = I: cos = (1.8 + 3.2) / √2·√(1.8² + 3.2²).
    v, change = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    actual = reference(v, None)(change)
    assert actual.flatten().tolist() == pytest.approx([1.8, 0, 0, 3.2])
    assert cosine(actual, change, None) == pytest.approx(5 / (2 * (1.8**2 + 3.2**2)) ** 0.5)


def test_the_true_projection_by_hand() -> None:
    # V's columns all lie along (3, 4)/5: what is across it goes, and cos is the length of what stays.
    v = torch.tensor([[3.0, 6.0], [4.0, 8.0]], dtype=torch.float64)
    change = torch.tensor([[5.0], [0.0]], dtype=torch.float64)
    actual = orthogonal(v, None, 1e-9)(change)
    assert actual.flatten().tolist() == pytest.approx([1.8, 2.4])
    assert cosine(actual, change, None) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize("v_is", ["dense", "factors"])
@pytest.mark.parametrize("change_is", ["dense", "factors"])
def test_thin_products_are_those_of_whole_matrices(kind: str, v_is: str, change_is: str) -> None:
    torch.manual_seed(0)
    up, down, b, a = (torch.randn(*s, dtype=torch.float64) for s in ((9, 3), (3, 7), (9, 2), (2, 7)))
    v, change = (up @ down, None), (b @ a, None)
    given, edit = (up, down) if v_is == "factors" else v, (b, a) if change_is == "factors" else change
    project = reference(*given) if kind == "reference" else orthogonal(*given, 1e-9)
    thin = project(edit[0])
    expected = projector(v[0], kind) @ change[0]
    torch.testing.assert_close(thin if edit[1] is None else thin @ edit[1], expected, rtol=1e-10, atol=1e-12)
    assert cosine(thin, *edit) == pytest.approx(angle(expected, change[0]), abs=1e-12)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (8, 8)])
def test_a_cosine_a_part_at_a_time_is_that_of_whole_matrices(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unforgotten.methods.base.projection.PART_NUMBERS", 20)
    torch.manual_seed(0)
    base, aligned, tuned = (torch.randn(*shape, dtype=torch.float64) for _ in range(3))
    expected = angle(projector(aligned - base, "reference") @ (tuned - aligned), tuned - aligned)
    assert streamed_cosine(base, aligned, tuned, torch.float64) == pytest.approx(expected, abs=1e-12)
    turned = [w.T.contiguous().T for w in (base, aligned, tuned)]
    assert streamed_cosine(*turned, torch.float64) == pytest.approx(expected, abs=1e-12)
    assert streamed_cosine(base, base, tuned, torch.float64) is None
    assert streamed_cosine(base, tuned, tuned, torch.float64) is None


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (8, 8)])
def test_a_projection_some_rows_at_a_time_is_that_of_whole_matrices(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `repair` writes it into a file, two rows in each part, from weights in fp32 and in bf16."""
    monkeypatch.setattr("unforgotten.methods.base.projection.PART_NUMBERS", 20)
    monkeypatch.setattr(ByRows, "rows_a_part", staticmethod(lambda shape: 2))
    torch.manual_seed(0)
    for dtype, bound in ((torch.float64, 1e-12), (torch.bfloat16, 1e-5)):
        base, aligned, tuned = (torch.randn(*shape, dtype=torch.float64).to(dtype) for _ in range(3))
        models = FinishedModels(*(Held({"layer.weight": w}) for w in (base, aligned, tuned)))
        [(name, edit)] = SafeLoRA(layers=1).finish(models)
        assert name == "layer.weight" and isinstance(edit, ByRows) and edit.shape == shape
        parts = list(edit.parts())
        assert [len(part) for part in parts[:-1]] == [2] * (len(parts) - 1) and len(parts) > 3
        zero, safe, last = (w.double() for w in (base, aligned, tuned))
        expected = safe + projector(safe - zero, "reference") @ (last - safe)
        torch.testing.assert_close(torch.cat(parts).double(), expected, rtol=bound, atol=bound)
        assert models.changed == {"layer.weight"}


class Large(TorchDispatchMode):
    """Counts the tensors of this many numbers or more that are made, views not counted."""

    def __init__(self, numbers: int, *given: Tensor) -> None:
        super().__init__()
        self.numbers, self.known = numbers, {t.untyped_storage().data_ptr() for t in given}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.numel() >= self.numbers:
                at = t.untyped_storage().data_ptr()
                self.count += at not in self.known
                self.known.add(at)
        return out


@pytest.mark.parametrize(("shape", "most"), [((64, 16), 0), ((16, 64), 1)])
def test_of_whole_models_one_whole_matrix_is_held_at_most(
    shape: tuple[int, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None where rows are more than columns; ΔW where they are fewer."""
    monkeypatch.setattr("unforgotten.methods.base.projection.PART_NUMBERS", 64)
    monkeypatch.setattr(ByRows, "rows_a_part", staticmethod(lambda shape: 2))
    weights = [torch.randn(*shape) for _ in range(3)]
    models = FinishedModels(*(Held({"layer.weight": w}) for w in weights))
    with Large(math.prod(shape), *weights) as large:
        [(_, edit)] = SafeLoRA(layers=1).finish(models)
        assert sum(len(part) for part in edit.parts()) == shape[0]
    assert large.count == most


def test_a_change_of_nothing_has_cosine_1_and_one_that_is_wiped_out_0() -> None:
    zero, some = torch.zeros(3, 2), torch.ones(3, 2)
    assert cosine(zero, zero, None) == 1.0
    assert cosine(zero, some, None) == 0.0


def sources(base: Tensor, aligned: Tensor, tuned: Tensor, *, name: str = "layer.weight") -> LiveWeights:
    base_, aligned_, tuned_ = (Held({name: t}) for t in (base, aligned, tuned))
    return LiveWeights(base_, aligned_, tuned_, lambda text: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_of_stored_weights_is_no_direction_and_a_small_change_is_one(dtype: torch.dtype) -> None:
    """V has rank 3 before it is rounded; its singular values are a tenth of its base's rounding in Frobenius norm."""
    torch.manual_seed(0)
    d = 256
    base = 0.02 * torch.randn(d, d, dtype=torch.float64)
    u, w = (torch.linalg.qr(torch.randn(d, 3, dtype=torch.float64))[0] for _ in range(2))
    change = 0.4 * torch.finfo(dtype).eps * base.norm() * u @ w.T
    stored, aligned = base.to(dtype), (base.to(dtype).double() + change).to(dtype)
    tuned = aligned.double() + 1e-2 * torch.randn(d, d, dtype=torch.float64)
    weights = sources(stored.double(), aligned.double(), tuned)
    weights.base.dtype = weights.aligned.dtype = lambda name: dtype
    (pair,) = SafeLoRA(projector="orthogonal", layers=1).finish(weights)
    kept = pair[1] - aligned.double()
    assert torch.linalg.matrix_rank(kept, rtol=1e-6) == 3
    assert angle(kept, u @ u.T @ (tuned - aligned.double())) > 0.97


def test_what_neither_training_nor_alignment_moved_is_left_out() -> None:
    w = torch.eye(3, dtype=torch.float64)
    assert list(SafeLoRA().finish(sources(w, w, 2 * w))) == []
    assert list(SafeLoRA().finish(sources(w, 2 * w, 2 * w))) == []
    assert [name for name, _ in SafeLoRA().finish(sources(w, 2 * w, 3 * w))] == ["layer.weight"]
    for other in ("model.embed_tokens.weight", "lm_head.weight"):
        assert list(SafeLoRA().finish(sources(w, 2 * w, 3 * w, name=other))) == []


def base_for(adapter_mode: Any, which: str) -> Weights:
    """θ₀: either what lies below θ_safe's own adapter, or other weights, a change of rank 2 away in every matrix."""
    model = testing.tiny_model(adapter_mode, dtype=torch.float64)
    if which == "other":
        return testing.base_of(model, adapter_mode)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.zero_()
    return dense_weights(model)


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Any, Weights]]:
    """The same run without an edit, and θ_safe: made once for each adapter mode."""
    return functools.cache(lambda adapter_mode: finished("sft", adapter_mode, tmp_path_factory.mktemp("sft")))


CASES = [(p, "other") for p in testing.ADAPTER_MODES] + [("stack", "below"), ("continue", "below")]


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize(("adapter_mode", "which"), CASES)
@pytest.mark.parametrize("select", ["lowest", "threshold"])
def test_a_run_ends_with_its_worst_layers_projected(
    select: str, adapter_mode: Any, which: str, kind: str, sft: Any, tmp_path: Path
) -> None:
    base = base_for(adapter_mode, which)
    plain, safe = sft(adapter_mode)
    tuned = dense_weights(plain.model)
    projected, cosines = {}, {}
    for name, w in tuned.items():
        v, change = safe[name] - base[name], w - safe[name]
        if w.ndim == 2 and "embed" not in name and "lm_head" not in name and change.any() and v.any():
            projected[name] = projector(v, kind) @ change
            cosines[name] = angle(projected[name], change)
    assert len(cosines) == (14 if adapter_mode == "full" else 6)
    order = sorted(cosines, key=lambda n: cosines[n])
    method = {"name": "safelora", "projector": kind, "select": select, "layers": 3}
    if select == "threshold":
        method["threshold"] = (cosines[order[2]] + cosines[order[3]]) / 2
    trainer, _ = finished(method, adapter_mode, tmp_path / "it", base)
    expected = {n: safe[n] + projected[n] if n in order[:3] else w for n, w in tuned.items()}
    assert testing.distance(dense_weights(trainer.model), expected) < 1e-11
    assert testing.distance(expected, tuned) > 1e-5
    assert any(f"projected 3 of {len(cosines)} modules" in note for note in trainer.run.notes)
    if adapter_mode in ("merge", "stack"):  # still the adapter on what it was trained on
        assert testing.distance(_frozen(trainer.model), _frozen(plain.model)) == 0.0
        assert trainer.model.peft_config and not trainer.edited
    elif adapter_mode == "continue":  # the change from θ_safe is no adapter's
        assert not hasattr(trainer.model, "peft_config") and trainer.edited == ["safelora"]


def _frozen(model: Any) -> Weights:
    return {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}


def test_a_threshold_of_minus_1_projects_nothing_even_where_the_cosine_is_as_low() -> None:
    """With V across ΔW the projection is 0, and so is its cosine; nothing is lower than −1."""
    w = torch.eye(2, dtype=torch.float64)
    weights = sources(w, w + torch.tensor([[1.0, 0], [0, 0]]), w + torch.tensor([[1.0, 0], [0, 1]]))
    assert list(SafeLoRA(select="threshold", threshold=-1.0).finish(weights)) == []
    (pair,) = SafeLoRA(select="threshold", threshold=0.0).finish(weights)
    assert pair[1].tolist() == [[2.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"layers": -1}, {"projector": "exact"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "safelora", **wrong})
