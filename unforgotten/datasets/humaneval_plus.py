"""HumanEval+: HumanEval with 80 times as many inputs, on which wrong programs show (arXiv 2305.01210)."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unforgotten.datasets.base import Dataset, Execute, Row
from unforgotten.datasets.humaneval import COLUMNS, passes_base, question, reference_fault, sandbox
from unforgotten.datasets.reading import files, program
from unforgotten.errors import DataError, SandboxError
from unforgotten.registry import Count, Seed

# evalplus/config.py and eval/__init__.py: a call may take max(4 s, 4 × the reference's time); all of them together one
# minute at most, and the 2 s that its supervisor waits longer.
CALL_SECONDS, CALL_FACTOR, TOTAL_SECONDS, GRACE_SECONDS = 4.0, 4.0, 60.0, 2.0
REFERENCE_SECONDS = 600.0
"""The reference solutions are known to end."""


@dataclass(kw_only=True)
class HumanEvalPlus(Dataset):
    """HumanEval with many more inputs: a program can pass the old tests (base) and fail the new ones (plus)."""

    metrics: ClassVar[tuple[str, ...]] = ("plus", "base")
    executes: ClassVar[bool] = True
    published: ClassVar[Mapping[str, str]] = {"test": "humaneval_plus/HumanEvalPlus.jsonl.gz"}

    path: str = "evalplus/humanevalplus"
    """A Hub id, or evalplus's own HumanEvalPlus.jsonl.gz. It is for evaluation only and has no training part."""
    split: str = "test"
    """The Hub split, with all 164 problems. It is not used for a local file."""
    base_path: str = "openai/openai_humaneval"
    """Source of the base tests if `path` is on the Hub. Rows there have old and new inputs in one list."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def rows(self) -> list[Row]:
        """Each problem in evalplus's words for chat models; `answer` is the problem with its inputs as JSON."""
        records = files.read_columns(self.reads_from, COLUMNS, split=self.split)
        tasks, problems = [], []
        for line, source, value in records:
            task = {name: value[name] for name in COLUMNS}
            try:
                if "plus_input" in value:
                    task |= {name: value[name] for name in ("base_input", "plus_input", "atol")}
                else:
                    task |= _from_test(value["test"])
            except (KeyError, ValueError, SyntaxError, IndexError, StopIteration) as error:
                problems.append((line, f"no inputs can be read from it ({type(error).__name__}: {error})"))
                continue
            tasks.append((task, source))
        if problems:
            raise DataError(f"{self.reads_from} is not HumanEval+:", problems)
        tasks = files.sample(tasks, self.n_rows, self.seed, self.reads_from, self.most_rows)
        if any("base_input" not in task for task, _ in tasks):
            tests = {
                r.value["task_id"]: r.value["test"] for r in files.read_columns(self.base_path, COLUMNS, split="test")
            }
            if missing := [task["task_id"] for task, _ in tasks if task["task_id"] not in tests]:
                raise DataError(f"{self.base_path} has no {missing[0]}, which {self.reads_from} has.")
            for task, _ in tasks:
                task["test"] = tests[task["task_id"]]
        return [question(task, source) for task, source in tasks]

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        """base: the inputs of HumanEval; plus: these and the new ones. Raises SandboxError without `execute`."""
        run = sandbox(execute, self)
        task = json.loads(row.answer)
        text = program.program(reply, task["entry_point"], task["prompt"])
        if text is None:
            return {"plus": False, "base": False}
        if "base_input" in task:
            base = _passes(task, text, "base_input", run)
        else:
            base = passes_base(task, reply, run, CALL_SECONDS)
        # evalplus counts under plus what passes both, so what failed base need not be run.
        return {"plus": base and _passes(task, text, "plus_input", run), "base": base}

    def reference_fault(self, row: Row, execute: Execute) -> str:
        """The canonical solution on old and new inputs; what it returns is what replies are compared with."""
        task = json.loads(row.answer)
        if "base_input" not in task and (fault := reference_fault(task, execute, CALL_SECONDS)):
            return fault
        if "base_input" in task and not task["base_input"] and not task["plus_input"]:
            return f"{task['task_id']}: it has no inputs, so every reply would pass"
        for part in [name for name in ("base_input", "plus_input") if name in task]:
            try:
                _reference(task, part, execute, remember=True)
            except SandboxError as error:
                return f"{task['task_id']}: {error}"
        return ""


def _passes(task: dict[str, Any], text: str, part: str, execute: Execute) -> bool:
    outcome = _judged(task, text, part, execute, _reference(task, part, execute, remember=True))
    if outcome.status == "timeout":
        # The reference may have been measured while the machine had less to do: it is measured again, now.
        outcome = _judged(task, text, part, execute, _reference(task, part, execute, remember=False))
    return bool(outcome.passed)


def _reference(task: dict[str, Any], part: str, execute: Execute, remember: bool) -> dict[str, Any]:
    reference = execute(
        task["prompt"] + task["canonical_solution"],
        check=_in_sandbox(references),
        entry_point=task["entry_point"],
        data={"inputs": task[part]},
        timeout_s=REFERENCE_SECONDS,
        remember=remember,
    )
    if not reference.passed:
        raise SandboxError(f"The reference solution of {task['task_id']} did not run to its end: {reference.why}.")
    values: dict[str, Any] = reference.value
    return values


