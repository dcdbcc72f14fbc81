"""Keys of servers: a recipe names the variable that holds one, and never the key, since recipes are written down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from unforgotten.errors import RecipeError

_NAMES = re.compile(
    r"(x[-_])?(api|access|auth|secret|private|subscription)?[-_]?(key|token|secret)|(proxy[-_])?authorization|"
    r"bearer|passw(or)?d|credentials?|cookie",
    re.IGNORECASE,
)
"""Fields of a request whose value would be a secret."""


def check(url: Any, key_variable: Any, extra: Any) -> None:
    """Raises RecipeError where a server's address is none, or where a key may stand in what is given.

    What was given is not repeated, since it may be the key.
    """
    parts = None
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isprintable() and " " not in url else None
        is_address = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port if parts is not None else None
    except ValueError:  # brackets that do not close, a port beyond 65535
        is_address = False
    if parts is None or not is_address:
        raise RecipeError("An endpoint must be an address such as http://localhost:8000/v1.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RecipeError(
            "An endpoint's address must not contain a key. Name the key's environment variable in `key_variable`."
        )
    if key_variable and not (isinstance(key_variable, str) and re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_variable)):
        raise RecipeError(
            "`key_variable` must be the name of an environment variable, in capitals. It must not be the key."
        )
    for name in _fields(extra):
        if _NAMES.fullmatch(name):
            raise RecipeError(
                f"`extra` has {name!r}, whose value would be saved in recipe.yaml and results.json. Name the "
                "environment variable of the server's key in `key_variable`."
            )


def _fields(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for each in inner:
        yield from _fields(each)
