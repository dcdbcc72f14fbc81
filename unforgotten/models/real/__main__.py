"""`python -m unforgotten.models.real [NAME …]` makes real models, all of them by default, and prints their folders."""

from __future__ import annotations

import sys

from unforgotten.errors import UnknownName, plain
from unforgotten.models.real.catalog import MODELS
from unforgotten.models.real.make import make


def main(names: list[str]) -> int:
    """Makes each; prints an error and gives 2 where one cannot be made."""
    try:
        for name in names:
            if name not in MODELS:
                raise UnknownName("real model", name, MODELS)
        for name in names:
            print(make(MODELS[name], lambda text: print(text, file=sys.stderr, flush=True)))
    except Exception as error:
        if (said := plain(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(MODELS)))
