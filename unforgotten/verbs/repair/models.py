"""The three finished models of a repair, opened and checked; and what a method's `finish` reads of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unforgotten.errors import ModelError
from unforgotten.methods.base import MODELS

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.models.weights.base import ByRows, Factors, Source


def open_models(unaligned_model: str | None, aligned: str, tuned: str, edit: Method) -> FinishedModels:
    """θ₀, where it is named, θ_safe and θ*.

    Raises ModelError for unlike models, and where there is nothing to keep or to edit.
    """
    from unforgotten.models.weights.base import check_alike
    from unforgotten.models.weights.open import opened

    below = None if unaligned_model is None else opened(unaligned_model)
    safe = opened(aligned, below)
    last = _tuned(tuned, unaligned_model, aligned, below, safe)
    check_alike({**({} if below is None else {"unaligned_model": below}), "aligned": safe, "tuned": last})
    named = {"unaligned_model": str(unaligned_model), "aligned": aligned, "tuned": tuned}
    _refuse_nothing(edit, below, safe, last, named)
    return FinishedModels(below, safe, last)


@dataclass
class FinishedModels:
    """What `finish` reads where no run stands behind it."""

    base: Source | None
    """None for an edit that reads no θ₀."""
    aligned: Source
    tuned: Source
    trained: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Names of the weights that the edit changed."""

    def product(self, up: Any, down: Any) -> Factors:
        from unforgotten.models.weights.base import Factors

        return Factors(up, down)

    def by_rows(
        self, name: str, edit: Callable[..., Any], reads: Sequence[str] = MODELS, beside: Sequence[Any] = ()
    ) -> ByRows:
        from unforgotten.models.weights.base import ByRows

        def parts() -> Iterator[Any]:
            read = {model: getattr(self, model)[name] for model in {*reads, "tuned"}}
            whole = [read["tuned"], *(read[model] for model in reads), *beside]
            rows = ByRows.rows_a_part(tuple(whole[0].shape))
            for tuned, *some in zip(*(w.split(rows) for w in whole), strict=True):
                edited = edit(*some)
                self.compare(name, edited, tuned)
                yield edited

        return ByRows(self.tuned.shape(name), parts)

    def adapter(self, folder: str) -> Source:
        from unforgotten.models.weights.open import adapter_on

        return adapter_on(folder, self.aligned, "--aligned")

    def compare(self, name: str, edited: Any, tuned: Any) -> None:
        """Notes that a weight, or some rows of it, was changed by more than the rounding of its sums."""
        import torch

        stored = edited.to(tuned)
        if not torch.isfinite(stored).all():
            raise ModelError(f"{name} holds NaN or infinite values, in one of the models or after the edit.")
        if tuned.dtype in (torch.float32, torch.float64):
            bound = 4 * torch.finfo(tuned.dtype).eps
            unchanged = torch.allclose(stored, tuned, rtol=bound, atol=bound * float(tuned.abs().max()))
        else:
            unchanged = torch.equal(stored, tuned)
        if not unchanged:
            self.changed.add(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


def _refuse_nothing(edit: Method, base: Source | None, aligned: Source, tuned: Source, named: dict[str, str]) -> None:
    """Raises ModelError where there is nothing to keep or nothing to edit: what came out would not be repaired."""
    from unforgotten.models.weights.base import same

    if base is not None and same(base, aligned):
        raise ModelError(
            f"--unaligned-model {named['unaligned_model']} and --aligned {named['aligned']} hold the same weights, so "
            "there is no alignment to restore. Name the weights before alignment as --unaligned-model."
        )
    if same(aligned, tuned):
        raise ModelError(
            f"--tuned {named['tuned']} and --aligned {named['aligned']} hold the same weights (or the adapter changes "
            "none), so there is nothing to repair. Name the fine-tuned model as --tuned."
        )
    is_layer = getattr(edit, "is_layer", None)
    if base is None or is_layer is None:
        return
    layers = (name for name in tuned.names() if is_layer(name, tuned.shape(name)))
    if all(same(base, aligned, [n]) or same(aligned, tuned, [n]) for n in layers):
        raise ModelError(
            f"{type(edit).__name__} edits only layers that alignment and fine-tuning both changed, and there is no "
            f"such layer. Alignment ({named['unaligned_model']} to {named['aligned']}) and fine-tuning "
            f"({named['tuned']}) changed different layers. Use `--method magmax`, which edits all weights."
        )


def _tuned(tuned: str, base: str | None, aligned: str, below: Source | None, safe: Source) -> Source:
    """θ*; an adapter is taken to lie on θ_safe, unless it comes with, or names, the base."""
    import torch

    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.files import Files
    from unforgotten.models.weights.open import opened as opened

    tuned_weights = opened(tuned, safe)
    if not isinstance(tuned_weights, Adapted):
        return tuned_weights
    if (tuned_weights.folder / "config.json").is_file():
        bundled = Files(tuned_weights.folder)
        names = [n for n in tuned_weights.names() if tuned_weights.factors(n) is not None]
        if below is not None and all(torch.equal(bundled[n], below[n]) for n in names):
            return Whole(opened(tuned, below))
        if not all(torch.allclose(bundled[n].float(), safe[n].float(), atol=1e-3) for n in names):
            raise ModelError(
                f"The adapter {tuned} was trained neither on --aligned {aligned} nor on --unaligned-model "
                f"{base or '(none given)'}. Name the model that it was trained on."
            )
        return tuned_weights
    named = str(tuned_weights.config.get("base_model_name_or_path"))
    return Whole(opened(tuned, below)) if base is not None and named == base else tuned_weights


class Whole:
    """A source whose factors are over θ₀, not over θ_safe, and are therefore not told."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names, self.shape, self.dtype = source.names, source.shape, source.dtype
        self.transposed = source.transposed

    def __getitem__(self, name: str) -> Any:
        return self.source[name]

    def factors(self, name: str) -> None:
        return None
