"""The process in which a program runs: it is confined, runs the text, then answers calls. Standard library only.

Nothing here is trusted once the program has started: it can read and change all of it. What it says is taken for its
answers and for nothing else; whether they are right is found out in another process (checker.py).
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, TypedDict

from unforgotten.evaluation.sandbox.inside import lockdown, packages
from unforgotten.evaluation.sandbox.inside.channel import Channel
from unforgotten.evaluation.sandbox.inside.values import decode, encode


class ProgramOrder(TypedDict):
    """What the process is told on its standard input."""

    confine: lockdown.LockdownSettings
    packages: dict[str, str]
    """What may be imported beside the standard library, and where it lies."""
    report: int
    """Where the word `ready` goes, and without a checker what became of the program."""
    calls: tuple[int, int] | None
    """Where a checker's calls come in and their answers go out."""
    text: str
    entry_point: str
    token: str


def main(order: ProgramOrder) -> None:
    """Confines itself, runs the program's text, and says how that ended."""
    lockdown.enter(order["confine"])
    packages.offer(order["packages"])
    os.write(order["report"], b"ready\n")
    if (fds := order["calls"]) is None:
        channel = Channel(-1, order["report"])
    else:
        os.close(order["report"])
        channel = Channel(*fds)
    function: Any = None
    try:
        # The name is neither __main__, so that a script's own main part does not run, nor that of a module.
        module = types.ModuleType("program")
        sys.modules["program"] = module
        exec(compile(order["text"], "<program>", "exec"), module.__dict__)
        if order["entry_point"]:
            function = module.__dict__[order["entry_point"]]
    except BaseException as error:
        word: dict[str, Any] = {"raised": _facts(error)}
    else:
        word = {"loaded": order["token"]}
    _flush()
    channel.send(word)
    if fds is not None and "loaded" in word:
        _answer(channel, function)
    os._exit(0)  # threads and exit handlers of the program are not waited for


def _answer(channel: Channel, function: Any) -> None:
    while True:
        try:
            arguments = decode(channel.receive())
        except EOFError:
            return
        try:
            answer = {"value": encode(function(*arguments))}
        except BaseException as error:
            answer = {"raised": _facts(error)}
        _flush()
        try:
            channel.send(answer)
        except (ValueError, RecursionError) as error:  # a value that json cannot write
            channel.send({"raised": _facts(error)})


def _facts(error: BaseException) -> list[Any]:
    """Type, message and errno, the last for OSError alone. A message may itself fail, or be of any length."""
    try:
        message = str(error)[:500]
    except BaseException:
        message = ""
    number = getattr(error, "errno", None)
    return [type(error).__name__, message, number if isinstance(number, int) else None]


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # the program may have put anything there
        pass
