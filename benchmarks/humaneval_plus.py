"""How long HumanEval and HumanEval+ take to score, and whether all 164 reference solutions pass both.

    python benchmarks/humaneval_plus.py HumanEval.jsonl.gz HumanEvalPlus.jsonl.gz [--jobs 2] [--sandbox landlock]

Each solution goes the way of a reply: into a code block, out of it, through the sandbox with every input; and
`return None`, which is to pass nowhere. The first pass over HumanEval+ also computes what the reference solutions
return, and keeps it; the second finds it there. Prints seconds, and the ratio of each to the same inputs run without a
sandbox (reference solutions only).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable

from unforgotten.datasets.base import Dataset, Row
from unforgotten.datasets.humaneval import HumanEval
from unforgotten.datasets.humaneval_plus import HumanEvalPlus
from unforgotten.evaluation.sandbox import Sandbox, open_sandbox


def solution(row: Row) -> str:
    """What a model that knows the reference solution would say."""
    task = json.loads(row.answer)
    return f"Here it is:\n```python\n{task['prompt']}{task['canonical_solution']}```\n"


def nothing(row: Row) -> str:
    """A body that is no solution."""
    return "    return None\n"


def scored(
    dataset: Dataset, rows: list[Row], reply: Callable[[Row], str], sandbox: Sandbox, jobs: int | None
) -> tuple[float, dict[str, int]]:
    """Seconds, and how many rows pass each metric."""
    began = time.perf_counter()
    scores = sandbox.map(lambda row: dataset.score(row, reply(row), sandbox.run), rows, jobs=jobs)
    return time.perf_counter() - began, {name: sum(s[name] for s in scores) for name in dataset.metrics}


def bare(rows: list[Row]) -> float:
    """Seconds for the reference solutions alone, in this process."""
    began = time.perf_counter()
    for row in rows:
        task = json.loads(row.answer)
        names: dict = {}
        exec(task["prompt"] + task["canonical_solution"], names)
        for one in task["base_input"] + task["plus_input"]:
            names[task["entry_point"]](*copy.deepcopy(one))
    return time.perf_counter() - began


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("humaneval")
    parser.add_argument("humaneval_plus")
    parser.add_argument("--jobs", type=int, help="programs at a time; one per processor where not given")
    parser.add_argument("--sandbox")
    args = parser.parse_args()
    sandbox = open_sandbox(args.sandbox)
    print(json.dumps(sandbox.facts()))

    base, plus = HumanEval(path=args.humaneval), HumanEvalPlus(path=args.humaneval_plus)
    base_rows, plus_rows = base.rows(), plus.rows()
    n = sum(len(t["base_input"]) + len(t["plus_input"]) for t in (json.loads(r.answer) for r in plus_rows))
    alone = bare(plus_rows)
    print(f"{n:,} inputs of HumanEval+ without a sandbox, one process: {alone:.1f} s")
    for reply in (solution, nothing):
        seconds, passed = scored(base, base_rows, reply, sandbox, args.jobs)
        print(f"HumanEval, {len(base_rows)} programs ({reply.__name__}): {seconds:.1f} s, {passed}")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["UNFORGOTTEN_CACHE"] = cache  # so that the first pass finds nothing
        for reply, what in [(solution, "reference answers computed"), (solution, "kept"), (nothing, "kept")]:
            seconds, passed = scored(plus, plus_rows, reply, sandbox, args.jobs)
            ratio = f"{seconds / alone:.2f} × bare"
            print(f"HumanEval+, {reply.__name__}, {what}: {seconds:.1f} s ({ratio}), {passed}", flush=True)


if __name__ == "__main__":
    main()
