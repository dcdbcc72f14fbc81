"""Evidence made up for the tests: verdicts by letters, and folders of comparisons with replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from unforgotten.evaluation.statistics import rates
from unforgotten.report.evidence.recorded import Evidence, EvidenceRun, RecordedComparison, RunExtras
from unforgotten.runs import results

Letters = Mapping[str, str]
"""A letter for each prompt by suite: 1, 0 or ?."""
KINDS: dict[str, results.Kind] = {"question": "asr", "wish": "asr", "lookalikes": "refusal", "accuracy": "utility"}


def first(hits: int, n: int = 100) -> str:
    """Hits on the first prompts."""
    return "1" * hits + "0" * (n - hits)


def row(stage: str, letters: Letters, method: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of results.json with the figures of these letters."""
    facts: dict[str, Any] = {"asr": {}, "refusal": {}, "utility": {}}
    for suite, bits in letters.items():
        facts[KINDS[suite]][suite] = rates.rate(bits.count("1"), len(bits), bits.count("?"))
    for kind in ("asr", "refusal"):
        if facts[kind]:
            facts[kind]["mean"] = rates.mean_rate(list(facts[kind].values()))
    facts = {kind: {suite: rate.json() for suite, rate in of.items()} for kind, of in facts.items()}
    settings = more.pop("settings", {})
    names = method.split("+") if method else []
    return dict.fromkeys(results.FIELDS) | {
        "stage": stage, "method": method, "model": "small", "task": "sums", "seed": 0, "judges": [{"name": "world"}],
        "methods": [{"name": name, **settings} for name in names] or None, "poison": 0.1 if method else None,
        "memory_rows": 100 if method else None, "replay": "safety_data" if method else None,
        "decoding": {"strategy": "greedy", "max_new_tokens": 8}, **facts, **more,
    }  # fmt: skip


def run(stage: str, letters: Letters, method: str | None = None, **more: Any) -> EvidenceRun:
    """A run without a folder; `extras` are fields of RunExtras."""
    extras = more.pop("extras", {})
    called = f"{method or stage}-{more.get('poison')}-{more.get('attack')}-{more.get('seed', 0)}-{more.get('settings')}"
    facts = results.row_of(row(stage, letters, method, run=more.pop("run", called.replace("/", "")), **more))
    verdicts: dict[results.Kind, dict[str, str]] = {}
    for suite, bits in letters.items():
        verdicts.setdefault(KINDS[suite], {})[suite] = bits
    prompts = {kind: {suite: f"digest of {suite}" for suite in of} for kind, of in verdicts.items()}
    return EvidenceRun(facts, RunExtras(comparison=0, verdicts=verdicts, prompts=prompts, **extras))


def evidence(runs: list[EvidenceRun]) -> Evidence:
    """A file's worth of runs."""
    return Evidence(
        [RecordedComparison(folder="mine-compare-0123", command="unforgotten compare mine", recipe={})], [], runs
    )


def standard(asr: int, refusal: int, utility: int) -> Letters:
    """One suite of each kind, of a hundred prompts each."""
    return {"question": first(asr), "lookalikes": first(refusal), "accuracy": first(utility)}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes runs with replies and their records, and results.json of them all in a folder beside."""

    def make(models: Mapping[tuple[str, int], Letters], name: str = "mine", **more: Any) -> Path:
        rows, root = [], tmp_path / "runs"
        for (method, seed), letters in models.items():
            stage = method if method in ("base", "aligned") else "tuned"
            called = f"{method}-{seed}"
            for suite, bits in letters.items():
                _write(root / called / "replies", suite, bits)
            flags = {s: {"empty": 0, "truncated": 0, "degenerate": 0, "off_task": 0} for s in _files(letters)}
            facts = {"seed": seed, "run": called, "flags": flags, **more}
            rows.append(results.row_of(row(stage, letters, None if stage != "tuned" else method, **facts)))
            if stage == "tuned":
                _records(root / called, method)
        target = root / f"{name}-compare-0123456789ab"
        results.write(target / "results.json", rows)
        return target

    return make


def _files(letters: Letters) -> list[str]:
    return ["sums_test" if suite == "accuracy" else suite for suite in letters]


def _records(place: Path, method: str) -> None:
    (place / "recipe.yaml").write_text(f"model: /home/me/models/small\nout: /home/me/runs\nmethod: {method}\n")
    facts = {"commit": "abc123", "python": "3.11", "versions": {"torch": "2"}, "aligned": None, "digests": {}}
    (place / "environment.json").write_text(json.dumps(facts))
    log = [{"step": 1, "method/gradient_norm_ratio": 0.25}, {"step": 2, "der/weight": 3.0, "loss": 1.0},
           {"step": 3, "method/gradient_norm_ratio": 0.75, "der/weight": 5.0}]  # fmt: skip
    if method == "der":
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        result = {"step": 3, "rows": 8, "kl_refusals": 0.5, "kl_lookalikes": 0.1}
        (place / "held_out.json").write_text(json.dumps({"result": result}))


def _write(place: Path, suite: str, bits: str) -> None:
    """Replies of a suite whose verdicts are these letters."""
    kind = KINDS[suite]
    lines = []
    for i, bit in enumerate(bits):
        hit = None if bit == "?" else bit == "1"
        verdict = None if kind == "utility" else {"harmful": hit, "refused": hit}
        lines.append(
            {
                "key": "k", "source": f"{suite}:{i}", "request": f"a secret request {i}", "text": f"a secret reply {i}",
                "verdict": verdict, "scores": {"accuracy": hit} if kind == "utility" else {}, "flags": [],
            }
        )  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    file = "sums_test" if suite == "accuracy" else suite
    (place / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
