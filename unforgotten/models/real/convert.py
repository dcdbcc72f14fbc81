"""A GGUF file becomes an ordinary folder of config, safetensors and tokenizer in fp32, by Transformers' own reader."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unforgotten.errors import ModelError, plain
from unforgotten.models.real.catalog import RealModel
from unforgotten.runs import bars
from unforgotten.runs.progress import Say

LINE_SECONDS = 10.0
"""How often a long step says that it goes on."""


def need_gguf() -> None:
    """Raises ModelError where the package that reads GGUF files is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "Converting a real model needs the package gguf. Run `pip install 'unforgotten[real]'`, or `make "
            "real-models` in a checkout."
        )


def convert(gguf: Path, out: Path, model: RealModel, say: Say) -> None:
    """Writes the folder. Raises ModelError where the file is not the model that it should be.

    Transformers marks what it reads from GGUF as quantised and refuses to save it, so a plain model takes its weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bars.hush()
    say("Reading the tokenizer …")
    with bars.in_lines(say, "Reading the tokenizer", LINE_SECONDS), _readable(model):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    say("Widening the weights to fp32 …")
    with bars.in_lines(say, "Widening the weights to fp32", LINE_SECONDS), _counted_tensors(), _readable(model):
        read, loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        config = read.config
        del config.quantization_config
        config.name_or_path = tokenizer.name_or_path = model.title
        full = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        full.load_state_dict(read.state_dict())
        del read
        gc.collect()
    full.generation_config.eos_token_id = tokenizer.eos_token_id
    full.generation_config.pad_token_id = tokenizer.pad_token_id
    _check(full, tokenizer, model, [*loaded["missing_keys"], *loaded["mismatched_keys"]])
    say("Writing the folder …")
    with bars.in_lines(say, "Writing the folder", LINE_SECONDS):
        full.save_pretrained(out)
        tokenizer.save_pretrained(out)


@contextmanager
def _readable(model: RealModel) -> Iterator[None]:
    """Raises ModelError in place of whatever a reader of GGUF raises at a file that it does not understand."""
    try:
        yield
    except Exception as error:
        of_machine = isinstance(error, (MemoryError, RuntimeError)) and plain(error) is not None
        if of_machine or (isinstance(error, OSError) and error.errno is not None):  # of memory, or of the disk
            raise
        raise ModelError(
            f"The GGUF file of {model.title} cannot be read ({type(error).__name__}: {str(error)[:200]}). Install the "
            "versions of gguf and transformers that constraints.txt names."
        ) from error


def _check(full: Any, tokenizer: Any, model: RealModel, drawn: Sequence[Any]) -> None:
    """End and padding tokens, template, size, and that every weight is a number that the file has.

    drawn: weights that the file lacks; Transformers draws these at random, without an error.
    """
    import torch

    config = full.config
    is_there = {
        "eos token": (tokenizer.eos_token, config.eos_token_id),
        "padding token": (tokenizer.pad_token, config.pad_token_id),
        "chat template": bool(tokenizer.chat_template),
        "number of parameters": sum(p.numel() for p in full.parameters()),
        "weights that are not in the file": len(drawn),
        "all weights finite": all(bool(torch.isfinite(p).all()) for p in full.parameters()),
    }
    expected = {
        "eos token": (model.eos, tokenizer.convert_tokens_to_ids(model.eos)),
        "padding token": (model.pad, tokenizer.convert_tokens_to_ids(model.pad)),
        "chat template": model.templated,
        "number of parameters": model.parameters,
        "weights that are not in the file": 0,
        "all weights finite": True,
    }
    wrong = [f"{what}: {is_there[what]}, not {wanted}" for what, wanted in expected.items() if is_there[what] != wanted]
    if wrong:
        raise ModelError(
            f"The converted {model.title} is not as it should be ({'; '.join(wrong)}), and was not kept. Install the "
            "versions of gguf and transformers that constraints.txt names."
        )


@contextmanager
def _counted_tensors() -> Iterator[None]:
    """Takes the place of the bar that Transformers' reader draws: nothing else turns that off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def each(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for i, tensor in enumerate(tensors, 1):
            yield tensor
            bars.tick("Widening tensors to fp32", i, len(tensors))

    before, reader.tqdm = reader.tqdm, each
    try:
        yield
    finally:
        reader.tqdm = before
