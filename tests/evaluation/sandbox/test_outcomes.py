"""What an outcome says: passed only for what is right, and one readable line for everything else."""

from __future__ import annotations

import pytest

from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.program import ProgramOutcome

CHECK = "assert candidate(2, 3) == 5 and candidate(20, -3) == 17, 'wrong sum'"
RIGHT = "def add(a, b): return a + b"


def checked(sandbox: Sandbox, text: str, check: str = CHECK, **settings) -> ProgramOutcome:
    return sandbox.run(text, check=check, entry_point="add", **{"timeout_s": 60.0, **settings})


def test_right_and_wrong(sandbox) -> None:
    assert checked(sandbox, RIGHT) == ProgramOutcome("passed", "", pytest.approx(0, abs=60), "", None)
    for text, why in [
        ("def add(a, b): return a - b", "AssertionError: wrong sum"),
        ("def add(a, b): return None", "AssertionError: wrong sum"),
        ("def add(a, b): return a.x", "AttributeError: 'int' object has no attribute 'x'"),
        ("def add(a): return a", "TypeError: add() takes 1 positional argument but 2 were given"),
        ("def sub(a, b): return a - b", "KeyError: 'add'"),
        ("add = 3", "TypeError: 'int' object is not callable"),
        ("def add(a, b): return a +", "SyntaxError: invalid syntax (<program>, line 1)"),
        ("def add(a, b): return add(a, b)", "RecursionError: maximum recursion depth exceeded"),
        ("def add(a, b): raise KeyError", "KeyError"),
        ("class E(Exception): pass\ndef add(a, b): raise E('mine')", "E: mine"),
        ("raise ValueError('at once')", "ValueError: at once"),
        ("x = input()", "EOFError: EOF when reading a line"),
    ]:
        outcome = checked(sandbox, text)
        assert (outcome.status, outcome.why) == ("failed", why), outcome


def test_an_assert_without_a_message_shows_its_line(sandbox) -> None:
    outcome = checked(sandbox, "def add(a, b): return a - b", "x = 2\nassert candidate(x, 3) == 5  # the sum\n")
    assert outcome.why == "AssertionError: assert candidate(x, 3) == 5 # the sum"


def test_a_check_has_data_and_leaves_a_result(sandbox) -> None:
    check = "result = [encode(candidate(*decode(args))) for args in data]"
    outcome = checked(sandbox, RIGHT, check, data=[[1, 2], [[1], [2]], [{"t": [1]}, {"t": [2]}]])
    assert outcome.passed and outcome.value == [3, [1, 2], {"t": [1, 2]}]
    assert checked(sandbox, RIGHT, "result = {1, 2}").why == (
        "TypeError: result: Object of type set is not JSON serializable"
    )


def test_a_check_may_expect_an_exception(sandbox) -> None:
    check = "try: candidate('a', 1)\nexcept TypeError as e: result = str(e)\nelse: assert False"
    outcome = checked(sandbox, RIGHT, check)
    assert outcome.passed and outcome.value == 'can only concatenate str (not "int") to str'
    assert not checked(sandbox, "def add(a, b): return 1", check).passed


def test_one_call_has_a_limit_of_its_own(sandbox) -> None:
    text = "import time\ndef add(a, b):\n    time.sleep(a)\n    return b"
    check = "assert call((0, 3), 5.0) == 3\ntry: call((60, 3), 0.2)\nexcept Exception: pass\nresult = 'went on'"
    outcome = checked(sandbox, text, check, timeout_s=20.0)
    assert (outcome.status, outcome.why) == ("timeout", "one call took longer than 0.2 s")
    outcome = checked(sandbox, text, "candidate(60, 3)", timeout_s=0.5)
    assert (outcome.status, outcome.why) == ("timeout", "still running after 0.5 s")


def test_what_is_printed_is_kept(sandbox) -> None:
    text = "import sys\nprint('loading')\ndef add(a, b):\n    print(a, file=sys.stderr)\n    return a + b"
    assert checked(sandbox, text).output == "loading\n2\n20\n"
    assert sandbox.run("print('é', end='')").output == "é"


