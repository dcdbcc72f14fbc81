"""The errors that a user may see, drawn as a tree.

    UnforgottenError                  the base; the command line prints it and exits with 2
    ├── RecipeError                   a recipe, flag or setting is wrong
    │   └── UnknownName               there is no such method, dataset, judge or field
    ├── DataError                     a file or its rows are wrong; `problems` names the lines
    ├── TemplateError                 a chat template cannot write the rows, or its loss mask is unclear
    ├── ModelError                    a model or adapter cannot be loaded, or cannot be θ_safe
    ├── UnsupportedError              a method cannot be correct in this set-up (FSDP1, DeepSpeed, packing …)
    ├── JudgeError                    a judge is missing, or cannot judge these replies
    ├── EndpointError                 a server refuses a request, or does not answer after all retries
    ├── SandboxError                  no sandbox is available for code that a model wrote
    ├── TrainingError                 training stopped: NaN loss, a store of other weights …
    ├── LeaseLost                     another process took over the work of this one, silent for too long
    └── Unfinished                    some runs of a comparison failed; `rows` has the figures of the others

`Terminated` is not an error: SIGTERM has come, and the process ends with 143.

Each message names the place and says what to do. No error has a silent fallback.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

USER_MODULE = "unforgotten_user_"
"""How the modules of users' own files begin (registry)."""


class UnforgottenError(Exception):
    """An error that a user can correct; the message says how."""


class RecipeError(UnforgottenError):
    """A recipe, flag or setting is wrong."""


