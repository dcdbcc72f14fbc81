"""A user's own Python file (`./mine.py:Mine`), loaded as one module however often it is named."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from unforgotten.errors import USER_MODULE, RecipeError, Terminated, UnforgottenError, text_of

NO_CODE = "UNFORGOTTEN_NO_USER_CODE"
"""If set to 1, no class is loaded from a file, whoever names it."""


def load(path: str, name: str) -> ModuleType:
    """The module of a file; `name` is what the user wrote, for errors.

    Loading a file twice gives the same module, and two files of one name do not collide.
    Raises RecipeError where user code is switched off, or where the file is missing or cannot be imported.
    """
    if os.environ.get(NO_CODE, "0") not in ("", "0"):
        raise RecipeError(f"{name!r} is code in a file, but --no-user-code ({NO_CODE}) forbids that.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"{name!r}: there is no file {file}. Write ./file.py:ClassName, relative to this folder.")
    title = f"{USER_MODULE}{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}_{file.stem}"
    if title in sys.modules:
        return sys.modules[title]
    spec = importlib.util.spec_from_file_location(title, file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{name!r}: {file} is not a Python file. Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[title]
        if isinstance(error, (KeyboardInterrupt, Terminated, UnforgottenError)):
            raise
        raise RecipeError(f"{file} cannot be imported: {_with_line(error, file)}.") from error
    return module


def _with_line(error: BaseException, file: Path) -> str:
    """An error of a user's own code, with the line of their file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    text = text_of(error)
    return type(error).__name__ + (f" in line {lines[-1]}" if lines else "") + (f": {text}" if text else "")
