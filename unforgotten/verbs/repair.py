"""Weight edits on finished models: MagMax or SafeLoRA without training, one tensor of each model in memory at a time.

out/
  model.safetensors (or shards), config, tokenizer        where whole weights come out
  adapter_model.safetensors, adapter_config, tokenizer    where an adapter does
  repair.json                                             method, models, counts, notes
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.errors import ModelError, RecipeError
from unforgotten.models.folder.open import opened
from unforgotten.runs import console, digests, partial

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.models.weights.base import ByRows, Factors, Source

Say = Callable[[str], None]


def repair(
    method: Any,
    *,
    unaligned_model: str,
    aligned: str,
    tuned: str,
    out: str,
    as_lora: int | None = None,
    say: Say = lambda text: None,
) -> Path:
    """Applies a method's `finish` to finished models and writes the result to `out`, whole or not at all.

    method: a name or `{name: …, field: …}`. unaligned_model: θ₀. aligned: θ_safe, whole or an adapter on θ₀.
    tuned: θ*, whole, or an adapter on θ_safe or on θ₀. as_lora: the rank of an adapter on θ_safe nearest to the
    result; its error is told.
    Raises RecipeError for a method that edits no weights or an `out` that exists; ModelError for unlike models.
    """
    from unforgotten.models.weights.base import check_alike
    from unforgotten.models.weights.open import opened as weights_of

    edit = registry.build("methods", method)
    _refuse_others(edit)
    target = Path(out).expanduser()
    if target.exists():
        raise RecipeError(f"{out} exists already. Name a folder that does not, so that nothing is overwritten.")
    below = weights_of(unaligned_model)
    safe = weights_of(aligned, below)
    last = _tuned(tuned, unaligned_model, aligned, below, safe)
    check_alike({"unaligned_model": below, "aligned": safe, "tuned": last})
    _refuse_nothing(edit, below, safe, last, {"unaligned_model": unaligned_model, "aligned": aligned, "tuned": tuned})
    weights = Given(below, safe, last)
    with partial.folder(target) as part:
        facts = _write(edit, weights, part, Path(tuned).expanduser(), as_lora, say)
        if not facts["edited"]:
            weights.note(
                f"Nothing was edited: at these settings of {type(edit).__name__} the result is --tuned as it was, and "
                "no safer"
            )
        facts |= {"method": registry.spec_of(edit), "notes": weights.notes}
        facts |= {
            "models": {
                role: digests.public_name(m)
                for role, m in (("unaligned_model", unaligned_model), ("aligned", aligned), ("tuned", tuned))
            }
        }
        _copy_beside(part, [tuned, aligned, unaligned_model], adapter=facts["result"] == "adapter")
        (part / "repair.json").write_text(console.json_text(facts, nan=True) + "\n", encoding="utf-8")
        partial.publish(part, target)
    say(f"Edited {facts['edited']} of {facts['of']} {'modules' if facts['result'] == 'adapter' else 'weights'}.")
    for note in weights.notes:
        say(note)
    return target


@dataclass
class Given:
    """What `finish` reads where no run stands behind it."""

    base: Source
    aligned: Source
    tuned: Source
    trained: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Names of the weights that come out other than they went in."""

    def product(self, up: Any, down: Any) -> Factors:
        from unforgotten.models.weights.base import Factors

        return Factors(up, down)

    def by_rows(self, name: str, edit: Callable[[Any, Any, Any], Any]) -> ByRows:
        from unforgotten.models.weights.base import ByRows

        def parts() -> Iterator[Any]:
            whole = [source[name] for source in (self.base, self.aligned, self.tuned)]
            rows = ByRows.rows_a_part(tuple(whole[0].shape))
            for some in zip(*(w.split(rows) for w in whole), strict=True):
                edited = edit(*some)
                self.compare(name, edited, some[2])
                yield edited

        return ByRows(self.base.shape(name), parts)

    def compare(self, name: str, edited: Any, tuned: Any) -> None:
        """Notes that a weight, or some rows of it, was changed by more than the rounding of its sums."""
        import torch

        stored = edited.to(tuned)
        if not torch.isfinite(stored).all():
            raise ModelError(f"{name} holds values that are no numbers, or infinite, in one of the models or after it.")
        if tuned.dtype in (torch.float32, torch.float64):
            bound = 4 * torch.finfo(tuned.dtype).eps
            unchanged = torch.allclose(stored, tuned, rtol=bound, atol=bound * float(tuned.abs().max()))
        else:
            unchanged = torch.equal(stored, tuned)
        if not unchanged:
            self.changed.add(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


def _refuse_others(edit: Method) -> None:
    from unforgotten.methods.base import turns

    name, taken = type(edit).__name__, turns(type(edit))
    if taken != ["finish"]:
        able = [n for n in registry.names("methods") if turns(registry.load("methods", n)) == ["finish"]]
        raise RecipeError(
            f"{name} works while a model is trained ({', '.join(taken) or 'no turn'}), so it cannot repair a finished "
            f"one. Methods that can: {', '.join(able)}."
        )


def _refuse_nothing(edit: Method, base: Source, aligned: Source, tuned: Source, named: dict[str, str]) -> None:
    """Raises ModelError where there is nothing to keep or nothing to edit: what came out would not be repaired."""
    from unforgotten.models.weights.base import same

    if same(base, aligned):
        raise ModelError(
            f"--unaligned-model {named['unaligned_model']} and --aligned {named['aligned']} hold the same weights, so "
            "that there is no alignment to bring back. As --unaligned-model name the weights from before alignment."
        )
    if same(aligned, tuned):
        raise ModelError(
            f"--tuned {named['tuned']} and --aligned {named['aligned']} hold the same weights (or the adapter changes "
            "none), so that there is nothing to repair. As --tuned name the fine-tuned model."
        )
    is_layer = getattr(edit, "is_layer", lambda name, shape: len(shape) == 2)
    layers = (name for name in tuned.names() if is_layer(name, tuned.shape(name)))
    if not edit.dense and all(same(base, aligned, [n]) or same(aligned, tuned, [n]) for n in layers):
        raise ModelError(
            f"{type(edit).__name__} edits what alignment and fine-tuning both changed, and that is no layer: alignment "
            f"({named['unaligned_model']} to {named['aligned']}) and fine-tuning ({named['tuned']}) changed different "
            "ones. `--method magmax` edits all weights."
        )


def _tuned(tuned: str, base: str, aligned: str, below: Source, safe: Source) -> Source:
    """θ*; an adapter is taken to lie on θ_safe, unless it comes with, or names, the base."""
    import torch

    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.files import Files
    from unforgotten.models.weights.open import opened as weights_of

    tuned_weights = weights_of(tuned, safe)
    if not isinstance(tuned_weights, Adapted):
        return tuned_weights
    if (tuned_weights.folder / "config.json").is_file():
        bundled = Files(tuned_weights.folder)
        names = [n for n in tuned_weights.names() if tuned_weights.factors(n) is not None]
        if all(torch.equal(bundled[n], below[n]) for n in names):
            return Whole(weights_of(tuned, below))
        if not all(torch.allclose(bundled[n].float(), safe[n].float(), atol=1e-3) for n in names):
            raise ModelError(
                f"The adapter {tuned} was trained on other weights than --aligned {aligned} or --unaligned-model "
                f"{base}."
            )
        return tuned_weights
    named = str(tuned_weights.config.get("base_model_name_or_path"))
    return Whole(weights_of(tuned, below)) if named == base else tuned_weights


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


def _write(edit: Method, weights: Given, part: Path, tuned: Path, as_lora: int | None, say: Say) -> dict[str, Any]:
    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.base import ByRows, Factors
    from unforgotten.models.weights.files import Files
    from unforgotten.models.weights.stream import stream

    if isinstance(weights.tuned, Adapted) and not edit.dense and as_lora is None:
        return _adapter(edit, weights, weights.tuned, part)

    def dense() -> Iterator[tuple[str, Any]]:
        for name, value in _told(edit.finish(weights), weights.tuned, say):
            tensor = value.dense() + weights.aligned[name] if isinstance(value, Factors) else value
            if not isinstance(tensor, ByRows):
                weights.compare(name, tensor, weights.tuned[name])
            yield name, tensor

    stream(weights.tuned, dense(), part)
    counts = {"edited": len(weights.changed), "of": len(weights.tuned.names())}
    if as_lora is None:
        return {"result": "model", **counts}
    from unforgotten.models.weights.low_rank import nearest_adapter

    full = part / "whole"
    full.mkdir()
    for file in list(part.glob("model*")):
        file.rename(full / file.name)
    errors = nearest_adapter(Files(full), weights.aligned, as_lora, part)
    shutil.rmtree(full)
    weights.note(
        f"An adapter of rank {as_lora} leaves {100 * errors['relative_error']:.1f} % of the change from θ_safe out "
        f"(Frobenius norm; the worst module {100 * errors['worst']:.1f} %, {errors['worst_module']})."
    )
    return {"result": "adapter", **counts, "approximation": errors}


def _adapter(edit: Method, weights: Given, tuned: Any, part: Path) -> dict[str, Any]:
    """A new adapter of the tuned one's shape, with the edited factors."""
    from safetensors.torch import save_file

    from unforgotten.models.weights.base import Factors

    tensors, edited = dict(tuned.tensors), 0
    for name, value in edit.finish(weights):
        if not isinstance(value, Factors):
            raise ModelError(f"{type(edit).__name__} yields the whole weight {name!r} for an adapter.")
        down, up, scale = tuned.places(name)
        tensors[down] = value.down.to(tensors[down].dtype).contiguous()
        tensors[up] = (value.up / scale).to(tensors[up].dtype).contiguous()
        edited += 1
    save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    return {"result": "adapter", "edited": edited, "of": len(tensors) // 2}


def _told(pairs: Iterable[tuple[str, Any]], of: Source, say: Say) -> Iterator[tuple[str, Any]]:
    from unforgotten.runs.bars import progress_bar

    with progress_bar() as tick:
        for i, pair in enumerate(pairs, 1):
            yield pair
            tick("editing weights", i, len(of.names()))


def _copy_beside(part: Path, sources: list[str], *, adapter: bool) -> None:
    """Config, tokenizer and template, each from the first of the models that has it; θ_safe too if it was bundled."""
    skip = {"model.safetensors.index.json", "repair.json", "adapter_config.json", "aligned.json"}
    if adapter and not (part / "adapter_config.json").exists():
        first = opened(sources[0])
        shutil.copyfile(first.path / "adapter_config.json", part / "adapter_config.json")
        if first.is_bundled:
            from unforgotten.models.save import bundle

            bundle(Path(sources[0]).expanduser(), part)
    skip |= {"config.json", "generation_config.json"} if adapter else set()
    for place in (opened(source) for source in sources if Path(source).expanduser().is_dir()):
        for name in place.files:
            if name in skip or name.endswith((".safetensors", ".index.json")) or (part / name).exists():
                continue
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place.path / name, part / name)
