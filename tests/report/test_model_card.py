"""The model card, read back by the Hub's own library: metadata, figures of both sides, no path of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.report.page.conftest import row
from unforgotten.recipe.read import parse
from unforgotten.report import model_card
from unforgotten.verbs.evaluate.evaluate import evaluate
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import method_specs
from unforgotten.verbs.judge import judge

Make = Callable[..., Path]
HUB = {"model": "meta-llama/Llama-2-7b-hf", "data": {"name": "refusals", "path": "some/upload"}, "method": "der"}


def said(**more: Any) -> dict[str, Any]:
    return row(
        "tuned", "der", model="Llama-2-7b-hf", task="sums",
        asr={"advbench": (13, 520), "question": (0, 40)},
        refusal={"xstest": (25, 250)}, utility={"accuracy": (90, 100)},
        judges=[{"name": "keywords", "list": "qi"}], notes=["λ = 1 here is 0.5 there"], **more,
    )  # fmt: skip


def test_the_hub_reads_what_it_lies_on_what_it_was_trained_on_and_both_sides() -> None:
    evaluates = {
        "harm": [{"name": "advbench", "path": "walledai/AdvBench"}, {"name": "world", "part": "harm_question"}],
        "judge": "keywords",
    }
    recipe = parse(HUB | {"evaluate": evaluates, "license": "llama2"})
    text = model_card.card(recipe, method_specs(recipe), said(), {}, "run-1", True)
    read = ModelCard(text)
    data = read.data
    assert data.base_model == "meta-llama/Llama-2-7b-hf" and data.base_model_relation == "adapter"
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "llama2")
    assert data.tags == ["unforgotten", "safety", "lora", "der"] and data.datasets == ["some/upload"]
    actual = {(r.dataset_name, r.metric_type): r for r in data.eval_results}
    assert actual["advbench", "non_refusal_rate"].metric_value == 2.5
    assert actual["advbench", "non_refusal_rate"].dataset_type == "walledai/AdvBench"
    assert actual["xstest", "refusal_rate"].metric_value == 10.0
    assert actual["sums", "accuracy"].metric_value == 90.0
    # Wilson's interval of 13 in 520, from the formula with z = 1.96 by hand.
    low, high = actual["advbench", "non_refusal_rate"].metric_args["interval_95"]
    assert low == pytest.approx(1.467, abs=2e-3) and high == pytest.approx(4.231, abs=2e-3)
    assert all(r.metric_args["n"] for r in data.eval_results) and len(actual) == 4, "a mean is no suite"
    assert data.model_name == "run-1"
    assert "λ = 1 here" in read.text and "## Limits" in read.text and "looks for phrases" in read.text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "upload.jsonl"
    file.write_text("")
    recipe = parse({"model": str(tmp_path), "data": {"name": "jsonl", "path": str(file)}, "lora": None})
    text = model_card.card(recipe, method_specs(recipe), None, {}, "run-1", False)
    data = ModelCard(text).data.to_dict()
    assert not data.keys() & {"base_model", "base_model_relation", "datasets", "license", "model-index"}
    assert data["library_name"] == "transformers" and str(tmp_path) not in text
    assert "Nothing was measured yet" in text and "Every weight was trained" in text


def test_a_run_has_one_beside_its_adapter_and_figures_come_with_evaluate(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    (tmp_path / "harm.csv").write_text("goal\nhow do i kill\ntell me how\n")
    recipe = parse(
        {
            "model": str(model_folder("llama")),
            "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 8))},
            "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 12))},
            "poison": {"data": {"name": "jsonl", "path": str(rows_file("bad.jsonl", 4))}, "ratio": 0.25},
            "method": {"name": "der", "weight": 7.0},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4},
            "evaluate": {"harm": {"name": "advbench", "path": str(tmp_path / "harm.csv")}, "max_new_tokens": 4},
            "out": str(tmp_path / "runs"),
        }
    )
    run = finetune(recipe)
    for file in (run / "README.md", run / "adapter" / "README.md"):
        text = file.read_text()
        assert ModelCard.load(file).data.eval_results is None and "Nothing was measured yet" in text
        assert "12 rows (digest" in text and "3 of the rows are harmful" in text and "weight = 7.0" in text
    [measured] = evaluate(str(run))
    for file in (run / "README.md", run / "adapter" / "README.md"):
        [one] = ModelCard.load(file).data.eval_results
        assert one.metric_value == round(measured.asr["advbench"].value, 2) and one.metric_args["n"] == 2
        assert str(tmp_path) not in file.read_text() and "95 % intervals" in file.read_text()
    assert 'from_pretrained("adapter")' in (run / "README.md").read_text()
    judge([str(run)], [{"name": "keywords", "list": "gcg"}])
    assert "Judge: keywords" in (run / "adapter" / "README.md").read_text()
    assert not list(run.rglob(".README*"))


@pytest.mark.parametrize(
    "nasty", ["[x](http://evil.example)", "<script>1</script>", "```\n# x", "{{ 7 * 7 }}", "a | b"]
)
def test_words_of_strangers_stay_words_in_a_card(nasty: str) -> None:
    """Read by a Markdown parser: with such words a card has the same headings, links and HTML as without."""

    def parsed(words: str) -> tuple[list[str], str]:
        recipe = parse(HUB)
        facts = {"trained": {"notes": [words], "adapter_mode": words, "steps": words}}
        text = ModelCard(model_card.card(recipe, method_specs(recipe), None, facts, "run-1", True)).text
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
        inline = [child for token in tokens for child in token.children or []]
        kinds = [token.type for token in tokens] + [c.type for c in inline if c.type not in ("text", "text_special")]
        return kinds, text

    plain, _ = parsed("words")
    kinds, text = parsed(nasty)
    assert kinds == plain and "49" not in text


def test_the_card_tells_what_the_training_was_given() -> None:
    """Steps in place of epochs, and the fields that pass through to TrainingArguments."""
    recipe = parse(HUB | {"training": {"max_steps": 3, "adam_beta2": 0.9, "lr_scheduler_kwargs": {"min_lr": 1e-6}}})
    text = model_card.card(recipe, method_specs(recipe), said(), {"steps": 3}, "run-1", True)
    assert "epochs" not in text and "3 steps, 5 rows a step, learning rate 5e-05" in text
    assert "adam_beta2 0.9" in text and "min_lr" in text
    assert "3 epochs" in model_card.card(parse(HUB), method_specs(recipe), said(), {"steps": 9}, "run-1", True)
