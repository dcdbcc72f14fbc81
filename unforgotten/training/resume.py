"""Which checkpoint a run goes on from: the newest whole one, the same on all ranks, and of the same rows a step.

The first rank reads and decides; the others only show what they see. Ranks that see different checkpoints have no disk
in common: trained from there, they would average gradients of different positions and save the result.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError, Tensor

from unforgotten.errors import TrainingError, UnforgottenError
from unforgotten.training import checkpoint, drift


@dataclass
class Seen:
    """What one rank sees and, of the first rank, what it decides."""

    checkpoints: dict[str, str]
    """Name and digest of the mark of each."""
    chosen: str | None = None
    damaged: list[tuple[str, str]] = field(default_factory=list)
    """Newer checkpoints that are not whole, and why."""


def start(trainer: Any, asked: str | bool | None) -> Path | None:
    """The checkpoint to go on from, or None. asked: True for the newest whole one, or the folder of one.

    Raises TrainingError where the one asked for is damaged, ranks see different ones, or its steps had other rows.
    """
    if not asked:
        return None
    output = Path(trainer.args.output_dir)
    first = trainer.args.process_index == 0
    ranks = _gathered(trainer, _look(output, asked, decides=first))
    _refuse_different(ranks, output if asked is True else Path(str(asked)).parent)
    chosen = Path(ranks[0].chosen) if ranks[0].chosen else None
    damaged = [checkpoint.DamagedCheckpoint(Path(folder), why) for folder, why in ranks[0].damaged]
    if asked is not True and damaged:
        raise TrainingError(
            f"{asked} is damaged: {damaged[0].why}. Name another checkpoint, or pass resume_from_checkpoint=True for "
            "the newest complete one."
        )
    if asked is True and first:
        checkpoint.put_aside(output, damaged)
    for each in damaged:
        trainer.run.warn(
            f"{each.folder} is damaged and was skipped: {each.why}. The folder is now damaged-{each.folder.name}"
        )
    if damaged and chosen is None:
        trainer.run.warn(f"no complete checkpoint is left in {output}, so the training starts again from step 0")
    elif damaged:
        trainer.run.warn(f"the training continues from {chosen}, the newest complete checkpoint")
    if chosen is not None:
        _check(trainer, chosen)
    trainer.accelerator.wait_for_everyone()
    return chosen


def _look(output: Path, asked: str | bool, *, decides: bool) -> Seen:
    if asked is not True:
        folder = Path(str(asked))
        why = checkpoint.fault(folder) if decides else None
        return Seen(checkpoint.seen([folder]), str(folder), [(str(folder), why)] if why else [])
    seen = Seen(checkpoint.seen(checkpoint.marked(output)))
    if decides:
        chosen, damaged = checkpoint.newest_whole(output)
        seen.chosen = str(chosen) if chosen else None
        seen.damaged = [(str(each.folder), each.why) for each in damaged]
    return seen


def _gathered(trainer: Any, seen: Seen) -> list[Seen]:
    if trainer.args.world_size == 1:
        return [seen]
    from accelerate.utils import gather_object

    return [Seen(**facts) for facts in gather_object([asdict(seen)])]


def _refuse_different(ranks: list[Seen], where: Path) -> None:
    other = next((i for i, rank in enumerate(ranks) if rank.checkpoints != ranks[0].checkpoints), None)
    if other is not None:
        names = [", ".join(sorted(rank.checkpoints)) or "none" for rank in (ranks[0], ranks[other])]
        raise TrainingError(
            f"The ranks do not see the same checkpoints in {where}: rank 0 sees {names[0]}, rank {other} sees "
            f"{names[1]}{' with another content' if names[0] == names[1] else ''}. Use an output_dir on a disk that "
            "all ranks share, or start anew with an empty output_dir on every machine."
        )


def _check(trainer: Any, chosen: Path) -> None:
    """Raises TrainingError where its steps had other rows; takes over what was noted before."""
    mark = checkpoint.mark(chosen)
    if not checkpoint.is_verified(chosen):
        trainer.run.warn(f"{chosen} is from a version that wrote no digests, so it is used without a check")
    if mark.get("of") not in (None, trainer.run.digest):
        raise TrainingError(
            f"{chosen} is of another run ({mark['of']!s:.80}, this is {trainer.run.digest}). That run saw other rows, "
            "or another order. Remove the checkpoint, and run the same command again."
        )
    rows, now = mark.get("rows_a_step"), trainer.run.user.batch_size
    if rows not in (None, now):
        raise TrainingError(
            f"{chosen} was trained with {rows} rows a step, but this run has {now} (per_device_train_batch_size × "
            f"gradient_accumulation_steps × ranks). Set these so that the product is {rows} again. The number of "
            "ranks may differ."
        )
    trainer.run.notes += [note for note in mark.get("notes", []) if note not in trainer.run.notes]
    trainer.run.ratios |= {who: tuple(most) for who, most in mark.get("ratios", {}).items()}
    trainer.run.memory.held_out.course = [drift.of_line(line) for line in mark.get("held_out", [])]


@contextmanager
def reading(folder: str | None, settings: Callable[[], list[dict[str, Any]]] = list) -> Iterator[None]:
    """Reading the Trainer's own state: what it cannot take raises TrainingError that names the checkpoint.

    Files whose digests agree may still hold other shapes, other types, or pickles of more than tensors.
    settings: mappings whose values must be of the same kinds afterwards as before.
    """
    before = [_kinds(values) for values in settings()] if folder else []
    try:
        yield
        after = [_kinds(values) for values in settings()] if folder else []
        for old, new in zip(before, after, strict=True):
            other = next((name for name, kind in new.items() if old.get(name, kind) not in (kind, "NoneType")), None)
            if other is not None:
                raise TypeError(f"{other!r} is {new[other]}, and {old[other]} is needed")
    except (UnforgottenError, MemoryError, OutOfMemoryError):
        raise
    except Exception as error:  # as many kinds as there are formats of state
        # What PyTorch advises for a pickle of more than tensors is to run it.
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "a file holds more than tensors" if unsafe else f"{type(error).__name__}: {str(error)[:160]}"
        raise TrainingError(
            f"{folder} cannot be resumed ({why}). Remove it, and run the same command again: it continues from an "
            "older checkpoint or from the start."
        ) from error


def _kinds(values: dict[str, Any]) -> dict[str, str]:
    """What each value is, numbers alike; of lists the kinds inside."""
    return {name: _kind(value) for name, value in values.items() if name != "params"}


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {', '.join(sorted({_kind(each) for each in value})) or 'nothing'}"
    if isinstance(value, (int, float, Tensor)) and not isinstance(value, bool):
        return "a number"
    return type(value).__name__
