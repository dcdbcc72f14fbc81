"""The process in which a program is checked: it calls the program, which runs elsewhere. Standard library only.

A check is Python that finds these names:

    candidate(*args)       the program's function, called in its own process; raises what it raised there
    call(args, seconds)    the same with a time limit of its own
    data                   what the check was handed, as JSON
    encode, decode         Python values as JSON and back (values.py)
    result                 what the check leaves for whoever ordered it, as JSON

It passes where it runs to its end. No line of the program runs in this process, and no object of its making is here.
"""

from __future__ import annotations

import builtins
import os
import traceback
from collections.abc import Callable
from typing import Any, TypedDict

from unforgotten.evaluation.sandbox.inside import lockdown, packages
from unforgotten.evaluation.sandbox.inside.channel import Channel
from unforgotten.evaluation.sandbox.inside.values import decode, encode


class CheckOrder(TypedDict):
    """What the process is told on its standard input."""

    confine: lockdown.LockdownSettings
    packages: dict[str, str]
    """What may be imported beside the standard library, and where it lies."""
    report: int
    calls: tuple[int, int]
    text: str
    data: Any


class Raised(Exception):
    """The program raised something that is no builtin exception."""


class Gone(BaseException):
    """The program's process is no more. Not an Exception: a check that catches all must not go on."""


class TooSlow(BaseException):
    """One call took longer than it may."""


def main(order: CheckOrder) -> None:
    """Confines itself, runs the check, and reports the verdict."""
    lockdown.enter(order["confine"])
    packages.offer(order["packages"])
    os.write(order["report"], b"ready\n")
    report = Channel(-1, order["report"])
    try:
        report.send(_verdict(order))
    except (TypeError, ValueError, RecursionError) as error:  # the check left what json cannot write
        report.send({"status": "raised", "facts": [type(error).__name__, f"result: {error}", None]})
    os._exit(0)


def _verdict(order: CheckOrder) -> dict[str, Any]:
    channel = Channel(*order["calls"])
    try:
        _answer(channel, None)
        call = _caller(channel)
        names: dict[str, Any] = {"__name__": "check", "call": call, "data": order["data"], "result": None}
        names |= {"candidate": lambda *args: call(args), "encode": encode, "decode": decode}
        exec(compile(order["text"], "<check>", "exec"), names)
    except Gone:
        return {"status": "gone", "why": ""}
    except TooSlow as error:
        return {"status": "timeout", "why": str(error)}
    except BaseException as error:
        facts = getattr(error, "facts", None)  # as the program's process told them
        if facts is None:
            facts = [type(error).__name__, str(error) or _failing_line(error, order["text"]), None]
        return {"status": "raised", "facts": facts}
    return {"status": "passed", "why": "", "value": names["result"]}


def _caller(channel: Channel) -> Callable[..., Any]:
    def call(arguments: Any, seconds: float | None = None) -> Any:
        try:
            channel.send(encode(tuple(arguments)))
        except OSError:
            raise Gone from None
        return decode(_answer(channel, seconds)["value"])

    return call


def _answer(channel: Channel, seconds: float | None) -> dict[str, Any]:
    """The program's next message. Raises what it raised, Gone, TooSlow, or ValueError for what is no message."""
    try:
        message = channel.receive(seconds)
    except (EOFError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise TooSlow(f"one call took longer than {seconds:.3g} s") from None
        raise Gone from None
    if isinstance(message, dict) and isinstance(facts := message.get("raised"), list) and len(facts) == 3:
        raise _as_raised(facts)
    if not isinstance(message, dict) or not ({"value", "loaded"} & set(message)):
        raise ValueError("the program wrote into the channel of its answers")
    return message


def _as_raised(facts: list[Any]) -> Exception:
    name, message = str(facts[0])[:100], str(facts[1])[:500]
    # A builtin exception as itself, since a check may expect it; never what would end this process (SystemExit), or
    # the loop that the check is in (StopIteration).
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
        kind = None
    try:
        error = kind(message) if kind else Raised(name, message)
    except Exception:  # UnicodeDecodeError and the like want more than a message
        error = Raised(name, message)
    error.facts = [name, message, facts[2] if isinstance(facts[2], int) else None]  # type: ignore[attr-defined]
    return error


def _failing_line(error: BaseException, text: str) -> str:
    """The line of the check that failed, for an assert without a message."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<check>" and f.lineno]
    return text.splitlines()[lines[-1] - 1].strip() if lines else ""