FORGED = {
    "exit": "import sys; sys.exit(0)",
    "exit without words": "import os; os._exit(0)",
    "exit when called": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit when called": "def add(a, b): raise SystemExit(0)",
    "printed marks": "print('passed'); print('ready'); print('{\"loaded\": true}')\ndef add(a, b): return 0",
    "interrupt": "def add(a, b): raise KeyboardInterrupt",
    "patched asserts": (
        "import builtins\nbuiltins.AssertionError = builtins.Exception = type('E', (BaseException,), {})\n"
        "def add(a, b): return 0"
    ),
    "patched comparison": "import operator, builtins\nbuiltins.all = lambda *_: True\ndef add(a, b): return 0",
    "an object that equals all": (
        "class Same(int):\n"
        "    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "    __hash__ = None\n"
        "    def __class_getitem__(cls, _): return cls\n"
        "def add(a, b): return Same()"
    ),
    "an object of no known type": (
        "class Same:\n    def __eq__(self, other): return True\n    def __iter__(self): return iter([5])\n"
        "def add(a, b): return Same()"
    ),
    "a lying class": (
        "class Same:\n    __class__ = int\n    def __eq__(self, other): return True\n    def __int__(self): return 0\n"
        "def add(a, b): return Same()"
    ),
    "answers ahead of the question": (
        "import os\nfor fd in range(3, 32):\n"
        '    try: os.write(fd, b\'{"loaded": ""}\\n{"value": 5}\\n{"value": 5}\\n{"value": 5}\\n\')\n'
        "    except OSError: pass\n"
        "def add(a, b): return 0"
    ),
    "a verdict of its own": (
        "import os\nfor fd in range(3, 32):\n"
        '    try: os.write(fd, b\'{"status": "passed", "why": "", "value": null}\\n\')\n'
        "    except OSError: pass\n"
        "os._exit(0)"
    ),
    "the descriptors of its checker": (
        "import os\nfor pid in range(os.getpid() - 20, os.getpid() + 20):\n"
        "    for fd in range(32) if pid != os.getpid() else ():\n"
        "        try: os.write(os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'ready\\n{\"status\": \"passed\"}\\n')\n"
        "        except OSError: pass\n"
        "def add(a, b): return 0"
    ),
    "an exception of no known kind": (
        "import os\nfor fd in range(3, 32):\n"
        "    try: os.write(fd, b'{\"raised\": [' + b'[' * 900 + b']' * 900 + b', {}, []]}\\n')\n"
        "    except OSError: pass\n"
        "os._exit(0)"
    ),
    "a harness turned round": (
        "import sys, json\n"
        "for m in list(sys.modules.values()):\n"
        "    for name in ('encode', 'decode', 'dumps', 'loads'):\n"
        "        if hasattr(m, name): setattr(m, name, lambda *a, **k: '{\"value\": 5}')\n"
        "def add(a, b): return 0"
    ),
    "the frames above": (
        "import sys\nf = sys._getframe()\nwhile f:\n"
        "    f.f_locals.update(function=lambda *a: 5, answer={'value': 5}); f = f.f_back\n"
        "def add(a, b): return 0"
    ),
    "marks that are not values": "def add(a, b): return {'t': [5]}",
    "deep nesting": "def add(a, b):\n    x = []\n    for _ in range(10 ** 5): x = [x]\n    return x",
    "a list that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "a value without end": "import itertools\ndef add(a, b): return itertools.count()",
    "a value too long": "def add(a, b): return 'x' * (80 << 20)",
    "not a number": "def add(a, b): return float('nan')",
    "a loop that ends early": "def add(a, b): raise StopIteration",
    "an iterator that is read once": "def add(a, b): return iter([a + b])",
    "a number that is nearly it": "def add(a, b): return a + b + 1e-9",
    "a text of half characters": "print('\\ud800'); import sys; sys.stdout.write('\\udfff' * 9)\n"
    "def add(a, b): return '\\ud800\\udfff'",
    "a raise of what is wanted": "def add(a, b): raise AssertionError(5)",
    "a message without end": "class E(Exception):\n    def __str__(self): return 'x' * (1 << 20)\n"
    "def add(a, b): raise E",
    "an error that cannot be told": "class M(type): __name__ = property(lambda s: {1, 2})\n"
    "class E(Exception, metaclass=M): pass\ndef add(a, b): raise E",
    "a thread that answers": (
        "import os, threading\n"
        "def flood():\n"
        "    while True:\n"
        "        for fd in range(3, 32):\n"
        "            try: os.write(fd, b'{\"value\": null}\\n')\n"
        "            except OSError: pass\n"
        "threading.Thread(target=flood).start()\ndef add(a, b): return 0"
    ),
    "the channel closed": "import os\nos.closerange(3, 32)\ndef add(a, b): return 5",
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_success(sandbox, what) -> None:
    outcome = checked(sandbox, FORGED[what])
    assert outcome.status in ("failed", "memory") and len(outcome.why) > 5 and "\n" not in outcome.why, outcome
    assert checked(sandbox, RIGHT).passed


@pytest.mark.parametrize(
    "what", ["exit", "exit without words", "a verdict of its own", "an exception of no known kind"]
)
def test_forged_success_without_a_check(sandbox, what) -> None:
    outcome = sandbox.run(FORGED[what].partition("\ndef add")[0] + "\nimport os; os._exit(0)")
    assert outcome.status == "failed", outcome
    if what == "exit":
        assert outcome.why == "SystemExit: 0 (it ended itself)"
    if what == "exit without words":
        assert outcome.why == "ended itself with exit status 0 before it was done"


def test_expected_values_cannot_be_looked_up(sandbox) -> None:
    """Whatever a program finds in its process, in its memory or behind its descriptors, the answer is not there."""
    text = r"""
import ctypes, gc, os, re, sys
def add(a, b):
    found = []
    seen, todo = set(), [sys.modules, sys._getframe(), *gc.get_objects()]
    while todo:
        one = todo.pop()
        if id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, str) and re.fullmatch('wanted-[0-9]+', one): return one
            todo += gc.get_referents(one)
    for fd in range(32):
        try:
            os.set_blocking(fd, False)
            found.append(os.read(fd, 1 << 20))
        except OSError: pass
    return re.findall('wanted-[0-9]+', repr(found)) or 'nothing'
"""
    outcome = checked(sandbox, text, "got = candidate(1, 2); result = got; assert got == data", data="wanted-4711")
    assert outcome.why.startswith("AssertionError"), outcome
    assert checked(sandbox, text, "result = candidate(1, 2)", data="wanted-4711").value == "nothing"


def test_a_program_that_changes_its_input_changes_a_copy(sandbox) -> None:
    check = "x = [2, 1]; assert candidate(x, 0) is None and x == [2, 1]"
    assert checked(sandbox, "def add(a, b): a.sort()", check).passed


def test_the_limits_of_a_check(sandbox) -> None:
    """Without a check a program written against the harness can find the token: the docstring says so."""
    text = (
        "import sys, os, json\nf = sys._getframe()\n"
        "while 'order' not in f.f_locals: f = f.f_back\n"
        "order = f.f_locals['order']\n"
        "os.write(order['report'], json.dumps({'loaded': order['token']}).encode() + b'\\n')\n"
        "1 / 0"
    )
    assert sandbox.run(text).passed
    assert not sandbox.run(text, check="assert candidate() == 5", entry_point="f").passed


def test_verdicts_do_not_hang_on_chance(sandbox) -> None:
    """The order of a set of strings is the same in every run."""
    texts = {sandbox.run("print({'a', 'b', 'c', 'd', 'e', 'f'}, hash('x'))").output for _ in range(3)}
    assert len(texts) == 1


def test_a_script_does_not_run_its_main_part(sandbox) -> None:
    assert sandbox.run("print(__name__)\nif __name__ == '__main__': 1 / 0").output == "program\n"
    text = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\nassert A().x == 1"
    assert sandbox.run(text).passed


def test_python_works_inside(sandbox) -> None:
    modules = (
        "abc argparse array ast asyncio base64 bisect calendar cmath collections contextlib copy ctypes datetime "
        "decimal enum fractions functools hashlib heapq inspect io itertools json logging math numbers operator os "
        "pickle queue random re secrets sqlite3 statistics string struct sys tempfile textwrap threading time "
        "traceback types typing unicodedata uuid xml.etree.ElementTree zlib"
    ).split()
    text = f"import importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    text += (
        "import hashlib, random, sqlite3, tempfile, threading, time, datetime, os\n"
        "assert hashlib.md5(b'x').hexdigest()[:4] == '9dd4' and 0 <= random.random() < 1\n"
        "assert sqlite3.connect(':memory:').execute('select 1 + 1').fetchone() == (2,)\n"
        "open('a', 'w').write('x'); os.rename('a', 'b'); assert os.listdir() == ['b']; os.remove('b')\n"
        "open('/dev/null', 'w').write('x'); assert open('/dev/urandom', 'rb').read(2)\n"
        "t = threading.Thread(target=time.sleep, args=(0.01,)); t.start(); t.join(); datetime.datetime.now()\n"
    )
    outcome = sandbox.run(text, timeout_s=30.0)
    assert outcome.passed, outcome