class UnknownName(RecipeError):
    """There is no such name; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"There are: {', '.join(self.known)}."
        super().__init__(f"Unknown {kind} {name!r}. {hint}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        """From one process to another: by what it was made of."""
        return type(self), (self.kind, self.name, self.known)


def _with_problems(message: str, problems: Sequence[tuple[int, str]], shown: int = 20) -> str:
    lines = [f"  line {line}: {what}" for line, what in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more")
    return "\n".join([message, *lines])


class DataError(UnforgottenError):
    """A data file or its rows are wrong. `problems` holds (line number, what is wrong); 20 of them are printed.

    `rows` holds the rows that could be read.
    """

    shown_rows = 20
    rows: Sequence[Any] = ()

    def __init__(self, message: str, problems: Sequence[tuple[int, str]] = ()) -> None:
        self.problems = list(problems)
        super().__init__(_with_problems(message, self.problems, self.shown_rows))


class TemplateError(UnforgottenError):
    """A chat template cannot write these rows, or its loss mask or end of turn cannot be determined.

    `problems` as in DataError.
    """

    def __init__(self, message: str, problems: Sequence[tuple[int, str]] = ()) -> None:
        self.problems = list(problems)
        super().__init__(_with_problems(message, self.problems))


class ModelError(UnforgottenError):
    """A model or adapter cannot be loaded, or cannot be the aligned model (θ_safe)."""


class UnsupportedError(UnforgottenError):
    """A method cannot be correct in this set-up, such as FSDP1, DeepSpeed or packing."""


class JudgeError(UnforgottenError):
    """A judge is missing, or cannot judge these replies."""


class EndpointError(UnforgottenError):
    """A server refuses a request, or does not answer after all retries."""


class SandboxError(UnforgottenError):
    """No sandbox is available for code that a model wrote; such code never runs without one."""


class TrainingError(UnforgottenError):
    """Training stopped. The last complete checkpoint is kept."""


class LeaseLost(UnforgottenError):
    """Another process took over the work of this one, which stops before it writes anything more."""


class Unfinished(UnforgottenError):
    """Some runs of a comparison failed. The others are finished; `rows` holds their figures, each a `ResultRow`."""

    def __init__(self, message: str, rows: Sequence[Any] = ()) -> None:
        self.rows = list(rows)
        super().__init__(message)


_MENDS = {
    errno.ENOSPC: "The disk is full. Make room, then give the same command again: it goes on from what is complete.",
    errno.EDQUOT: "Your disk quota is used up. Make room, then give the same command again.",
    errno.EFBIG: "The file would be larger than this process may write (ulimit -f).",
    errno.EROFS: "The file system is read-only. Name another folder with --out.",
    errno.EACCES: "You may not read or write it. Change its permissions, or name another place.",
    errno.EPERM: "You may not do that there. Change its permissions, or name another place.",
    errno.EISDIR: "It is a folder, but a file is needed.",
    errno.ENOTDIR: "It is a file, but a folder is needed.",
    errno.ENOENT: "It does not exist.",
    errno.EEXIST: "Something with that name exists already. Move it away.",
    errno.ENAMETOOLONG: "The name is too long for the file system.",
    errno.EMFILE: "Too many files are open (ulimit -n).",
    errno.ENOMEM: "There is not enough memory.",
    errno.EIO: "The disk or network drive reported an error.",
    errno.ESTALE: "The network drive lost the file. Give the same command again.",
}
_MEMORY = (
    "There is not enough memory. Lower training.per_device_train_batch_size (with a higher "
    "training.gradient_accumulation_steps the result is nearly the same), training.max_length or "
    "evaluate.batch_size; or set training.gradient_checkpointing: true."
)
_WITHOUT_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "can't start new thread",  # its stack does not fit
    "failed to map segment",  # a library does not
)
_FULL = ("no space left", "disk full", "file write failed", "unexpected pos", "inline_container")
_CUT = r"\d+ requested and \d+ written"
"""What ndarray.tofile raises on a full disk, without a number."""


def plain(error: BaseException) -> str | None:
    """The line for an error of libraries and system that a user can mend; None for a fault of ours.

    Read by name, so that no library is loaded here.
    """
    if isinstance(error, UnforgottenError):
        return str(error)
    names = {f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(error).__mro__}
    text = text_of(error)
    if (
        isinstance(error, MemoryError)
        or _lacked_memory(error)
        or "torch.OutOfMemoryError" in names
        or _says(error, _WITHOUT_MEMORY)
    ):
        return _MEMORY
    if (theirs := of_user(error)) is not None:
        return theirs
    numpys = isinstance(error, OSError) and error.errno is None and re.fullmatch(_CUT, text)
    if numpys or (isinstance(error, RuntimeError) and _says(error, _FULL)):
        return f"A file {_full_places()}could not be written ({text.partition(chr(10))[0]}). {_MENDS[errno.ENOSPC]}"
    if isinstance(error, OSError) and error.errno is not None and error.errno in _MENDS:
        place = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        if not place:
            place = f"A file {_full_places() if error.errno == errno.ENOSPC else ''}".strip()
        return f"{place}: {error.strerror}. {_MENDS[error.errno]}"
    if "SafetensorError" in {name.partition(".")[2] for name in names}:
        full = any(word in text.lower() for word in ("os { code: 28", "os error 28", *_FULL))
        return (
            f"Weights {_full_places()}cannot be written. {_MENDS[errno.ENOSPC]}"
            if full
            else (f"A safetensors file cannot be read ({text}). It is truncated or damaged: download or copy it again.")
        )
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("unforgotten"):
        return f"The package {error.name} is needed here, but not installed: pip install {error.name}."
    if not isinstance(error, (Exception, GeneratorExit, KeyboardInterrupt)):
        return (
            f"Your code ended the program ({type(error).__name__} {text or 0}). It may raise an error, but it must not "
            "end the process. Nothing was decided."
        )
    if "json.JSONDecodeError" in names:
        return f"A file is not valid JSON ({text}). It is truncated, or somebody edited it. Restore it."
    if isinstance(error, UnicodeDecodeError):
        return f"A file is not text in UTF-8 ({text}). Save it as UTF-8."
    return (text or type(error).__name__) if isinstance(error, OSError) else None


_places: dict[int, str] = {}
"""Of each disk, the folder on it that was written in last."""
_FULL_BYTES = 1 << 20


def written_in(folder: Path) -> None:
    """Remembers where is written, since libraries that meet a full disk do not always say where."""
    with contextlib.suppress(OSError):
        _places[folder.stat().st_dev] = str(folder)


def _full_places() -> str:
    """`in FOLDER ` of the disks written to that have no room; empty where all have some."""
    full = []
    for place in _places.values():
        with contextlib.suppress(OSError):
            if shutil.disk_usage(place).free < _FULL_BYTES:
                full.append(place)
    return f"in {' or '.join(full)} " if full else ""


def of_user(error: BaseException) -> str | None:
    """The line for an error that a class of the user's own raised, with its place; None where it is not theirs.

    It is theirs where the innermost frame of theirs and ours is theirs: whatever they call by themselves may raise.
    An exit of the command line's own is one as well: raised in their code it would leave with a code of their choice.
    """
    place, is_theirs = None, False
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(USER_MODULE):
            place, is_theirs = f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_qualname}", True
        elif module.partition(".")[0] == "unforgotten":
            is_theirs = False
    if not is_theirs:
        return None
    name, said = type(error).__name__, text_of(error)
    if not isinstance(error, Exception):
        return (
            f"{place}: your code ended the program ({name}{f' {said}' if said else ''}). It must not; correct it there."
        )
    return f"{place}: your code raised {name}{f': {said}' if said else ''}. {_instead(error)}Correct it there."


def _instead(error: BaseException) -> str:
    """Names that an object of ours has in place of one that it lacks; empty for all other errors."""
    if not isinstance(error, AttributeError) or not type(error.obj).__module__.startswith("unforgotten."):
        return ""
    names = [name for name in dir(error.obj) if not name.startswith("_")]
    near = difflib.get_close_matches(str(error.name), names, n=3)
    return f"Did you mean {' or '.join(near)}? " if near else f"It has {', '.join(names)}. "


def text_of(error: BaseException) -> str:
    """What an error says; the class of an error may be a user's own, so that asking it may fail."""
    try:
        return str(error).strip()
    except Exception:
        return "its message cannot be read"


def _lacked_memory(error: BaseException) -> bool:
    """Did a library in C forget to raise MemoryError, in a process whose memory is limited (ulimit -v)?"""
    if not isinstance(error, SystemError) or sys.platform == "win32":
        return False
    import resource

    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited and re.search("without (setting an )?exception|NULL", text_of(error)) is not None


def _says(error: BaseException, words: Sequence[str]) -> bool:
    text = text_of(error).lower()
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(word in text for word in words)


TERMINATED = 143
"""128 + SIGTERM, as shells and schedulers tell it."""


class Terminated(SystemExit):
    """SIGTERM has come; whatever does not catch it ends with 143. `said`: what is done, and how to go on."""

    def __init__(self, said: str = "") -> None:
        super().__init__(TERMINATED)
        self.said = said or "Terminated. Give the same command again: it goes on from where it was."

    def __str__(self) -> str:
        return self.said
