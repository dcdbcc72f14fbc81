"""Environment variables in a recipe's texts: which are filled in, and that nothing we write repeats what was.

Only UNFORGOTTEN_* are, and those that `--allow-env NAME` names (UNFORGOTTEN_ALLOW_ENV=NAME,NAME for Python and jobs).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from unforgotten.errors import RecipeError

PREFIX = "UNFORGOTTEN_"
ALLOWED = "UNFORGOTTEN_ALLOW_ENV"
BRACED = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
BARE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_USER_OF_ADDRESS = re.compile(r"(\w:/{1,2})[^/\s@]+@")
_KEY_OF_ADDRESS = re.compile(r"(?i)([?&;](?:api_?key|key|token|access_token|auth|password|sig|signature)=)[^&;\s'\"]+")

_filled: dict[str, str] = {}
"""Values that stand in texts of this process, and the variables that they came from."""


def expand(text: str, allow: Iterable[str] = ()) -> str:
    """`${NAME}` and `${NAME:-default}` filled in. Raises RecipeError for a variable that may not be, or is not set."""
    return BRACED.sub(lambda match: _value(match[1], match[2], allow), text)


def expand_path(text: str) -> str:
    """`$NAME` and `${NAME}` of a data path filled in, under the same rule."""
    return BARE.sub(lambda match: _value(match[1] or match[2], None, ()), text)


def _value(name: str, default: str | None, allow: Iterable[str]) -> str:
    if not (name.startswith(PREFIX) or name in allow or name in os.environ.get(ALLOWED, "").split(",")):
        raise RecipeError(
            f"${{{name}}} is not expanded: only {PREFIX}* variables are. To allow it, give --allow-env {name}."
        )
    if (value := os.environ.get(name)) is None:
        if default is None:
            raise RecipeError(
                f"${{{name}}} is used, but the environment variable {name} is not set. Set it, or write "
                f"${{{name}:-default}}."
            )
        return default
    if len(value) >= (6 if name.startswith(PREFIX) else 3):  # shorter ones are parts of too many words
        _filled[value] = f"${{{name}}}"
    return value


def hidden(text: str) -> str:
    """A text for people: variables by their names where they were filled in, and addresses without their keys."""
    return _KEY_OF_ADDRESS.sub(r"\1…", _USER_OF_ADDRESS.sub(r"\1…@", _without(text, list(_filled))))


def without_secrets(text: str) -> str:
    """A text for a file: likewise for what `--allow-env` let in; values of UNFORGOTTEN_* may be needed again."""
    return _without(text, [value for value, name in _filled.items() if not name.startswith("${" + PREFIX)])


def _without(text: str, values: list[str]) -> str:
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, _filled[value])
    return text
