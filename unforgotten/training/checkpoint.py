"""What a checkpoint holds beside the Trainer's own: the methods' state, and a mark that says that it is whole.

checkpoint-120/
  …                                what transformers.Trainer writes
  unforgotten/<method>.safetensors tensors of the attributes in `remembers`
  unforgotten/<method>.json        the other attributes in `remembers`
  unforgotten/complete.json        written last: without it a checkpoint was cut off and is not resumed from

The mark has the sha256 of every other file, and of itself; a checkpoint is resumed from only where all of them agree.
A checkpoint from before there were digests is taken as it is, and that is said. The cost is one reading of the
checkpoint at each save and one at a resume: about a second for 1 GB.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from unforgotten.errors import TrainingError
from unforgotten.methods.base import Method
from unforgotten.runs import atomic
from unforgotten.training.aligned_store import write

FOLDER = "unforgotten"
MARK = "complete.json"
READ_BY_THE_TRAINER = re.compile(
    r"(pytorch_model|model|adapter_model)\S*\.(bin|safetensors)(\.index\.json)?"
    r"|(optimizer|scheduler|scaler|rng_state\S*)\.(pt|bin|pth)"
)
"""A file of such a name that the mark does not list would be read in place of, or beside, those that it lists."""

TYPES: dict[str, type] = {"methods": list, "notes": list, "ratios": dict, "held_out": list}
"""What a mark holds of these."""


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that is not what was written, and why."""

    folder: Path
    why: str


def save(checkpoint: Path, methods: dict[str, Method], facts: Mapping[str, Any]) -> None:
    """Writes every method's `remembers`, then the mark, with `facts` about the run in it."""
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
            atomic.put(folder / f"{name}.json", json.dumps(values))
    mark: dict[str, Any] = {"methods": list(methods), **facts, "step": _step(checkpoint), "files": _digests(checkpoint)}
    atomic.put(checkpoint / FOLDER / MARK, json.dumps(mark | {"digest": _digest(mark)}, indent=1))


def load_methods(checkpoint: Path, methods: dict[str, Method], device: Any) -> None:
    """Puts every method's `remembers` back. Raises TrainingError where the checkpoint belongs to other methods."""
    saved = mark(checkpoint).get("methods")
    if saved != list(methods):
        raise TrainingError(
            f"{checkpoint} was written by the methods {saved}, but this run has {list(methods)}. Resume with the same "
            "methods, or start anew with an empty output folder."
        )
    for name, method in methods.items():
        folder = checkpoint / FOLDER
        if (folder / f"{name}.json").exists():
            for attribute, value in json.loads((folder / f"{name}.json").read_text()).items():
                setattr(method, attribute, value)
        if (folder / f"{name}.safetensors").exists():
            by_attribute: dict[str, dict[str, Tensor]] = {}
            for key, tensor in load_file(folder / f"{name}.safetensors").items():
                attribute, _, part = key.partition(":")
                by_attribute.setdefault(attribute, {})[part] = tensor.to(device)
            for attribute, parts in by_attribute.items():
                setattr(method, attribute, parts[""] if set(parts) == {""} else parts)


