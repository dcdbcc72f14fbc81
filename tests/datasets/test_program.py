"""The program in a reply, however the reply is written."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from unforgotten.datasets.reading.program import program

ROOT = Path(__file__).parents[2]
PROMPT = (
    'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """ Adds.\n    >>> add(1, 2)\n    3\n    """\n'
)
ADD = "def add(a, b):\n    return a + b"


def value(reply: str, prompt: str = PROMPT):
    """What the found program's add(1, 2) is; None where there is no program."""
    text = program(reply, "add", prompt)
    if text is None:
        return None
    names: dict = {"__name__": "program"}
    exec(text, names)
    return names["add"](1, 2)


REPLIES = {
    "a block": f"Here you are:\n```python\n{ADD}\n```\nIt adds.",
    "a block without a language": f"```\n{ADD}\n```",
    "a block of tildes": f"~~~py\n{ADD}\n~~~",
    "four ticks around three": '````python\ndef add(a, b):\n    """\n```\nx\n```\n    """\n    return a + b\n````',
    "windows lines": f"Here:\r\n```python\r\n{ADD}\r\n```\r\n".replace("\n", "\r\n").replace("\r\r", "\r"),
    "a block that is not closed": f"Sure!\n```python\n{ADD}\n",
    "cut in the middle of the next function": f"```python\n{ADD}\n\ndef main():\n    print(add(1,",
    "a block in a list": "1. Write it:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n2. Done.",
    "nothing but code": ADD,
    "prose around code without a block": f"Sure, here it is:\n\n{ADD}\n\nThis function adds a and b.",
    "a block opened for the model": f"{ADD}\n```\nThis adds the two numbers.",
    "the second block defines it": f"First install:\n```bash\npip install x\n```\nThen:\n```python\n{ADD}\n```",
    "usage in a block of its own": f"```python\n{ADD}\n```\nUse:\n```python\nassert add(1, 2) == 4\n```",
    "a helper in a block before": "```python\ndef plus(a, b):\n    return a + b\n```\nand\n"
    "```python\ndef add(a, b):\n    return plus(a, b)\n```",
    "examples that would fail": f"```python\n{ADD}\n\nprint(add(1, 2) / 0)\nassert add(1, 1) == 3\ninput()\n```",
    "a main part": f"```python\n{ADD}\n\nif __name__ == '__main__':\n    add = None\n```",
    "text after the function in the block": f"```python\n{ADD}\n\nExplanation: it adds them.\n```",
    "text before the function in the block": f"```python\nHere's the function (in Python):\n{ADD}\n```",
    "an open quote before the function": f'```python\n"""Adds\n"\n```\nOr:\n{ADD}',
    "thoughts": f"<think>\n```python\ndef add(a, b):\n    return 0\n```\n</think>\n```python\n{ADD}\n```",
    "two versions in one block": f"```python\ndef add(a, b):\n    return 0\n\n{ADD}\n```",
    "a constant": "```python\nZERO, ONE = 0, 1\nTWO: int = ONE + 1\ndef add(a, b):\n    return a + b + ZERO * TWO\n```",
    "a table that a loop fills": "```python\ntable = {}\nfor i in range(9):\n    for j in range(9):\n"
    "        table[i, j] = i + j\ndef add(a, b):\n    return table[a, b]\n```",
    "a decorator": f"```python\nfrom functools import lru_cache\n\n@lru_cache(None)\n{ADD}\n```",
    "a class": "```python\nclass Sum:\n    def of(self, a, b):\n        return a + b\n\ndef add(a, b):\n"
    "    return Sum().of(a, b)\n```",
    "a helper without return": "```python\ndef put(out, x):\n    out.append(x)\n\ndef add(a, b):\n    out = []\n"
    "    put(out, a + b)\n    return out[0]\n```",
    "imports that may fail": "```python\ntry:\n    import nowhere as n\nexcept ImportError:\n    n = None\n"
    "import math\n"
    "def add(a, b):\n    return a + b if n is None else math.nan\n```",
    "changes of a table": "```python\ntable = [2]\ntable.append(1)\ntable[0] += 0\ntable.sort()\nprint(1 / 0)\n"
    "def add(a, b):\n    return table[0] + b\n```",
    "examples in a loop over a local's name": f"```python\n{ADD.replace('return', 'c =')}\n    return c\n"
    "for c in [1]:\n    print(1 / 0)\nfor a, b in [(1, 1)]:\n    assert add(a, b) == 3\n```",
    "imports that nothing needs": f"```python\nimport nowhere\nfrom nowhere.else_ import x as y\n{ADD}\nprint(y)\n```",
    "imports of every kind": "```python\nfrom __future__ import annotations\nimport os.path, nowhere\n```\n```python\n"
    "from __future__ import annotations\nfrom math import *\nimport os.path\nfrom operator import add as plus\n"
    "def add(a: Foo, b):\n    return plus(a, b) + int(floor(0.5)) + len(os.path.join(''))\n```",
    "two statements in a line": "```python\nx = 1; y = x\nx = 0; z = x\ndef add(a, b): return a + b + x\n```",
    "the prompt again, finished": f"```python\n{PROMPT}    return a + b\n```",
    "a body": "    return a + b\n",
    "a body in a block": "```python\n    return a + b\n```",
    "a body at the margin": "c = a + b\nif c > 100:\n    return 0\nreturn c",
    "a body whose first line lost its indentation": "c = a\n    for _ in range(b):\n        c += 1\n    return c",
    "a body, then more": "    return a + b\n\n\ndef test():\n    assert add(1, 2) == 4\n\ntest()\n1 / 0",
    "a body, then prose": "    return a + b\n\nThis works because addition is what it is.",
    "a body with a helper inside": "    def plus(x, y):\n        return x + y\n\n    return plus(a, b)\n",
}