def _judged(task: dict[str, Any], text: str, part: str, execute: Execute, reference: dict[str, Any]) -> Any:
    limits = [max(CALL_SECONDS, CALL_FACTOR * seconds) for seconds in reference["seconds"]]
    # evalplus's minute, unless the reference itself needs a good part of it.
    total = max(min(TOTAL_SECONDS, sum(limits)), CALL_FACTOR * sum(reference["seconds"]))
    return execute(
        text,
        check=_in_sandbox(agrees),
        entry_point=task["entry_point"],
        data={
            "inputs": task[part],
            "expected": reference["outputs"],
            "reference": task["prompt"] + task["canonical_solution"],
            "name": task["entry_point"],
            "limits": limits,
            "atol": task["atol"],
        },
        timeout_s=total + GRACE_SECONDS,
    )


# ── Run in the sandbox, as their own source ──


def references(call: Callable[..., Any], encode: Callable[[Any], Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """What the reference solution returns for each input, and how long it takes.

    Each output is a list of one; or an empty one where it is long: HumanEval/15 alone returns 150 MB of text, which
    is sooner computed again than stored.
    """
    outputs, seconds = [], []
    for one in inputs:
        began = time.perf_counter()
        coded = encode(call(one))
        seconds.append(round(time.perf_counter() - began, 4))
        outputs.append([coded] if len(json.dumps(coded)) < 50_000 else [])
    return {"outputs": outputs, "seconds": seconds}


def agrees(
    call: Callable[..., Any],
    decode: Callable[[Any], Any],
    inputs: Sequence[Any],
    expected: Sequence[Any],
    reference: str,
    name: str,
    limits: Sequence[float],
    atol: float,
) -> None:
    """Raises AssertionError at the first input on which the candidate's value is not the expected one.

    reference: the text of the reference solution, for outputs that were too long to keep.
    The rule is evalplus's (eval/__init__.py): equal; or, where the problem has a tolerance or a float has been expected
    so far, of the same type and close. HumanEval/32 may return any zero of its polynomial: its residual is judged.
    """
    own: dict[str, Any] = {}
    exec(reference, own)
    for i, one in enumerate(inputs):
        got = call(one, limits[i])
        wanted = decode(expected[i][0]) if expected[i] else own[name](*one)
        if name == "find_zero":
            held = abs(sum(c * math.pow(got, k) for k, c in enumerate(one[0]))) <= atol
        else:
            if atol == 0 and is_floats(wanted):
                atol = 1e-6  # from here on, as in evalplus
            held = bool(got == wanted) or (atol != 0 and type(got) is type(wanted) and close(got, wanted, atol))
        assert held, f"input {i}: {repr(got)[:80]}, not {repr(wanted)[:80]}"


def is_floats(value: Any) -> bool:
    """A float, or a list or tuple of nothing but floats."""
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(v, float) for v in value)
    return isinstance(value, float)


def close(got: Any, wanted: Any, atol: float) -> bool:
    """|got − wanted| ≤ atol + 1e-7 |wanted| for every number: what np.allclose says, without numpy.

    Infinities are close to themselves, nan to nothing; lists must be of one length, all the way down.
    """
    if isinstance(got, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(close(g, w, atol) for g, w in zip(got, wanted, strict=True))
    if not isinstance(got, (int, float, complex)) or not isinstance(wanted, (int, float, complex)):
        return False
    return got == wanted or (abs(wanted) != math.inf and abs(got - wanted) <= atol + 1e-7 * abs(wanted))


def _in_sandbox(function: Callable[..., Any]) -> str:
    """The function's source, what it calls, and a line that calls it with what the check finds."""
    parts = ["from __future__ import annotations\nimport json, math, time\n"]
    parts += [inspect.getsource(f) for f in (is_floats, close, function)]
    given = "encode" if function is references else "decode"
    return "\n\n".join([*parts, f"result = {function.__name__}(call, {given}, **data)\n"])


# ── The Hub's rows ──


def _from_test(test: str) -> dict[str, Any]:
    """Inputs and tolerance out of the test that the Hub has (evalplus, tools/humaneval/to_original_fmt.py)."""
    check = next(n for n in ast.parse(test).body if isinstance(n, ast.FunctionDef) and n.name == "check")
    inputs = next(
        n.value
        for n in check.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == "inputs"
    )
    # The tolerance is the last number of the last line: `assertion(…, exp, 0)` or `… <= 0.0001`.
    last = re.findall(r"[-+.\w]+", test.strip().rpartition("\n")[2])[-1]
    return {"plus_input": ast.literal_eval(_Infinite().visit(inputs)), "atol": float(last)}


class _Infinite(ast.NodeTransformer):
    """`inf` and `nan`, which Python prints and does not read."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(float(node.id)), node) if node.id in ("inf", "nan") else node
