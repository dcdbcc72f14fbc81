"""Saves an adapter so that it opens anywhere: no absolute paths, its base a Hub id or bundled beside it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from unforgotten.models import join as joining
from unforgotten.models.adapters import ALIGNED, TRAINED, activate
from unforgotten.models.folder.open import opened

JOINED = "joined"
"""The name of the adapter that is saved under `stack`."""

BUNDLED = "../aligned"
"""What `base_model_name_or_path` says when the base lies beside the adapter: relative to the adapter's folder. The
same weights are also bundled inside the folder, where transformers looks first."""


def save_adapter(model: Any, folder: Path, base: str, revision: str | None) -> str:
    """Writes the trained adapter (under `stack`: both, joined) so that peft and transformers open it after a move.

    base: a Hub id, or a local folder whose config and weights are then bundled by hard links (copied across disks).
    Returns the name that the saved adapter has in the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = next(iter(n for n in model.peft_config if n == TRAINED), next(iter(model.peft_config)))
    if ALIGNED in model.peft_config:
        name = join(model)
    model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    if (folder / name).is_dir():  # PEFT puts every adapter but `default` into a folder of its own
        for file in (folder / name).iterdir():
            os.replace(file, folder / file.name)
        (folder / name).rmdir()
    _name_magnitudes(folder / "adapter_model.safetensors")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card names the base's path on this machine
    config = json.loads((folder / "adapter_config.json").read_text())
    local = Path(base).expanduser().is_dir()
    config["base_model_name_or_path"] = BUNDLED if local else base
    config["revision"] = None if local else revision
    config["inference_mode"] = True
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT keeps a set: its order would change from process to process
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if local:
        bundle(Path(base).expanduser(), folder)
    return name


def _name_magnitudes(file: Path) -> None:
    """DoRA's magnitudes by the name that PEFT and Transformers read.

    PEFT writes `….lora_magnitude_vector`, which Transformers leaves out when it loads an adapter beside its base.
    """
    tensors = load_file(file)
    named = {f"{n}.weight" if n.endswith(".lora_magnitude_vector") else n: t for n, t in tensors.items()}
    if named.keys() != tensors.keys():
        save_file(named, file, metadata={"format": "pt"})


def join(model: Any) -> str:
    """θ_safe's adapter and the user's as a third, inactive one, by exact concatenation; returns its name."""
    joining.join(model, (ALIGNED, TRAINED), JOINED)
    activate(model, [ALIGNED, TRAINED])
    return JOINED


def bundle(base: Path, folder: Path) -> None:
    """The base's config and weights, in the same folder: `AutoModelForCausalLM.from_pretrained(folder)` finds both."""
    place = opened(str(base), part="base")
    for name in ("config.json", *(["generation_config.json"] if "generation_config.json" in place.files else [])):
        (folder / name).unlink(missing_ok=True)
        shutil.copyfile(place.path / name, folder / name)
    for name in place.weights:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            # A private copy, or a file that nobody else can write: never one that a stranger can still change.
            os.link((place.path / name).resolve(), target)
        except OSError:  # another disk
            shutil.copyfile(place.path / name, target)
