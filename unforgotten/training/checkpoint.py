"""What a checkpoint holds beside the Trainer's own: the methods' state, and a mark that says it is whole.

checkpoint-120/
  …                                what transformers.Trainer writes
  unforgotten/<method>.safetensors tensors of the attributes in `remembers`
  unforgotten/<method>.json        the other attributes in `remembers`
  unforgotten/complete.json        written last: without it a checkpoint was cut off and is not resumed from
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from unforgotten import files
from unforgotten.errors import TrainingError
from unforgotten.methods.base import Method
from unforgotten.training.once import write

FOLDER = "unforgotten"
MARK = "complete.json"


def save_methods(checkpoint: Path, methods: dict[str, Method]) -> None:
    """Writes every method's `remembers`, then the mark."""
    for name, method in methods.items():
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for attribute in method.remembers:
            value = getattr(method, attribute)
            if isinstance(value, Tensor):
                tensors[f"{attribute}:"] = value
            elif isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values()):
                tensors |= {f"{attribute}:{n}": t for n, t in value.items()}
            else:
                values[attribute] = value
        folder = checkpoint / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if tensors:
            write(folder / f"{name}.safetensors", tensors)
        if values:
            files.put(folder / f"{name}.json", json.dumps(values))
    files.put(checkpoint / FOLDER / MARK, json.dumps({"methods": list(methods)}))


def load_methods(checkpoint: Path, methods: dict[str, Method], device: Any) -> None:
    """Puts every method's `remembers` back. Raises TrainingError where the checkpoint belongs to other methods."""
    mark = checkpoint / FOLDER / MARK
    saved = json.loads(mark.read_text())["methods"] if mark.exists() else None
    if saved != list(methods):
        raise TrainingError(
            f"{checkpoint} was written by the methods {saved}, this run has {list(methods)}. Resume with the same "
            "methods, or start anew with an empty output folder."
        )
    for name, method in methods.items():
        folder = checkpoint / FOLDER
        if (folder / f"{name}.json").exists():
            for attribute, value in json.loads((folder / f"{name}.json").read_text()).items():
                setattr(method, attribute, value)
        if (folder / f"{name}.safetensors").exists():
            found: dict[str, dict[str, Tensor]] = {}
            for key, tensor in load_file(folder / f"{name}.safetensors").items():
                attribute, _, part = key.partition(":")
                found.setdefault(attribute, {})[part] = tensor.to(device)
            for attribute, parts in found.items():
                setattr(method, attribute, parts[""] if set(parts) == {""} else parts)


def newest_complete(output: Path) -> Path | None:
    """The newest whole checkpoint; those that a kill cut off are removed, so that nothing else picks them up."""
    found: list[tuple[int, Path]] = []
    for folder in output.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if number and (folder / FOLDER / MARK).exists():
            found.append((int(number[1]), folder))
        elif number:
            shutil.rmtree(folder)
    return max(found)[1] if found else None