@pytest.mark.parametrize("how", REPLIES)
def test_found(how) -> None:
    assert value(REPLIES[how]) == 3


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            "   \n\n",
            "I'm sorry, but I cannot help with that.",
            "```python\n```",
            "\0",
            "{" * 500,
            "The answer is 3!",
        ),
        "```python\nclass Solution:\n    def add(self, a, b) -> return a + b\n```",
        "```python\ndef add(a, b) {\n    return a + b;\n}\n```",
    ],
)
def test_not_found(reply) -> None:
    assert program(reply, "add", PROMPT) is None


@pytest.mark.parametrize("reply", ["```python\ndef plus(a, b):\n    return a + b\n```", "pass", "..."])
def test_found_but_of_no_use(reply) -> None:
    assert value(reply) is None


def test_line_numbers_stay_and_the_rest_is_left_out() -> None:
    text = program(
        "```python\nimport re\nprint(1)\nx = 2\nunused = 3\n\ndef add(a, b):\n    return x\n```", "add", PROMPT
    )
    assert text == "x = 2\n\n\ndef add(a, b):\n    return x\n"


def test_a_prompt_with_helpers() -> None:
    prompt = "def plus(a, b):\n    return a + b\n\n\ndef add(a, b):\n    '''Use plus.'''\n"
    assert value("    return plus(a, b)", prompt) == 3


def test_long_replies_take_no_time() -> None:
    prose = "This is a sentence about nothing (with an open bracket.\n" * 2000
    broken = "```python\n" + "x = (\n" * 2000 + "def add(a, b):\n    return a +\n```"
    began = time.perf_counter()
    assert value(prose + ADD + "\n" + prose) == 3
    assert program(broken, "add", PROMPT) is None
    assert program("def add(a, b):\n" + textwrap.indent("if a:\n", "    ") * 2000, "add", PROMPT) is None
    assert time.perf_counter() - began < 30  # an idle machine takes 1 s


@pytest.mark.parametrize(
    "deep",
    [
        "if " + "a + " * 900 + "a:\n    x = 1",
        *(f"x = {'(' * n}{')' * n}" for n in (90, 5000)),
        "x = a" + ".a" * 5000,
        "x = " + "-" * 5000 + "1",
        "x = " + "lambda: " * 5000 + "1",
        "if a:\n    x = 1\n" + "elif a:\n    x = 1\n" * 3000,
    ],
    ids=lambda text: text[:12],
)
def test_deep_nests_are_no_end_of_an_evaluation(deep) -> None:
    assert value(f"```python\n{ADD}\n```\n```python\n{deep}\n```") == 3
    for script in (f"{deep}\n{ADD}\n", f"{ADD}\n\n{deep}\n"):  # which Python itself may refuse, some of them
        assert value(script) in (3, None)


def test_what_a_model_wrote_warns_nobody() -> None:
    text = 'import re\ndef add(a, b):\n    re.match("\\d", "1")\n    return a + b'
    code = f"from unforgotten.datasets.reading.program import program\nassert program({text!r}, 'add', '')"
    process = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stderr) == (0, "")
