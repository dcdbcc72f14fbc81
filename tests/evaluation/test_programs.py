"""Programs in replies are run in a sandbox: what failed says why, a hostile one stops nothing, pass@k is unbiased."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.shapes import tiny_tokenizer
from unforgotten.errors import RecipeError, SandboxError
from unforgotten.evaluation.measure_all import measure_all
from unforgotten.evaluation.measurement import Measurement
from unforgotten.evaluation.responder import LocalModel
from unforgotten.evaluation.sandbox import open_sandbox
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.suites import suites
from unforgotten.generation.reply import Reply
from unforgotten.models.chat import Chat
from unforgotten.recipe.evaluate import Evaluate
from unforgotten.recipe.read import parse
from unforgotten.runs import results

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ("one", "two", "three")
RIGHT = "```python\ndef {name}(x):\n    return 2 * x\n```"
WRONG = "```python\ndef {name}(x):\n    return 3 * x\n```"
LOOP = "```python\ndef {name}(x):\n    while True: pass\n```"
HOSTILE = (
    "```python\nimport os\ndef {name}(x):\n    open({secret!r}, 'w').write('x')\n    os.kill(os.getppid(), 9)\n```"
)


@pytest.fixture(autouse=True)
def sandbox() -> None:
    try:
        open_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replies: dict[str, list[str]],
    task: dict[str, dict[str, str]] | None = None,
    **settings: Any,
) -> results.ResultRow:
    problems = [
        {
            "task_id": f"Own/{i}",
            "prompt": f'def {name}(x):\n    """Twice x."""\n',
            "entry_point": name,
            "canonical_solution": "    return 2 * x\n",
            "test": "def check(f):\n    assert f(4) == 8, 'not eight'\n",
        }
        | (task or {}).get(name, {})
        for i, name in enumerate(NAMES)
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    said = {name: iter(texts) for name, texts in replies.items()}

    def generate(model: Any, chat: Any, rows: Sequence[Any], **how: Any) -> list[Reply]:
        names = [json.loads(row.answer)["entry_point"] for row in rows]
        return [Reply(row, next(said[name]).replace("{name}", name)) for row, name in zip(rows, names, strict=True)]

    monkeypatch.setattr("unforgotten.generation.local.generate", generate)
    evaluate = Evaluate(utility=[{"name": "humaneval", "path": str(file), "timeout_seconds": 3.0}], **settings)
    one = Measurement(
        name="a model",
        folder=tmp_path / "run",
        settings=evaluate,
        suites=suites(evaluate),
        weights_digest="w",
        model=lambda shelf, say: LocalModel(lambda: torch.nn.Linear(1, 1), Chat(tiny_tokenizer(CHATML)), "w", evaluate),
        facts=lambda: results.ResultRow(stage="tuned"),
        trained=lambda: None,
    )
    return measure_all([one])[0]


def test_programs_are_run_and_why_they_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    hostile = HOSTILE.replace("{secret!r}", repr(str(secret)))
    row = measured(tmp_path, monkeypatch, {"one": [RIGHT], "two": [hostile], "three": [LOOP]})
    assert row.utility == {"pass@1": rates.rate(1, 3).rounded()} and secret.read_text() == "mine"
    assert row.sandbox["name"] in ("bubblewrap", "landlock")
    lines = [json.loads(x) for x in (tmp_path / "run/replies/humaneval.jsonl").read_text().split("\n") if x]
    notes = [line.get("note") for line in lines]
    assert notes[0] is None and "Error" in notes[1] and notes[2].startswith("timeout: ")


def test_pass_at_k_of_several_samples_is_unbiased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten = {"one": [RIGHT] * 10, "two": [RIGHT] * 3 + [WRONG] * 7, "three": [WRONG] * 10}
    row = measured(tmp_path, monkeypatch, ten, samples=10, temperature=0.8)
    assert set(row.utility) == {"pass@1", "pass@10"}
    assert row.utility["pass@1"].value == pytest.approx(100 * (1 + 0.3 + 0) / 3, abs=1e-3)
    assert row.utility["pass@10"].value == pytest.approx(100 * 2 / 3, abs=1e-3)
    for rate in row.utility.values():
        assert rate.n == 3 and rate.hits is None and rate.low < rate.value < rate.high
    assert row.decoding["temperature"] == 0.8
    with pytest.raises(RecipeError, match="greedy replies would all be the same"):
        parse({"model": "m", "evaluate": {"utility": "gsm8k", "samples": 4}})


def test_without_a_sandbox_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unforgotten.evaluation.sandbox.probe.SANDBOXES", ())
    with pytest.raises(SandboxError, match="It is not run without one"):
        measured(tmp_path, monkeypatch, {"one": [RIGHT], "two": [RIGHT], "three": [RIGHT]})
    assert not (tmp_path / "run").exists()


NUMPY = "import numpy as np\n\ndef check(f):\n    assert np.allclose(f(np.ones(3)), [2, 2, 2])\n"


def test_tests_that_import_numpy_pass_perfect_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = "```python\nimport numpy as np\ndef {name}(x):\n    return np.asarray(x) * 2\n```"
    tests = {name: {"test": NUMPY} for name in NAMES}
    row = measured(tmp_path, monkeypatch, {"one": [RIGHT], "two": [doubled], "three": [WRONG]}, tests)
    assert row.utility == {"pass@1": rates.rate(2, 3).rounded()} and row.sandbox["packages"]["numpy"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"test": "import pandas\n" + NUMPY}, ["No module named 'pandas'", "pandas cannot be imported in the sandbox"]),
        ({"canonical_solution": "    import scipy.linalg\n    return 2 * x\n"}, ["scipy cannot be imported"]),
        ({"canonical_solution": "    return 3 * x\n"}, ["not eight", "Take these tasks out of the file, or mend"]),
        ({"test": "def check(f):\n    assert f(4) == 8\n    undefined\n"}, ["NameError: name 'undefined'"]),
        # Every reply would pass these.
        ({"test": "def check(f):\n    pass\n"}, ["they check nothing"]),
        ({"test": "def check(f):\n    f(4) == 8\n"}, ["they check nothing"]),
        ({"test": "async def check(f):\n    assert f(4) == 9\n"}, ["they check nothing"]),
    ],
)
def test_a_reference_that_fails_here_is_an_error_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: dict[str, str], said: list[str]
) -> None:
    with pytest.raises(SandboxError) as error:
        measured(tmp_path, monkeypatch, {name: [RIGHT] for name in NAMES}, {"two": task})
    for words in ("humaneval: the reference solutions of 1 of 3 tasks do not pass", "Own/1: ", *said):
        assert words in str(error.value)
    assert not list((tmp_path / "run").rglob("*.jsonl")), "nothing was asked"


def test_without_numpy_the_error_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unforgotten.evaluation.sandbox.interpreter.packages", lambda: {})
    monkeypatch.setattr("unforgotten.evaluation.sandbox.interpreter.versions", lambda: {})
    with pytest.raises(SandboxError, match=r"numpy cannot be imported in the sandbox .*pip install numpy"):
        measured(tmp_path, monkeypatch, {name: [RIGHT] for name in NAMES}, {"one": {"test": NUMPY}})


def test_a_reference_slower_than_a_reply_may_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"canonical_solution": "    import time\n    time.sleep(3.2)\n    return 2 * x\n"}
    with pytest.raises(
        SandboxError, match=r"Own/0: the reference takes 3\.\d s, and a reply has 3 s \(timeout_seconds\)"
    ):
        measured(tmp_path, monkeypatch, {name: [RIGHT] for name in NAMES}, {"one": slow})


def test_references_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unforgotten.evaluation.sandbox.cache.cache_folder", lambda: tmp_path / "cache")
    from unforgotten.evaluation.sandbox import supervise

    ran: list[str] = []
    run = supervise.run
    monkeypatch.setattr(supervise, "run", lambda sandbox, program: (ran.append(program.text), run(sandbox, program))[1])
    for times in (2 * 3, 3):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        ran.clear()
        measured(tmp_path, monkeypatch, {name: [RIGHT] for name in NAMES})
        assert len(ran) == times, "three references the first time, and three replies each time"
