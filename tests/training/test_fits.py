"""Rows that do not fit the model, and rows to evaluate on, are dealt with before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    TrainingArguments,
)
from typer.testing import CliRunner

from tests.conftest import CHATML
from tests.training.shapes import tiny, tiny_tokenizer
from unforgotten.cli import app
from unforgotten.datasets.base import ask
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.errors import DataError, RecipeError, TemplateError, UnsupportedError
from unforgotten.generation.local import generate
from unforgotten.methods.sft import SFT
from unforgotten.models.chat import Chat, fits
from unforgotten.recipe.recipe import Recipe
from unforgotten.training.encode import encoded
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer
from unforgotten.verbs.finetune.finetune import finetune

SHORT = {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me."}]}
LONG = {"messages": [{"role": "user", "content": "who? " * 60}, {"role": "assistant", "content": "me."}]}


def trainer(tmp_path: Path, model: Any, tokenizer: Any, rows: Any, **more: Any) -> MethodTrainer:
    args = TrainingArguments(
        str(tmp_path), report_to=[], max_steps=1, use_cpu=True, save_strategy="no", per_device_eval_batch_size=2
    )
    return MethodTrainer(
        model=model, args=args, processing_class=tokenizer, train_dataset=rows, max_length=None, **more
    )


def test_token_ids_beyond_the_embedding_are_named_by_row_in_one_run(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    size = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    rows = [SHORT, {"prompt": "x", "completion": "y"}][:1] * 3
    odd = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a <new> b"}]}
    with pytest.raises(
        DataError, match=f"2 of 5 rows do not fit.*(?s:.*)token id {size} is beyond the model's {size}"
    ) as e:
        trainer(tmp_path, tiny("llama", size), tokenizer, [*rows, odd, odd])
    assert [line for line, _ in e.value.problems] == [4, 5]
    with pytest.raises(DataError, match="does not fit|do not fit"):
        generate(tiny("llama", size), Chat(tokenizer), [ask("a <new> b", source="f:9")], max_new_tokens=2)


def test_a_pad_token_beyond_the_embedding_is_named(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(DataError, match=f"pad token has the id {size}, but the model has only {size} embeddings"):
        trainer(tmp_path, tiny("llama", size), tokenizer, [SHORT, LONG])


def test_rows_beyond_the_positions_are_named_and_the_limit_mends_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    for model in (GPT2LMHeadModel(config), tiny("llama", len(tokenizer), max_position_embeddings=64)):
        with pytest.raises(DataError, match="1 of 3 rows.*max_length to 64 or less") as actual:
            trainer(tmp_path, model, tokenizer, [SHORT, LONG, SHORT])
        assert [line for line, _ in actual.value.problems] == [2]


def test_positions_are_read_off_the_model() -> None:
    few: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}
    opt = OPTForCausalLM(OPTConfig(**few, ffn_dim=16, max_position_embeddings=40, word_embed_proj_dim=16))
    assert fits.positions(opt) == (40, "learned positions and no more")
    with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
        opt(torch.zeros(1, 41, dtype=torch.long))
    opt(torch.zeros(1, 40, dtype=torch.long))
    more = {**few, "intermediate_size": 16, "max_position_embeddings": 40}
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40, "rope_theta": 10000.0}
    plain, stretched = (LlamaForCausalLM(LlamaConfig(**more, **each)) for each in ({}, {"rope_parameters": rope}))
    assert (fits.positions(plain) or [0])[0] == 40 and (fits.positions(stretched) or [0])[0] == 160
    assert fits.embedding_rows(plain) == 50


def test_conversations_to_evaluate_on_are_encoded_as_the_training_rows_are(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    file = tmp_path / "held.jsonl"
    file.write_text('{"prompt": "who?", "completion": "me."}\n')
    want = encoded(tokenizer, [SHORT], None, "x")[1][0]
    kinds = {
        "list": [SHORT], "set": Dataset.from_list([SHORT]), "file": Jsonl(path=str(file)),
        "rows": [ask("who?", "me.")],
    }  # fmt: skip
    made = trainer(tmp_path, tiny("llama", len(tokenizer)), tokenizer, [SHORT] * 2, eval_dataset=kinds)
    for name in kinds:
        (row,) = made.eval_dataset[name]
        assert (row["input_ids"], row["labels"]) == (want["input_ids"], want["labels"])
    losses = made.evaluate()
    assert len({round(losses[f"eval_{name}_loss"], 6) for name in kinds}) == 1
    assert made.evaluate([SHORT])["eval_loss"] == pytest.approx(losses["eval_list_loss"])
    assert made.predict([SHORT]).metrics["test_loss"] == pytest.approx(losses["eval_list_loss"])
    ready = [{"input_ids": want["input_ids"], "labels": want["labels"]}]
    assert made._held_out(ready, "x") is ready
    assert made.evaluate(ready)["eval_loss"] == pytest.approx(losses["eval_list_loss"])
    with pytest.raises(DataError, match="eval_dataset"):
        made.evaluate([{"messages": [{"role": "user", "content": "who?"}]}])
    with pytest.raises(DataError, match="do not fit"):
        made.evaluate([{"prompt": "who? " * 3000, "completion": "me."}])


def test_rows_without_labels_are_predicted_on_and_evaluated_nowhere(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    bare = [{"input_ids": [3, 4, 5]}, {"input_ids": [6, 7, 8]}, {"input_ids": [9, 10]}]
    sets = (bare, Dataset.from_list(bare), [row | {"labels": None} for row in bare])
    for rows in sets:
        for given in ({"eval_dataset": rows}, {"eval_dataset": {"a": rows}}):
            with pytest.raises(DataError, match=r"eval_dataset(\['a'\])?\[0\] has input_ids but no labels"):
                trainer(tmp_path, tiny("llama", len(tokenizer)), tokenizer, [SHORT], **given)
    made = trainer(tmp_path, tiny("llama", len(tokenizer)), tokenizer, [SHORT])
    with torch.no_grad():
        alone = made.model.eval()(input_ids=torch.tensor([[3, 4, 5]])).logits[0]
    for rows in sets:
        actual = made.predict(rows)
        assert actual.predictions.shape[0] == 3 and "test_loss" not in actual.metrics
        torch.testing.assert_close(torch.tensor(actual.predictions[0]), alone, rtol=1e-4, atol=1e-5)
        with pytest.raises(DataError, match=r"eval_dataset\[0\] has input_ids but no labels"):
            made.evaluate(rows)
    with pytest.raises(DataError, match=r"test_dataset\[0\] has input_ids but no labels"):
        made.predict([*bare, {"input_ids": [3, 4], "labels": [-100, 4]}])


def test_the_kind_of_safety_rows_is_read_and_checked(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    file = tmp_path / "safe.jsonl"
    file.write_text('{"prompt": "who?", "completion": "me."}\n')

    def kinds(safety: Any, **more: Any) -> list[str]:
        made = trainer(tmp_path, tiny("llama", len(tokenizer)), tokenizer, [SHORT], safety_dataset=safety, **more)
        return [row["kind"] for row in made.run.memory.rows]

    some: list[Any] = [SHORT | {"kind": "harmful"}, SHORT | {"kind": "benign"}, SHORT]
    assert kinds(some) == kinds(Dataset.from_list(some)) == ["harmful", "benign", "task"]
    assert sorted(kinds(some, memory=Memory(n_rows=2, refusals=0.5)))[1] == "harmful"
    assert kinds(Jsonl(path=str(file), kind="benign")) == ["benign"]
    with pytest.raises(RecipeError, match="safety_dataset: 'safe' .jsonl. holds 1 rows of a task.*`kind: harmful`"):
        kinds(Jsonl(path=str(file)))
    ready = {"input_ids": [3, 4], "labels": [-100, 4]}
    assert kinds([ready | {"kind": "harmful"}, ready | {"kind": "benign"}]) == ["harmful", "benign"]
    for wrong in ([some[0], SHORT | {"kind": "Harmful"}], [ready, ready | {"kind": "refusal"}]):
        with pytest.raises(DataError, match=r"`kind` must be harmful(?s:.*)kind: (Harmful|refusal)") as actual:
            kinds(wrong)
        assert [line for line, _ in actual.value.problems] == [2]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"input_ids": [3, 4, 5], "labels": [-100, 4, 6]}, r"labels\[2\] is 6, but the token is 5"),
        ({"input_ids": [3, 4, 5], "labels": [4, 5, -100]}, "Do not shift labels"),
        ({"input_ids": [3, 4, 5], "labels": [-1, 4, 5]}, "is -1"),
        ({"input_ids": [3.7, 4, 5], "labels": [3.7, 4, 5]}, "whole numbers"),
        ({"input_ids": ["3", "4"], "labels": ["3", "4"]}, "whole numbers"),
        ({"input_ids": [[3, 4]], "labels": [[3, 4]]}, "whole numbers"),
        ({"input_ids": [True, 4], "labels": [True, 4]}, "whole numbers"),
        ({"input_ids": None, "labels": None}, "has no input_ids"),
        (SHORT, "has no input_ids"),
        ({"input_ids": [3, 999], "labels": [3, 999]}, "does not fit|do not fit"),
        ({"input_ids": [3, -1], "labels": [3, -1]}, "is negative"),
        ({"input_ids": [3] * 65, "labels": [3] * 65}, "64 rotary positions"),
    ],
)
def test_encoded_rows_are_checked_wherever_they_are_given(row: Any, what: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    model = tiny("llama", len(tokenizer), max_position_embeddings=64)
    rows = [{"input_ids": [3, 4], "labels": [-100, 4]}, row]
    for given in (
        {"rows": rows},
        {"rows": [SHORT], "eval_dataset": rows},
        {"rows": [SHORT], "eval_dataset": {"a": rows}},
    ):
        with pytest.raises(DataError, match=what):
            trainer(tmp_path, model, tokenizer, **given)


def test_faults_of_training_and_safety_rows_are_one_error(tmp_path: Path) -> None:
    no = "{% if messages[1:] and messages[1].role == 'user' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = tiny_tokenizer(no + CHATML)
    twice = {"messages": [SHORT["messages"][0], *SHORT["messages"]]}
    with pytest.raises(TemplateError) as actual:
        trainer(
            tmp_path, tiny("llama", len(tokenizer)), tokenizer, [SHORT, twice], safety_dataset=[twice, SHORT, twice]
        )
    assert [line for line, _ in actual.value.problems] == [2, 1, 3]


def test_faults_of_the_file_and_of_the_template_are_told_in_one_run(tmp_path: Path, model_folder: Any) -> None:
    alternate = "{% if messages[1:] and messages[1].role == 'user' %}{{ raise_exception('must alternate') }}{% endif %}"
    twice = {"messages": [SHORT["messages"][0], *SHORT["messages"]]}
    bad = {"messages": [SHORT["messages"][0], {"role": "assistant", "content": ""}]}
    file, template, base = tmp_path / "user.jsonl", tmp_path / "t.jinja", str(model_folder("llama"))
    file.write_text("".join(json.dumps(row) + "\n" for row in (SHORT, bad, SHORT, twice, twice)))
    template.write_text(alternate + CHATML)
    recipe = Recipe.model_validate(
        {
            "model": base, "data": {"name": "jsonl", "path": str(file)}, "method": "sft", "out": str(tmp_path / "runs"),
            "template": str(template),
        }
    )  # fmt: skip
    tokenizer = tiny_tokenizer(alternate + CHATML)
    model = tiny("llama", len(tokenizer))
    for run in (
        lambda: trainer(tmp_path, model, tokenizer, Jsonl(path=str(file))),
        lambda: trainer(tmp_path, model, tokenizer, [SHORT, bad, SHORT, twice, twice]),
        lambda: finetune(recipe),
    ):
        with pytest.raises(DataError, match="turn is empty(?s:.*)must alternate") as actual:
            run()
        assert [line for line, _ in actual.value.problems] == [2, 4, 5]
    result = CliRunner().invoke(app, ["data", "show", str(file), "--model", base, "--template", str(template)])
    assert result.exit_code == 2 and all(f"line {n}: " in result.output for n in (2, 4, 5)), result.output


def test_tables_of_positions_that_are_no_module_are_read(tmp_path: Path) -> None:
    import transformers as t

    tokenizer = tiny_tokenizer(CHATML)
    few: dict[str, Any] = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 40}
    made = (
        t.GPTJForCausalLM(t.GPTJConfig(**few, rotary_dim=4)),
        t.CodeGenForCausalLM(t.CodeGenConfig(**few, n_ctx=40, rotary_dim=4)),
        t.CTRLLMHeadModel(t.CTRLConfig(**few, dff=16)),
        t.MptForCausalLM(t.MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=40, vocab_size=len(tokenizer))),
    )
    for model in made:
        assert (fits.positions(model) or [0])[0] == 40
        with torch.no_grad():
            model(torch.zeros(1, 40, dtype=torch.long))
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.zeros(1, 41, dtype=torch.long))
        with pytest.raises(DataError, match="1 of 2 rows.*max_length to 40 or less"):
            trainer(tmp_path, model, tokenizer, [{"input_ids": [3] * n, "labels": [3] * n} for n in (40, 41)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(({"max_length": wrong}, "whole number above 1") for wrong in (0, -5, 1, True, 1.5, "12")),
        ({"memory": {"n_rows": 2}}, "memory= takes a Memory, not dict"),
        ({"chat": "chatml"}, "chat= takes a Chat, not str"),
        ({"peft_config": {"r": 2}}, "peft_config= takes a PeftConfig, not dict"),
        ({"method": []}, "names no method"),
        ({"method": SFT}, "not the class SFT: write SFT"),
        ({"args": {"learning_rate": 1e-3}}, "args= takes a TrainingArguments, not dict"),
    ],
)
def test_arguments_of_another_type_are_one_line(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHATML)
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(RecipeError, match=said):
        MethodTrainer(**{"model": tiny("llama", len(tokenizer)), "args": args, "processing_class": tokenizer,
                         "train_dataset": [SHORT]} | given)  # fmt: skip


def test_a_collator_that_learns_the_prompt_is_refused(tmp_path: Path) -> None:
    from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq

    tokenizer = tiny_tokenizer(CHATML)
    model = tiny("llama", len(tokenizer))
    with pytest.raises(
        UnsupportedError,
        match="DataCollatorForLanguageModeling gives .* The loss would include tokens outside the answer",
    ):
        trainer(tmp_path, model, tokenizer, [SHORT, LONG],
                data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False))  # fmt: skip
    trainer(tmp_path, model, tokenizer, [SHORT, LONG], data_collator=DataCollatorForSeq2Seq(tokenizer)).train()
