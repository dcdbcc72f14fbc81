"""Chat templates that a stranger wrote: none takes more than 5 seconds, 1 GB, a file or a word of somebody else's."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.conftest import CHATML
from tests.training.shapes import tiny_tokenizer
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError, TemplateError, UnforgottenError
from unforgotten.models.chat import Chat, encode_rows, jinja_process
from unforgotten.runs import bounds

HOSTILE = {
    "a range without end": "{% for i in range(10**9) %}{% endfor %}",
    "text without end": "{% for i in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
    "a text of ten GB": "{{ 'a' * 10**10 }}",
    "a list of eight GB": "{{ [0] * 10**9 }}",
    "a format of one GB": '{{ "%1000000000d" % 1 }}',
    "a format of one GB by method": '{{ "{:>1000000000}".format(1) }}',
    "a centred text": "{{ 'a' | center(1000000000) }}",
    "a replacement that grows": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "doubling": "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "a number without end": "{{ 9 ** 9999999 }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "signs": "{{ " + "-" * 9000 + "1 }}",
    "conditions": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "sums": "{{ " + "1+" * 20000 + "1 }}",
    "ten million characters": "{{ 'a' }}" * 1_100_000,
    "a hundred thousand blocks": "{{ 'a' }}" * 100_000,
    "a million characters": "{{ ('<' * 10**6) | striptags }}",
    "a list of ten thousand lists": "{{ range(99999) | list | batch(1) | list }}",
    "half a character": "{{ '\\ud83d' }}",
    "half a character in a date": "{{ strftime_now('%\\udfff') }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "another file": "{% include '/etc/passwd' %}",
    "a module": "{{ lipsum.__globals__['os'].environ }}",
    "a frame": "{{ raise_exception.__globals__.sys }}",
}


@pytest.fixture(scope="module")
def peaks() -> Iterator[list[int]]:
    """The most memory of each rendering process, in KiB, looked up while it lives: a worker of pytest has others."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    text = status.read_text()
                    program = (status.parent / "cmdline").read_bytes()
                    ours = f"PPid:\t{os.getpid()}\n" in text and b"jinja_program" in program
                except OSError:
                    continue  # it has just ended
                if ours and (peak := re.search(r"VmHWM:\s*(\d+)", text)):
                    seen.append(int(peak[1]))

    watch = threading.Thread(target=look)
    watch.start()
    yield seen
    over.set()
    watch.join()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_template_beyond_its_bounds_is_refused_within_five_seconds_and_a_gigabyte(
    what: str, peaks: list[int]
) -> None:
    tokenizer = tiny_tokenizer(HOSTILE[what] + CHATML)
    own, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with pytest.raises(UnforgottenError):
        Chat(tokenizer).encode(ask("hello", "Paris"))
    assert time.monotonic() - start < 5
    while not peaks and time.monotonic() - start < 5:  # refused before the first look; the process lives on
        time.sleep(0.05)
    assert peaks and max(peaks) < 2**20 - 2**18, "KiB; a quarter of the gigabyte is left to this process"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own.ru_maxrss < 2**18


def test_a_row_of_more_text_than_is_counted_in_a_gigabyte_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(tiny_tokenizer(CHATML))
    rows = [ask("hello", "Paris", source="f:1"), ask("hello", "the " * 140_000, source="f:2")]
    start = time.process_time()
    with pytest.raises(TemplateError, match=r"f:2: .*writes 560,\d\d\d characters; .*UNFORGOTTEN_MAX_CHARACTERS"):
        encode_rows(chat, rows)
    assert time.process_time() - start < 5
    monkeypatch.setenv("UNFORGOTTEN_MAX_CHARACTERS", "50")
    bounds.fresh()
    with pytest.raises(TemplateError, match="limit is 50"):
        encode_rows(chat, rows[:1])
    monkeypatch.undo()
    bounds.fresh()


def test_a_row_of_many_parts_that_are_not_written_costs_seconds_and_is_told_in_a_line() -> None:
    keys = {f"k{i}": "x" for i in range(3_000)}
    arguments = {"function": {"name": "f", "arguments": {f"k{i}": i + 10**6 for i in range(3_000)}}}
    words = "the " * 20_000
    asked, said = {"role": "user", "content": words}, {"role": "assistant", "content": "b"}
    chat = Chat(tiny_tokenizer(CHATML))
    start = time.process_time()
    _, counts = encode_rows(chat, [Row((asked, {**said, **keys}))])
    assert len(counts.lost) == 3_000 and all(len(line) < 3_000 for line in counts.lines())
    assert "and 2,960 more of 2,960 kinds" in counts.lines()[-1]
    with pytest.raises(TemplateError, match="leaves out trained content"):
        chat.encode(Row((asked, {**said, "tool_calls": [arguments]})))
    assert time.process_time() - start < 5


def test_the_error_names_the_row_and_the_limit_and_the_next_row_is_rendered() -> None:
    slow = "{% if 'slowly' in messages[0].content %}{% for i in range(99999) %}{% for j in range(99999) %}"
    chat = Chat(tiny_tokenizer(slow + "{% endfor %}{% endfor %}{% endif %}" + CHATML))
    rows = [ask("hello", "Paris", source="f:1"), ask("slowly", "Paris", source="f:2"), ask("x", "y", source="f:3")]
    with pytest.raises(TemplateError, match="f:2: .*more than 2 seconds"):
        encode_rows(chat, rows)
    assert encode_rows(chat, rows[::2])[1].examples == 2


