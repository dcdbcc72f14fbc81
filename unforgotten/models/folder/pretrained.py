"""The one place that calls `from_pretrained`: on a private folder that `folder.open.opened` made, and on nothing else.

Weights are read from safetensors only, no code of a model is run, and nothing is fetched.
"""

from __future__ import annotations

import warnings
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder import skeleton
from unforgotten.models.folder.open import Opened, opened

_ALONE = {"trust_remote_code": False, "local_files_only": True}


def causal_lm(place: Opened, **more: Any) -> Any:
    """A causal LM. more: dtype, quantization_config. Raises ModelError, also where weights would be random numbers."""
    from transformers import AutoModelForCausalLM

    skeleton.check(place)
    return _model(AutoModelForCausalLM, place, **more)


def configuration(place: Opened) -> Any:
    """A model's configuration. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(place.path), **_ALONE)
    except Exception as error:  # files of strangers fail in as many ways as there are architectures
        raise _refused("configuration", place, error) from error


def encoder(place: Opened) -> Any:
    """A model without a head, for embeddings. Raises ModelError."""
    from transformers import AutoModel

    skeleton.check(place, headless=True)
    return _model(AutoModel, place, unused=("pooler.",))


def _model(kind: Any, place: Opened, unused: tuple[str, ...] = (), **more: Any) -> Any:
    """unused: beginnings of names of weights that may be missing, since nothing here reads them."""
    try:
        model, loading_info = kind.from_pretrained(
            str(place.path), use_safetensors=True, output_loading_info=True, **_ALONE, **more
        )
    except Exception as error:  # files of strangers fail in as many ways as there are architectures
        raise _refused("model", place, error) from error
    loading_info = loading_info | {
        "missing_keys": [k for k in loading_info.get("missing_keys") or () if not k.startswith(unused or "\0")]
    }
    skeleton.check_loaded(loading_info, place.called, None if unused else model)
    model.name_or_path = model.config.name_or_path = place.called
    return model


def tokenizer(model: str, revision: str | None = None) -> tuple[Any, list[int]]:
    """Tokenizer of a folder or Hub id, and the end tokens of its generation config. Raises ModelError."""
    from transformers import AutoTokenizer, GenerationConfig
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    place = opened(model, revision, "chat")
    try:
        loaded = AutoTokenizer.from_pretrained(str(place.path), **_ALONE)
        if not isinstance(loaded, PreTrainedTokenizerBase):
            raise TypeError(f"{type(loaded).__name__} is not the tokenizer of a language model.")
        loaded("a \u2603 \U0001f600")  # one whose unknown token is not in its vocabulary fails here, not in mid-run
    except BaseException as error:  # a panic of tokenizers is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # the user's Ctrl-C, or SIGTERM
        raise _refused("tokenizer", place, error) from error
    loaded.name_or_path = model
    try:
        eos = GenerationConfig.from_pretrained(str(place.path), local_files_only=True).eos_token_id
    except Exception:  # a model need not have a generation config; the template's end of turn is enough
        eos = None
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if any(type(end) is not int or not 0 <= end < 1 << 31 for end in ends) or len(ends) > 1000:
        raise ModelError(
            f"{model}: generation_config.json: eos_token_id is {str(eos)[:60]}, which is not a list of token ids."
        )
    return loaded, ends


def adapted(model: Any, folder: str, name: str, trainable: bool) -> Any:
    """A PeftModel with the adapter of a folder or Hub id. Raises ModelError, also where its file lacks factors."""
    from peft import PeftModel

    place = opened(folder, part="adapter")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted_model = PeftModel.from_pretrained(model, str(place.path), adapter_name=name, is_trainable=trainable)
    except Exception as error:  # files of strangers fail in as many ways as there are adapters
        raise _refused("adapter", place, error) from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            names = str(warning.message).partition(":")[2].strip()[:300]
            raise ModelError(
                f"The adapter {folder!r} lacks tensors that its adapter_config.json asks for. They would be random "
                f"numbers: {names} Give the complete adapter, or the config that it was trained with."
            )
    return adapted_model


def _refused(what: str, place: Opened, error: BaseException) -> BaseException:
    """The error to raise: want of memory stays what it is, so that others can say what to do."""
    text = " ".join(str(error).split())[:400]
    if isinstance(error, MemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text:
        return error
    return ModelError(f"Cannot load the {what} {place.called!r}: {text or type(error).__name__}")
