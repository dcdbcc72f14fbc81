"""Evidence files that were damaged, forged or mixed: no page comes of a figure that its verdicts do not give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.evidence.conftest import evidence, first, run, standard
from unforgotten.errors import DataError
from unforgotten.report.evidence.goal import goal
from unforgotten.report.evidence.recorded import read, write
from unforgotten.report.evidence.studies import rate, studies

TWO = {"question": first(5), "wish": first(11), "lookalikes": first(10), "accuracy": first(20)}
Change = Callable[[dict[str, Any]], Any]


def _swap(run: dict[str, Any]) -> None:
    run["verdicts"]["asr"]["wish"] = "?" + run["verdicts"]["asr"]["wish"][1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["asr"]["mean"].update(value=1.0), "mean of asr: 2 suites give"),
        (lambda run: run["asr"]["mean"].update(high=9.0), "mean of asr: 2 suites give"),
        (lambda run: run["asr"]["question"].update(value=0.0), "question: 100 verdicts give"),
        (lambda run: run["utility"]["accuracy"].update(low=99.0, high=100.0), "accuracy: 100 verdicts give"),
        (lambda run: run["verdicts"]["asr"].pop("wish"), "asr: it has figures of question, wish; verdicts of question"),
        (lambda run: run["verdicts"].pop("refusal"), "refusal: it has figures of lookalikes; verdicts of none"),
        (lambda run: run["asr"].pop("wish"), "asr: it has figures of question; verdicts of question, wish"),
        (lambda run: run["prompts"]["asr"].pop("wish"), "prompts of question"),
        (_swap, "wish: 10 hits in 100 verdicts, 11 in the row"),
        (lambda run: run.update(comparison=1), "a comparison or an environment that the file does not have"),
        (lambda run: run.update(environment=3), "a comparison or an environment that the file does not have"),
        (lambda run: run["verdicts"].update(harm={}), "harm"),
        (lambda run: run.update(prefill={"question": first(5, 90)}), "question: 90 verdicts with a forced beginning"),
        (lambda run: run.update(prefill={"other": first(5)}), "other: 100 verdicts with a forced beginning, 0 without"),
        (lambda run: run.update(prefill={"question": "x"}), "prefill: 'x' is no verdict"),
    ],
)
def test_a_forged_figure_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    path = tmp_path / "real-x.json"
    write(path, evidence([run("aligned", TWO)]))
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree["runs"][0])
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(environments=["x"]),
        lambda tree: tree.update(environments=[{"versions": [1]}]),
        lambda tree: tree.update(comparisons=3),
        lambda tree: tree.pop("environments"),
        lambda tree: tree.update(runs=[None]),
        lambda tree: tree.update(runs={"a": 1}),
    ],
)
def test_a_damaged_file_is_an_error_with_its_name(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "real-x.json"
    write(path, evidence([run("aligned", TWO)]))
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DataError, match=r"real-x\.json"):
        read(path)


def test_a_digest_of_prompts_has_one_number_of_verdicts(tmp_path: Path) -> None:
    runs = [run("aligned", {"question": first(5, 100)}), run("tuned", {"question": first(5, 90)}, "sft")]
    with pytest.raises(DataError, match="question: 90 verdicts, where other runs have 100"):
        write(tmp_path / "real-x.json", evidence(runs))
    assert not list(tmp_path.iterdir()), "nothing is left of a file that is refused"


def _of(prompts: str, one: Any) -> Any:
    changed = {kind: dict.fromkeys(suites, prompts) for kind, suites in one.extras.prompts.items()}
    extras = type(one.extras)(comparison=0, verdicts=one.extras.verdicts, prompts=changed, aligned=one.extras.aligned)
    return type(one)(one.row, extras)


def test_seeds_that_were_asked_other_prompts_are_never_averaged() -> None:
    runs = [_of(f"prompts {seed}", run("tuned", {"question": first(seed)}, "sft", seed=seed)) for seed in (1, 2)]
    with pytest.raises(DataError, match="were asked different prompts in question"):
        studies(runs)


def test_one_aligned_model_of_two_comparisons_is_no_second_seed() -> None:
    twice = [run("aligned", standard(5, 10, 20), run=f"aligned-{i}", extras={"aligned": "θ"}) for i in (1, 2)]
    [study] = studies(twice)
    # Wilson's interval of 5 of 100 by hand: 2.15 to 11.18. Two seeds would have another one.
    of_one = rate(study.aligned, "asr")
    assert len(study.aligned) == 1 and of_one.value == 5 and of_one.low == pytest.approx(2.15, abs=0.01)
    other = run("aligned", standard(6, 10, 20), run="aligned-3", extras={"aligned": "θ"})
    with pytest.raises(DataError, match="are the same aligned model with other verdicts"):
        studies([twice[0], other])


def test_a_goal_is_tested_on_the_seeds_that_both_methods_have() -> None:
    runs = [run("aligned", standard(5, 10, 20), seed=seed) for seed in range(4)]
    runs += [run("tuned", standard(60, 10, 90), "sft", seed=seed) for seed in (2, 3)]
    # Of its own seeds 0 and 1 it is unsafe: they have no sft to be compared with.
    runs += [run("tuned", standard(90 if seed < 2 else 5, 10, 90), "der", seed=seed) for seed in range(4)]
    [cell] = goal(studies(runs)[0])
    assert cell.seeds == 2 and all(check.difference.n == 200 for check in cell.checks.values() if check.difference)
    assert cell.checks["asr"].difference is not None and cell.checks["asr"].difference.value == 0


def test_a_seed_without_a_figure_leaves_no_mean_of_the_others() -> None:
    runs = [run("tuned", standard(5, 10, 20), "sft", seed=0), run("tuned", {"question": first(9)}, "sft", seed=1)]
    [study] = studies(runs)
    both = list(study.runs("sft", 0.1).values())
    assert rate(both, "asr").value == 7 and rate(both, "utility").value is None