def test_the_process_has_no_environment_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "xyz")
    jinja_process.read("{{ a }}")
    process = jinja_process._current
    assert process is not None
    folder = Path(f"/proc/{process._process.pid}")
    if not folder.exists():
        pytest.skip("no /proc here")
    assert b"SECRET" not in (folder / "environ").read_bytes()
    limits = (folder / "limits").read_text()
    assert re.search(r"Max open files +0 +0", limits) and re.search(rf"address space +{2**29} ", limits)
    opened = {os.readlink(link).partition(":")[0] for link in (folder / "fd").iterdir()}
    assert opened <= {"pipe", "/dev/null"}


TALKS = [
    ask("hi", "hello there").messages,
    ask("hi", "hello there", system="Be brief.").messages,
    (*ask("hi", "<think>a</think>four").messages, {"role": "user", "content": "hü"},
     {"role": "assistant", "content": "five", "reasoning": "b"}),
    ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "ü"}}}]},
     {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "4"}),
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "description": "First."}}}}}]  # fmt: skip
TRL = find_spec("trl")
FOLDERS = [Path(__file__).parent.parent / "models" / "chat" / "kinds"]
FOLDERS += [Path(TRL.origin).with_name("chat_templates")] if TRL and TRL.origin else []
EXTRA = {
    "dates": "{{ strftime_now('%Y-%m-%d') }}{% if x is defined %}{% else %}{{ namespace(a=1).a }}{% endif %}",
    "filters": "{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(',') | wordwrap(3) }}"
    "{{ '<&' | e }}{{ 'a b' | urlencode }}{{ dict(a=1) | items | list }}{{ messages | length }}{{ lipsum(n=1)[:0] }}",
    "marks": "{% for m in messages %}a{% generation %}{{ m.content }}b{% generation %}c{% endgeneration %}"
    "{% endgeneration %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
    "private": "{{ namespace(_a=1) }}",
    "specials": "{{ bos_token }}{{ eos_token }}{{ documents }}{{ add_generation_prompt }}",
}


def test_it_writes_what_transformers_writes_for_every_template() -> None:
    texts = {
        file.name: file.read_text(encoding="utf-8") for folder in FOLDERS for file in folder.glob("*.jinja")
    } | EXTRA
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    assert all(any(folder.glob("*.jinja")) for folder in FOLDERS)
    for name, text in texts.items():
        marked = re.search(r"\{%-?\s*generation\s*-?%\}", text) is not None
        jobs = [(n, len(talk), prompt) for n, talk in enumerate(TALKS) for prompt in (False, True)]
        for tools in (None, TOOLS) if name in EXTRA else (TOOLS,):
            ours = jinja_process.render(text, TALKS, jobs, tools=tools, specials=specials, marked=marked)
            for (which, _, prompt), item in zip(jobs, ours, strict=True):
                try:
                    written, spans = render_jinja_template(
                        [list(TALKS[which])], tools=tools, chat_template=text, add_generation_prompt=prompt,
                        return_assistant_tokens_mask=marked, **specials,
                    )  # fmt: skip
                except Exception:
                    assert isinstance(item, str), (name, which, tools, prompt)
                else:
                    assert item == (written[0], spans[0] if spans else []), (name, which, tools, prompt)


def test_values_that_are_not_json_are_refused_by_name() -> None:
    chat = Chat(tiny_tokenizer(CHATML))
    odd = Row(({"role": "user", "content": "a", "when": object()}, {"role": "assistant", "content": "b"}), source="f:4")
    with pytest.raises(DataError, match="f:4: no template can print a value that is not JSON"):
        chat.encode(odd)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DataError, match="f:5: .*nested too deeply"):
        chat.encode(Row(({"role": "user", "content": "a", "x": deep}, odd.messages[1]), source="f:5"))


def _in_a_fork(texts: multiprocessing.Queue[str]) -> None:
    text = jinja_process.render("{{ messages[0].content }}", [[{"role": "user", "content": "fork"}]], [(0, 1, False)])
    texts.put(str(text[0][0]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_threads_and_forked_processes_each_get_their_own_text() -> None:
    got: dict[int, set[str]] = {}

    def ask_often(n: int) -> None:
        talk = [{"role": "user", "content": f"thread {n}"}]
        text = [jinja_process.render("{{ messages[0].content }}", [talk], [(0, 1, False)])[0] for _ in range(20)]
        got[n] = {each[0] for each in text}

    threads = [threading.Thread(target=ask_often, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    texts: multiprocessing.Queue[str] = context.Queue()
    for thread in threads:
        thread.join()
    before = jinja_process._current
    forked = context.Process(target=_in_a_fork, args=(texts,))
    forked.start()
    assert texts.get(timeout=30) == "fork"
    forked.join()
    ask_often(9)
    assert got == {n: {f"thread {n}"} for n in (*range(4), 9)} and jinja_process._current is before


def test_a_killed_process_is_started_anew() -> None:
    jinja_process.read("{{ a }}")
    assert jinja_process._current is not None
    jinja_process._current._process.kill()
    jinja_process._current._process.wait()
    assert jinja_process.read("{{ b }}")[0] == {"b"}
