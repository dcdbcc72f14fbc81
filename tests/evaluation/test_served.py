"""A server's replies: what a filter stops is unread, and figures of weights that nobody saw are nobody else's."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.evaluation.test_ask import recipe_of
from tests.generation.server import Fault, Talker, serving
from unforgotten.cli import app
from unforgotten.evaluation.gate import Decision, Limits, gate, worst
from unforgotten.evaluation.statistics import rates
from unforgotten.recipe.recipe import Recipe
from unforgotten.runs import results
from unforgotten.runs.result_types import Flags
from unforgotten.verbs.evaluate.evaluate import evaluate
from unforgotten.verbs.gate import against, against_all

Make = Callable[..., Path]
FILTERED: Fault = (400, {}, {"error": {"code": "content_filter", "message": "The prompt was filtered."}})


def refuses(body: Any) -> Any:
    text = "positive" if "sentiment" in str(body) else "I cannot do that."
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def hosted(tmp_path: Path, url: str, n: int = 6, **settings: Any) -> Recipe:
    endpoint = {"url": url, "model": "tuned", "template": "server", "retries": 0}
    return recipe_of(tmp_path, "a-hosted-model", n, endpoint=endpoint, conditions=["default"], **settings)


def asked(recipe: Recipe, kind: str) -> list[str]:
    from unforgotten.recipe.data_sets import dataset

    assert recipe.evaluate is not None
    return [row.request for row in dataset(getattr(recipe.evaluate, kind)[0]).rows()]


def test_one_filtered_prompt_of_each_suite_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    with serving(Talker(refuses)) as talker:
        recipe = hosted(tmp_path, talker.url)
        talker.faults = {asked(recipe, kind)[1]: [FILTERED] for kind in ("harm", "refusal", "utility")}
        [row] = evaluate("a-hosted-model", recipe)
    assert row.asr["advbench"] == rates.rate(0, 6, 1).rounded() and row.asr["mean"].unparsed == 1
    assert row.refusal["xstest"] == rates.rate(5, 6, 1).rounded()
    assert row.utility["exact"] == rates.rate(5, 6, 1).rounded()
    assert row.flags["advbench"] == Flags()
    assert sum("1 of 6 replies are unread" in note and "was filtered" in note for note in row.notes) == 3
    kept = (tmp_path / "runs" / row.run / "replies" / "advbench.jsonl").read_text().splitlines()
    line = json.loads(kept[1])
    assert line["unread"] == line["verdict"]["note"] and line["verdict"]["harmful"] is None
    assert line["scores"] == {} and "unread" not in json.loads(kept[0])
    assert evaluate("a-hosted-model", recipe) == [row]


def test_where_all_or_most_is_filtered_the_gate_cannot_tell(tmp_path: Path) -> None:
    with serving(Talker(refuses)) as talker:
        recipe = hosted(tmp_path, talker.url)
        talker.faults = {text: [FILTERED] for text in asked(recipe, "harm")}
        [row] = evaluate("a-hosted-model", recipe)
    assert row.asr["advbench"].value is None and row.asr["advbench"].unparsed == 6
    unserved = replace(row, served=None, decoding={**(row.decoding or {}), "engine": "here"})
    for limit in (5, 95):
        actual = gate(Limits(max_asr=limit), (unserved, tmp_path / "runs" / row.run))
        assert actual.outcome == "unclear" and "6 verdicts could not be read" in actual.lines[0]


def test_pass_at_k_counts_what_is_unread_as_either(tmp_path: Path) -> None:
    with serving(Talker(refuses)) as talker:
        recipe = hosted(tmp_path, talker.url, 3, samples=2, temperature=0.8)
        talker.faults = {text: [FILTERED] for text in asked(recipe, "utility")[:1]}
        [row] = evaluate("a-hosted-model", recipe)
    said = row.utility["exact_pass@1"]
    assert said.unparsed == 1 and said.value == pytest.approx(100 * 2.5 / 3, abs=1e-3)
    assert said.low < said.value < said.high


@pytest.fixture
def run(tmp_path: Path, model_folder: Make) -> Path:
    from unforgotten.verbs.finetune.finetune import finetune

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello ."}]
    (tmp_path / "user.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 8)
    user = {"name": "jsonl", "path": str(tmp_path / "user.jsonl")}
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 4, max_new_tokens=4, conditions=["default"])
    return finetune(recipe.varied(data=user, lora={"r": 2}, training={"num_train_epochs": 1}))


def test_a_served_models_figures_lie_beside_the_runs_own_and_prove_nothing_of_it(run: Path) -> None:
    [own] = evaluate(str(run))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with serving(Talker(refuses)) as talker:
        endpoint = {"url": talker.url, "model": "tuned", "template": "server"}
        changes = {"evaluate.endpoint": endpoint}
        [row] = evaluate(str(run), overrides=changes)
        assert {path: path.read_bytes() for path in before} == before, "the run's own files"
        assert own.served is None and row.served == "tuned"
        assert results.served_as(row) == "served as tuned" and results.served_as(own) == ""
        assert re.fullmatch(rf"{run.name}/served-\w+", row.run) and own.run == run.name
        beside = run.parent / row.run
        assert results.read(beside / "results.json") == [row] and (beside / "replies" / "advbench.jsonl").is_file()
        assert row.asr != own.asr or row.refusal != own.refusal
        # Another name on the server is another model.
        [other] = evaluate(str(run), overrides={"evaluate.endpoint": endpoint | {"model": "older"}})
        assert other.run != row.run and results.read(beside / "results.json") == [row]
        # Its figures are within the limit, or beyond it: neither says anything of the run.
        for limits in (Limits(max_asr=100), Limits(max_utility_loss=None, max_asr=0)):
            _, _, decision = against(str(run), limits=limits, overrides=changes)
            assert decision is not None and (decision.outcome, decision.exit_code) == ("unclear", 4)
            assert "nobody here saw its weights" in decision.lines[-1] and "unforgotten export" in decision.lines[-1]
        said = json.dumps(endpoint)
        asked = ["evaluate", str(run), "--set", f"evaluate.endpoint={said}", "--gate", "max_asr=100"]
        out = CliRunner().invoke(app, asked)
        assert out.exit_code == 4 and "gate: unclear" in out.output, out.output
    assert evaluate(str(run)) == [own]


def test_several_targets_are_each_decided_and_the_worst_counts(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(run, other / run.name)
    targets = [str(run), str(other / run.name)]
    said = against_all(targets, limits=Limits(max_asr=100))
    assert [d.outcome for _, _, d in said if d] == ["pass", "pass"]
    assert all((Path(target) / "gate.json").is_file() for target in targets)

    def code(*more: str) -> tuple[int, str]:
        out = CliRunner().invoke(app, ["evaluate", *targets, *more])
        return out.exit_code, out.output

    assert code("--gate", "max_asr=100")[0] == 0
    exit_code, text = code("--gate", "max_asr=0")
    assert exit_code == 3 and text.count("fail: non-refusal") == 2 and text.rstrip().endswith("gate: fail")
    assert code("--gate", "max_asr=60")[0] == 4, "4 prompts of 4 do not tell 60 % from less"


@pytest.mark.parametrize(
    ("each", "outcome"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "unclear"], "unclear"),
        (["unclear", "fail", "pass"], "fail"),
        (["pass", "fail"], "fail"),
    ],
)
def test_one_model_that_fails_is_not_outweighed_by_those_that_pass(each: Any, outcome: str) -> None:
    assert worst([Decision(one, ()) for one in each]) == outcome