def mark(checkpoint: Path) -> dict[str, Any]:
    """What the mark says. Raises TrainingError where there is none that can be read."""
    try:
        facts = json.loads((checkpoint / FOLDER / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise TrainingError(
            f"{checkpoint} is not a complete checkpoint of MethodTrainer: it has no readable {FOLDER}/{MARK}. Name "
            "another checkpoint, or pass resume_from_checkpoint=True for the newest complete one."
        )
    return facts


def is_verified(checkpoint: Path) -> bool:
    """Whether its mark has digests; older ones have none."""
    return "files" in mark(checkpoint)


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not what was written; None where it is, or where it is too old to tell. Reads every file."""
    try:
        facts = mark(checkpoint)
    except TrainingError:
        return f"{FOLDER}/{MARK} cannot be read"
    step = facts.get("step", _step(checkpoint))
    if (counted := _counted(checkpoint)) not in (None, step):
        return f"its trainer_state.json is at step {counted!r:.40}, and it was written at step {step!r:.40}"
    if set(facts) == {"methods"}:
        return _unreadable(checkpoint)
    rest = {name: value for name, value in facts.items() if name != "digest"}
    listed = facts.get("files")
    typed = all(isinstance(facts.get(key, kind()), kind) for key, kind in TYPES.items())
    if facts.get("digest") != _digest(rest) or not isinstance(listed, dict) or not typed:
        return f"{FOLDER}/{MARK} changed after it was written"
    if _step(checkpoint) not in (None, facts.get("step")):
        return f"it is the checkpoint of step {facts.get('step')}, under another name"
    try:
        there = _digests(checkpoint)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for name, digest in listed.items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != digest:
            return f"{name} changed after it was written (its sha256 differs)"
    more = [name for name in there if name not in listed and READ_BY_THE_TRAINER.fullmatch(Path(name).name)]
    if more:
        return f"{more[0]} does not belong to it"
    is_state = "trainer_state.json" not in there or _counted(checkpoint) is not None
    return None if is_state else "trainer_state.json names no step"


def _unreadable(checkpoint: Path) -> str | None:
    """The first file of an older checkpoint that nothing could read; whether the others are right, none can tell."""
    import torch
    from safetensors import safe_open

    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.name in ("optimizer.pt", "scheduler.pt"):
                torch.load(path, map_location="cpu", weights_only=True)  # a pickle of anything else is not run
            elif path.suffix == ".safetensors":
                with safe_open(str(path), "pt"):
                    pass
        except Exception as error:  # cut and damaged files fail in as many ways as there are formats
            return f"{path.relative_to(checkpoint)} cannot be read ({type(error).__name__})"
    return None


def marked(output: Path) -> list[Path]:
    """Checkpoints that were written to their end, newest first. Whether they still are whole, `fault` tells."""
    return [folder for folder in _all(output) if (folder / FOLDER / MARK).exists()]


def newest_whole(output: Path) -> tuple[Path | None, list[DamagedCheckpoint]]:
    """The newest checkpoint that is what was written, and the newer ones that are not."""
    damaged: list[DamagedCheckpoint] = []
    for folder in marked(output):
        if (why := fault(folder)) is None:
            return folder, damaged
        damaged.append(DamagedCheckpoint(folder, why))
    return None, damaged


def put_aside(output: Path, damaged: list[DamagedCheckpoint]) -> None:
    """Removes what a kill cut off, and renames what is damaged, so that nothing else picks them up."""
    for folder in set(_all(output)) - set(marked(output)):
        shutil.rmtree(folder, ignore_errors=True)
    for each in damaged:
        aside = each.folder.with_name(f"damaged-{each.folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        each.folder.rename(aside)


def seen(checkpoints: list[Path]) -> dict[str, str]:
    """Each checkpoint's name and the digest of its mark: what ranks compare."""
    digests = {}
    for folder in checkpoints:
        try:
            digests[folder.name] = hashlib.sha256((folder / FOLDER / MARK).read_bytes()).hexdigest()
        except OSError:
            digests[folder.name] = "none"
    return digests


def _all(output: Path) -> list[Path]:
    numbered = [(_step(folder), folder) for folder in output.glob("checkpoint-*")]
    return [
        folder for step, folder in sorted(numbered, key=lambda pair: pair[0] or 0, reverse=True) if step is not None
    ]


def _step(checkpoint: Path) -> int | None:
    number = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(number[1]) if number else None


def _counted(checkpoint: Path) -> Any:
    """The step that the Trainer goes on from; None where there is no state that can be read: its digest tells."""
    try:
        facts = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return facts.get("global_step") if isinstance(facts, dict) else None


def _digests(checkpoint: Path) -> dict[str, str]:
    """The sha256 of every file but the mark, by its path inside."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        if path.is_file() and name != f"{FOLDER}/{MARK}":
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
