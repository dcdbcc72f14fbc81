"""The process that renders chat templates: Jinja and the standard library, and nothing of ours.

A chat template is a program that a stranger wrote. Here it runs with bounded memory and output, with no environment, no
file and no socket to open. Its parent (jinja_process.py) kills the process when a template takes too long.
The environment is the one of transformers' `render_jinja_template`, so that both write the same text.

Messages are a length of 8 bytes and JSON, both ways. Run as `python -I -S jinja_program.py SETTINGS`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message's reasoning; transformers gives a template the first under the names that templates read."""


def environment() -> Any:
    """Jinja as transformers 5.23 sets it up for chat templates."""
    from datetime import datetime

    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}: notes where in the text its body begins and ends."""

        tags = {"generation"}

        def __init__(self, environment: Any) -> None:
            super().__init__(environment)
            environment.extend(written=0, spans=None)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

        @jinja2.pass_eval_context
        def _note(self, context: Any, caller: Any) -> str:
            text = caller()
            if self.environment.spans is not None:  # type: ignore[attr-defined]
                start = self.environment.written  # type: ignore[attr-defined]
                self.environment.spans.append((start, start + len(text)))  # type: ignore[attr-defined]
            return str(text)

    class Namespace(jinja2.utils.Namespace):
        """Takes no attribute that begins with an underscore, as in transformers."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, rest = args[0], args[1:]
            values = dict(*rest, **kwargs)
            for name in values:
                Namespace._check(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            Namespace._check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"A namespace takes no attribute {name!r}.")

    class Dict:
        """`dict` without the attributes of the type."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args, **kwargs)

    def raise_exception(message: Any) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    sandbox.globals["dict"] = Dict()
    sandbox.globals["namespace"] = Namespace
    return sandbox


class TooMuchText(Exception):
    """A template that writes more than may be written."""


class Renderings:
    """Compiled templates by number, each in an environment of its own, and what they write."""

    def __init__(self, most_characters: int) -> None:
        self._compiled: dict[int, Any] = {}
        self._most = most_characters

    def read(self, text: str) -> dict[str, Any]:
        """The names that a template reads from outside, and its string constants."""
        from jinja2 import meta, nodes

        plain = environment()
        del plain.globals["strftime_now"]  # a name from outside, as the date is
        tree = plain.parse(text)
        constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return {"names": sorted(meta.find_undeclared_variables(tree)), "constants": sorted(constants)}

    def forget(self) -> None:
        """Drops all compiled templates."""
        self._compiled.clear()

    def render(self, request: dict[str, Any]) -> list[Any]:
        """For each job (messages, how many of them, with the generation prompt or not): the text and its spans."""
        number = request["number"]
        if number not in self._compiled:
            self._compiled[number] = environment().from_string(request["text"])
        template = self._compiled[number]
        talks = [[_with_thoughts(message) for message in talk] for talk in request["talks"]]
        room = self._most
        renderings: list[Any] = []
        for which, count, prompt in request["jobs"]:
            try:
                text, spans = _rendered(
                    template, room, request["marked"],
                    {**request["specials"], "messages": talks[which][:count], "tools": request["tools"],
                     "documents": None, "add_generation_prompt": prompt},
                )  # fmt: skip
            except (TooMuchText, MemoryError):
                raise
            except Exception as error:
                renderings.append({"error": str(error)[:500] or type(error).__name__})
                continue
            room -= len(text)
            renderings.append([text, spans])
        return renderings


def _rendered(template: Any, room: int, marked: bool, given: dict[str, Any]) -> tuple[str, list[Any]]:
    blocks: list[str] = []
    with _noting(template.environment, marked) as spans:
        for block in template.generate(**given):
            blocks.append(block)
            template.environment.written += len(block)
            if template.environment.written > room:
                raise TooMuchText
    text = "".join(blocks)
    if not text.isascii():
        _refuse_halves(text)
    return text, spans


def _refuse_halves(text: str) -> None:
    """No tokenizer takes half a character, which a template can write as an escape."""
    import jinja2

    try:
        text.encode()
    except UnicodeEncodeError:
        raise jinja2.TemplateError("it writes half a character (a lone surrogate)") from None


@contextmanager
def _noting(environment: Any, marked: bool) -> Iterator[list[Any]]:
    spans: list[Any] = []
    environment.written, environment.spans = 0, spans if marked else None
    try:
        yield spans
    finally:
        environment.written, environment.spans = 0, None


def _with_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    thought = next((message[key] for key in THOUGHTS if message.get(key) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def answer(renderings: Renderings, request: dict[str, Any]) -> dict[str, Any]:
    """What one request comes to; a template's fault is an answer, too."""
    import jinja2

    try:
        if "read" in request:
            return {"found": renderings.read(request["read"])}
        return {"found": renderings.render(request)}
    except jinja2.TemplateSyntaxError as error:
        return {"syntax": [error.lineno, str(error.message)[:500]]}
    except TooMuchText:
        return {"over": "output"}
    except MemoryError:
        renderings.forget()
        return {"over": "memory"}
    except RecursionError:
        return {"over": "nesting"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def confine(memory_bytes: int) -> None:
    """From here on: no file, socket or process can be opened, and memory is bounded, where the system can do it."""
    import time

    time.tzset()  # strftime_now reads the zone's file
    with suppress(ImportError):
        import resource

        for name, limit in (("AS", memory_bytes), ("NOFILE", 0), ("NPROC", 0), ("CORE", 0), ("FSIZE", 0)):
            with suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def load() -> None:
    """Imports what Jinja and its filters import late: once files are shut they cannot."""
    for module in ("html.entities", "pprint", "random", "textwrap", "urllib.parse", "jinja2.constants", "_strptime"):
        __import__(module)
    Renderings(1000).read("{% generation %}{{ 'a' }}{% endgeneration %}")
    with suppress(Exception):
        environment().from_string("{{ strftime_now('%d %B') | tojson }}{{ raise_exception('a fault') }}").render()


def serve(source: BinaryIO, target: BinaryIO, settings: dict[str, Any]) -> None:
    """Answers until the parent closes its end."""
    renderings = Renderings(settings["characters"])
    while len(head := source.read(8)) == 8:
        signal.alarm(settings["last_seconds"])  # a parent that was killed cannot kill us
        try:
            said = answer(renderings, json.loads(source.read(int.from_bytes(head, "big"))))
            body = json.dumps(said).encode("ascii")
        except MemoryError:
            renderings.forget()
            body = b'{"over": "memory"}'
        signal.alarm(0)
        target.write(len(body).to_bytes(8, "big") + body)
        target.flush()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.path += given["path"]
    load()
    streams = sys.stdin.buffer, sys.stdout.buffer
    confine(given["memory"])
    serve(*streams, given)
