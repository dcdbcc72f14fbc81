"""What `finish` reads and writes at the end of a run: θ₀, θ_safe and θ* as sources of weights, without a second model.

The tuned and the aligned model share every base tensor; they differ by which adapters are counted in. An edit is
written in place as it is yielded, so a method reads what it needs of a weight before it yields that weight.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unforgotten.errors import ModelError, TrainingError, UnsupportedError
from unforgotten.methods.base import MODELS, Method
from unforgotten.models import nf4
from unforgotten.models.adapters import ALIGNED, AdapterMode, trained_adapter
from unforgotten.models.lora import Delta, deltas
from unforgotten.models.weights.base import Factors, Held, Source, check_alike, conv1d_weights, same
from unforgotten.models.weights.open import adapter_on, opened

Role = Literal["aligned", "tuned"]


class LiveModel(Held):
    """θ_safe or θ* read off the model under training, by the Hub's names."""

    def __init__(
        self,
        model: Any,
        adapter_mode: AdapterMode,
        role: Role,
        anchor: Mapping[str, Tensor],
        base: Source | None = None,
    ) -> None:
        """anchor: the trained tensors' first values by parameter name; needed under `continue` and `full`.

        base: θ₀; θ_safe's own adapter is a change from it only where its weights are those below that adapter.
        """
        self.adapter_mode, self.role, self.anchor, self.base = adapter_mode, role, anchor, base
        super().__init__({}, set())
        self.parameters: dict[str, str] = {}
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        prefix = "base_model.model." if inner is not model else ""
        stored = {name.replace(".base_layer.", ".") for name in inner.state_dict()}
        for name, tensor in itertools.chain(inner.named_parameters(), inner.named_buffers()):
            public = name.replace(".base_layer.", ".")
            if ".lora_" not in name and public in stored:  # buffers that no file holds are no weights
                self.tensors[public], self.parameters[public] = tensor, prefix + name
        self.turned = {name.replace(".base_layer.", ".") for name in conv1d_weights(inner)}
        self._model = model

    @functools.cached_property
    def trained(self) -> dict[str, Delta]:
        """The trained adapter's factors by weight. Raises UnsupportedError where it is more than such factors."""
        return _by_weight(self._model, trained_adapter(self._model))

    @functools.cached_property
    def below(self) -> dict[str, Delta]:
        """Those of θ_safe's own adapter."""
        return _by_weight(self._model, ALIGNED)

    def __getitem__(self, name: str) -> Tensor:
        """(as stored, or fp32 at least where adapters are counted in)"""
        if self.adapter_mode == "full" and self.role == "aligned":
            return self.anchor.get(self.parameters[name], self._at(name)).detach()
        weight = self._at(name).detach()
        changes = [self.below[name].dense()] if name in self.below else []
        if name in self.trained:
            delta = self.trained[name]
            if self.role == "tuned":
                changes.append(delta.dense())
            elif self.adapter_mode == "continue":
                changes.append(delta.scale * (self.anchor[delta.b_name] @ self.anchor[delta.a_name]))
        if not changes:
            return weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        total = torch.stack([c.to(exact) for c in changes]).sum(0)  # (out, in)
        return weight.to(exact) + (total.T if self.transposed(name) else total)

    def factors(self, name: str) -> Factors | None:
        delta = None
        if self.role == "aligned":
            delta = self.below.get(name) if self._lies_on_base(name) else None
        elif self.adapter_mode in ("merge", "stack"):
            delta = self.trained.get(name)
        return None if delta is None else Factors(delta.b.detach() * delta.scale, delta.a.detach())

    def _lies_on_base(self, name: str) -> bool:
        stored = self._at(name).detach()
        return self.base is None or torch.equal(self.base[name].to(stored), stored)


