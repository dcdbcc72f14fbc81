"""The packages that a program may import beside the standard library, each from its own folder. Standard library only.

Their parent folder is not on the path: it cannot be listed inside, and what else lies there is not for programs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
"""A program may have few threads, and these libraries start one for each processor while they are loaded."""


def offer(folders: Mapping[str, str]) -> None:
    """Lets `import name` find each package in its folder."""
    sys.meta_path.append(_Finder(folders))


class _Finder(MetaPathFinder):
    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = dict(folders)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package itself; its parts are then found by its own path."""
        if (folder := self.folders.get(fullname)) is None:
            return None
        file = os.path.join(folder, "__init__.py")
        return spec_from_file_location(
            fullname, file, loader=_Loader(fullname, file), submodule_search_locations=[folder]
        )


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Loads it; the environment, which is otherwise empty, holds the number of threads meanwhile."""
        os.environ.update(ONE_THREAD)
        try:
            super().exec_module(module)
        finally:
            for name in ONE_THREAD:
                os.environ.pop(name, None)
