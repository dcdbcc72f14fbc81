"""Loads models from folders and the Hub: θ₀, θ_safe, and adapters, merged in fp32 or put on a base.

Weights are read from safetensors only, and no code of a model is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models import adapters, check_saved, nf4
from unforgotten.models.chat import Chat
from unforgotten.models.folder import adapter, pretrained
from unforgotten.models.folder.open import Opened, opened

if TYPE_CHECKING:
    from unforgotten.recipe.training import Lora


def is_adapter(model: str) -> bool:
    """Is this folder a LoRA on another model (and not a complete model with an adapter bundled)?"""
    folder = Path(model).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def is_bundled(model: str) -> bool:
    """Do a base and an adapter lie together in this folder, as a run on a local model leaves them?"""
    folder = Path(model).expanduser()
    return (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file()


def load_model(
    model: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    merge: bool = False,
    load_in: str | None = None,
    trains: bool = False,
    named: Iterable[str | None] = (),
) -> Any:
    """A causal LM from a folder or the Hub. Raises ModelError that says what to do.

    merge: a folder in which a base and an adapter lie together (what a run leaves) becomes one plain model, so that it
    can be fine-tuned again; otherwise the adapter stays an adapter.
    load_in: `nf4` quantises it as it is read (UnsupportedError where that cannot be); of such a folder the base alone,
    for its adapter to be put on.
    trains: adapters are to be trained on the quantised base.
    named: folders that the operator names, which an adapter may lie on.
    """
    place = opened(model, revision)
    if place.is_adapter:
        below, pinned = adapter.base_of(place.adapter or {}, model, named), (place.adapter or {}).get("revision")
        lower = load_model(below, revision=pinned, dtype=dtype, load_in=load_in, trains=trains)
        return put_adapter(lower, model, "default", trainable=False, keeps_base=False)
    if place.is_bundled and (load_in or merge):
        whole = _from_files(opened(model, revision, "base"), dtype, load_in, trains)
        return whole if load_in else merged(put_adapter(whole, model, "default", trainable=False), [1, 2, 3])[0]
    return _from_files(place, dtype, load_in, trains)


def load_base(model: str) -> Any:
    """The base alone of a folder in which a base and an adapter lie together, for its adapter to be put on."""
    return _from_files(opened(model, None, "base"), "auto", None, True)


def _from_files(place: Opened, dtype: str, load_in: str | None, trains: bool) -> Any:
    more = {"quantization_config": nf4.config()} if load_in else {}
    model = pretrained.causal_lm(place, dtype=dtype, **more)
    return nf4.checked(model, trains) if load_in else model


def loaded_as(model: Any) -> dict[str, Any] | None:
    """How the base is quantised, for the record; None where it is not."""
    return nf4.facts(model) if nf4.is_quantised(model) else None


def load_chat(
    model: str,
    *,
    revision: str | None = None,
    template: str | None = None,
    date: str | None = None,
    variables: dict[str, Any] | None = None,
) -> Chat:
    """Tokenizer and chat template of a folder or Hub id. Raises ModelError or TemplateError."""
    tokenizer, ends = pretrained.tokenizer(model, revision)
    return Chat(tokenizer, template=template, date=date, variables=variables or None, stop_ids=ends)


def lora_config(lora: Lora) -> Any:
    """PEFT's configuration of a fresh adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def put_adapter(model: Any, folder: str, name: str, trainable: bool, keeps_base: bool = True) -> Any:
    """A PeftModel with one adapter read from `folder`.

    keeps_base: the model with the adapter off must be the one given, as training needs it; evaluation does not.
    """
    adapted = pretrained.adapted(model, folder, name, trainable)
    _all_read(adapted, opened(folder, part="adapter").path, name)
    if keeps_base:
        adapters.check_init(adapted.peft_config[name], fresh=False)
    if trainable:
        adapters.refuse_shared_rows(adapted)
    return adapted


@torch.no_grad()
def merged(model: Any, probe_ids: list[int]) -> tuple[Any, float]:
    """Merges the active adapters in fp32 and casts back; also the largest deviation of logits that this made.

    probe_ids: one prompt's token ids, on which logits before and after are compared. Raises ModelError where they
    differ by more than rounding explains, UnsupportedError where the adapter has no merged form.
    """
    if nf4.is_quantised(model):
        raise UnsupportedError(
            "An adapter cannot be merged into a base in 4 bits: merging rounds each weight to one of 16 values "
            "again. Keep it as an adapter, or merge it into the unquantised base."
        )
    base = model.get_base_model()
    untie(base)
    kinds = {_unwrapped(n): t.dtype for n, t in itertools.chain(base.named_parameters(), base.named_buffers())}
    dtype = check_saved.dtype_of(base)
    before = check_saved.heard(model, [probe_ids])
    training = model.training
    model.float() if dtype != torch.float64 else model.double()
    try:
        plain = model.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        raise UnsupportedError(
            f"This adapter cannot be merged into its base: {' '.join(str(error).split())[:400]}. Keep it "
            "as an adapter (lora.existing: continue)."
        ) from error
    for name, t in itertools.chain(plain.named_parameters(), plain.named_buffers()):
        t.data = t.data.to(kinds.get(name, t.dtype))
    if (head := plain.get_output_embeddings()) is not None and not plain.config.tie_word_embeddings:
        if head.weight is plain.get_input_embeddings().weight:  # the adapter changed both alike
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
    plain.requires_grad_(True)
    plain.train(training)
    deviation, scale = check_saved.deviation(before, check_saved.heard(plain, [probe_ids]))
    if not deviation <= (bound := check_saved.limit(scale, dtype)):
        raise ModelError(
            f"Merging the adapter changed a logit by {deviation:.2g}, where rounding to {str(dtype)[6:]} explains "
            f"{bound:.1g}. So the merged model is a different model. Keep it as an adapter (lora.existing: continue), "
            "or merge in higher precision (dtype: float32)."
        )
    return plain, deviation


def untie(base: Any) -> None:
    """Gives head and embedding a tensor each where an adapter changes one of them: a merge would change both.

    The configuration says so too, or the head would be lost when the model is saved and loaded again.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    wrapped = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if head is None or not (isinstance(head, wrapped) or isinstance(embedding, wrapped)):
        return
    inner = [getattr(m, "original_module", None) or getattr(m, "base_layer", None) or m for m in (head, embedding)]
    inner = [getattr(m, "base_layer", m) for m in inner]
    if inner[0].weight is inner[1].weight:
        inner[0].weight = torch.nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
        if hasattr(text := base.config.get_text_config(), "tie_word_embeddings"):
            text.tie_word_embeddings = False


WRAPPERS = ("base_layer", "original_module", "token_adapter")


def _unwrapped(name: str) -> str:
    """A parameter's name after PEFT has taken its layers off again."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _all_read(model: Any, folder: Path, name: str) -> None:
    """Raises ModelError for tensors of an adapter's file that its config has no place for: PEFT drops them."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    places = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    places |= {n.replace(".base_layer.", ".") for n in model.state_dict()} | set(model.state_dict())
    with safe_open(str(file), "pt") as handle:
        lost = sorted(n for n in handle.keys() if n not in places and n.removesuffix(".weight") not in places)
    if lost and not _renamed(model):
        raise ModelError(
            f"The adapter holds {len(lost)} tensors that its adapter_config.json does not describe, such as "
            f"{lost[0]!r}. They would be left out. Give the config that it was trained with."
        )


def _renamed(model: Any) -> bool:
    """Does Transformers read this architecture's files by other names? PEFT then turns an adapter's names as well."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    return bool(get_model_conversion_mapping(model.get_base_model(), add_legacy=False))