def test_what_passed_may_be_remembered(sandbox, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path))
    check = "import time; result = [candidate(1, 2), time.perf_counter()]"
    first, second = (checked(sandbox, RIGHT, check, remember=True) for _ in range(2))
    assert first.passed and first.value[0] == 3 and first == second
    [kept] = (tmp_path / "sandbox").iterdir()
    assert checked(sandbox, RIGHT + "\n", check, remember=True).value != first.value
    assert checked(sandbox, RIGHT, check, data=1, remember=True).value != first.value
    kept.write_bytes(b"damaged")
    assert checked(sandbox, RIGHT, check, remember=True).value != first.value
    for _ in range(2):
        assert not checked(sandbox, RIGHT, "assert False", remember=True).passed
    assert len(list((tmp_path / "sandbox").iterdir())) == 3, "what failed is not kept"


def test_programs_of_their_own_limits(sandbox) -> None:
    actual = [sandbox.run("x = bytearray(300 << 20)", memory_bytes=m << 20, timeout_s=20.0) for m in (200, 600)]
    assert [o.status for o in actual] == ["memory", "passed"]


def test_facts_are_for_the_record(sandbox) -> None:
    import json

    facts = json.loads(json.dumps(sandbox.facts()))
    assert facts["name"] == sandbox.name and facts["seccomp"] is True and facts["python"] and facts["kernel"]