class LiveWeights:
    """What `finish` gets at the end of a run."""

    def __init__(
        self,
        base: Source | None,
        aligned: LiveModel,
        tuned: LiveModel,
        note: Any,
        trained: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.base, self.aligned, self.tuned, self.note = base, aligned, tuned, note
        self.trained = {name: p.detach() for name, p in (trained or {}).items()}

    def product(self, up: Tensor, down: Tensor) -> Factors:
        return Factors(up, down)

    def by_rows(
        self, name: str, edit: Callable[..., Tensor], reads: Sequence[str] = MODELS, beside: Sequence[Tensor] = ()
    ) -> Tensor:
        return edit(*(getattr(self, model)[name] for model in reads), *beside)

    def adapter(self, folder: str) -> Source:
        return adapter_on(folder, self.aligned, "the aligned model")


def apply(method: Method, weights: LiveWeights, params: Mapping[str, Tensor], model: Any) -> Any:
    """Writes what `method.finish` yields into the model. Returns the model, without adapters where weights were edited.

    Raises TrainingError for a name that is neither a trained tensor nor a weight, ModelError for other base weights.
    """
    name = type(method).__name__
    if method.needs_unaligned_model:
        if weights.base is None:
            raise TrainingError(f"{name} needs the weights before alignment. Pass unaligned_model=.")
        check_base(weights.aligned, weights.base)
    tuned = weights.tuned
    written: set[str] = set()
    with torch.no_grad():
        for at, value in method.finish(weights):
            if isinstance(value, Factors):
                delta = tuned.trained[at]
                delta.b.copy_(value.up / delta.scale)
                delta.a.copy_(value.down)
            elif at in params:
                params[at].copy_(value)
            elif at in tuned.tensors:
                if nf4.is_4_bit(tuned.tensors[at]):
                    raise UnsupportedError(
                        f"{name}.finish edits {at!r}, which is in 4 bits. Run `unforgotten repair` on the adapter."
                    )
                tuned.tensors[at].copy_(value)
                written.add(at)
            else:
                raise TrainingError(f"{name}.finish yields {at!r}, which is not a tensor of this model.")
        if not written or not hasattr(model, "unload"):
            return model
        for at in set(tuned.trained) | set(tuned.below):
            if at not in written:
                tuned.tensors[at].copy_(tuned[at])
    return model.unload()


def check_base(aligned: LiveModel, base: Source) -> None:
    """Raises ModelError unless θ₀ has the tensors of the model under training, in their shapes."""
    assert aligned.trained is not None and aligned.below is not None  # what has no factors is refused here
    check_alike({"aligned": aligned, "base": base})


def base_like(aligned: LiveModel, given: Any) -> Source:
    """θ₀ by the names of the model under training.

    Files may name and cut weights otherwise than the modules do (an expert a tensor, where a layer keeps all in one;
    no `transformer.` in front). Such a folder is loaded as Transformers loads it: a second model, in main memory.
    """
    source = opened(given)
    if not isinstance(given, (str, Path)) or set(source.names()) == set(aligned.names()):
        return source
    from unforgotten.models.load import load_model

    try:
        return opened(load_model(str(given), merge=True))
    except ModelError:
        return source  # `check_base` names the first difference


def check_aligned(live: LiveModel, base: Source, trained_only: bool) -> None:
    """Raises ModelError where θ₀ and θ_safe are one, in all weights or in those that are trained.

    live: the model before its first step.
    """
    adapted = set(live.trained)
    names = adapted if trained_only and adapted else None
    if same(base, live, names):
        where = " in all weights that are trained" if names else ""
        raise ModelError(
            f"The weights before alignment and the aligned model are the same{where}. There is no alignment to keep. "
            "Name the weights before alignment (unaligned_model=, in a recipe `unaligned_model:`), or train weights "
            "that alignment changed."
        )


def check_adapters(methods: Iterable[Method], live: LiveModel) -> None:
    """Raises UnsupportedError where `finish` reads θ_safe and an adapter is more than factors of linear layers.

    Raises ModelError for another adapter that was not trained on θ_safe. live: the model before its first step.
    """
    for method in methods:
        if method.reads_aligned:
            assert live.trained is not None and live.below is not None
        if method.adapter_field and (folder := getattr(method, method.adapter_field)):
            adapter_on(folder, live, "the aligned model")


def _by_weight(model: Any, adapter: str | None) -> dict[str, Delta]:
    if adapter is None or adapter not in getattr(model, "peft_config", {}):
        return {}
    by_module = deltas(model, adapter)
    return {f"{module.removeprefix('base_model.model.')}.weight": d for module, d in by_module.items()}
