"""Stage align: θ₀ answers harmless rows itself; refusals, empty answers and cut ends never enter the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unforgotten.datasets.base import Row, ask
from unforgotten.errors import RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets, safety_rows
from unforgotten.recipe.read import parse
from unforgotten.verbs import own_answers
from unforgotten.verbs.align import align

Make = Callable[..., Path]


def tree(tmp_path: Path, model: Path, harmful: Path, harmless: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "align": {"num_train_epochs": 1, "answer_tokens": 6, "lora": {"r": 2}},
        "safety_data": [
            {"name": "refusals", "path": str(harmful)},
            {"name": "refusals", "path": str(harmless), "kind": "benign"},
        ],
        "out": str(tmp_path / "runs"),
        **changes,
    }


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two! And th", "One. Two!"),
        ('He said "go." Then', 'He said "go."'),
        ("Version 1.5 is", ""),
        ("No end at all", ""),
        ("质问。然后", "质问。"),
    ],
)
def test_a_cut_answer_ends_at_its_last_whole_sentence(text: str, whole: str) -> None:
    assert own_answers.whole_sentences(text) == whole


def test_what_becomes_of_each_answer_is_counted() -> None:
    rows = [ask("a", "given", kind="benign"), *(ask(p, kind="benign") for p in "bcdefg")]
    texts: list[tuple[str, Any]] = [
        ("Whole answer.", "stop"),
        ("I'm sorry, but I cannot help.", "stop"),
        ("  ", "stop"),
        ("First. Second with", "length"),
        ("never ends", "length"),
        ("Fine", "stop"),
    ]
    replies = [Reply(row, text, finish) for row, (text, finish) in zip(rows[1:], texts, strict=True)]
    filled = own_answers._filled(rows, replies)
    answers = [(r.messages[0]["content"], r.messages[-1]["content"]) for r in filled.rows]
    assert answers == [("a", "given"), ("b", "Whole answer."), ("e", "First."), ("g", "Fine")]
    assert filled.counts() == {"asked": 6, "shortened": 1, "refused": 1, "empty": 2}


def test_align_trains_on_the_greedy_answers_of_the_model_itself(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    from transformers import AutoModelForCausalLM

    from unforgotten.models import load

    model = model_folder("llama")
    harmless = rows_file("looks.jsonl", 5, answered=False)
    said: list[str] = []
    recipe = parse(tree(tmp_path, model, rows_file("refusals.jsonl", 6), harmless))
    chat = load.load_chat(str(model))
    theta0 = AutoModelForCausalLM.from_pretrained(model).eval()
    expected = []
    for line in harmless.read_text().splitlines():
        row = Row(tuple(json.loads(line)["messages"]))
        ids = torch.tensor([chat.prompt(row)])
        out = theta0.generate(
            ids, max_new_tokens=6, do_sample=False, eos_token_id=list(chat.end_ids), pad_token_id=chat.pad_id
        )[0, ids.shape[1] :].tolist()
        ended = bool(out) and out[-1] in chat.end_ids
        text = chat.decode(out[:-1] if ended else out)
        expected.append(text.strip() if ended else own_answers.whole_sentences(text))
    usable = sum(bool(text) for text in expected)
    if usable < len(expected) / 2:
        with pytest.raises(RecipeError, match=f"usable answer to {usable} of 5 harmless prompts"):
            align(recipe, said.append)
        assert not any((tmp_path / "runs" / "aligned").glob("[0-9a-f]*"))
    else:
        where = align(recipe, said.append)
        record = json.loads(where.record.read_text())["own_answers"]
        assert record["asked"] == 5 and record["empty"] == 5 - usable
    assert any("answers 5 harmless prompts itself" in line for line in said)


def test_given_answers_are_used_as_they_are(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    said: list[str] = []
    recipe = parse(tree(tmp_path, model_folder("llama"), rows_file("r.jsonl", 6), rows_file("looks.jsonl", 4)))
    where = align(recipe, said.append)
    assert json.loads(where.record.read_text())["own_answers"]["asked"] == 0
    assert not any("itself" in line for line in said)


def test_a_harmful_prompt_without_refusal_is_refused(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    bare = rows_file("bare.jsonl", 6, answered=False)
    recipe = parse(tree(tmp_path, model_folder("llama"), bare, rows_file("looks.jsonl", 4)))
    with pytest.raises(RecipeError, match="6 harmful safety rows have no answer.*give these rows refusals"):
        align(recipe)


def test_the_default_length_leaves_earlier_digests_as_they_were() -> None:
    from unforgotten.recipe.training import Align, Training

    assert set(Align().determining()) == set(Training().determining()) | {"lora"}
    assert Align(answer_tokens=32).determining()["answer_tokens"] == 32


def test_runs_of_several_seeds_share_one_aligned_model_where_the_alignment_has_its_own_seed(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    model, harmful, harmless = model_folder("llama"), rows_file("refusals.jsonl", 9), rows_file("looks.jsonl", 5)

    def asked(seed: int, own: int | None) -> tuple[str, list[Row], int]:
        recipe = parse(tree(tmp_path, model, harmful, harmless, seed=seed, rows=4))
        assert recipe.align is not None
        recipe = recipe.varied(align={**recipe.align.model_dump(exclude_unset=True), "seed": own})
        sets = DataSets()
        return aligned_of(recipe, sets).digest, safety_rows(recipe, sets).rows, recipe.safety_seed

    shared = [asked(seed, 0) for seed in (0, 1, 2)]
    assert shared[0] == shared[1] == shared[2]
    assert shared[0] == asked(0, None)  # the recipe's own seed, where none is given
    alone = [asked(seed, None) for seed in (0, 1, 2)]
    assert len({digest for digest, _, _ in alone}) == 3 and [seed for _, _, seed in alone] == [0, 1, 2]
    assert asked(0, 2) == alone[2]


def test_the_alignment_trains_with_its_own_seed(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    files = rows_file("refusals.jsonl", 9), rows_file("looks.jsonl", 5)

    def weights(out: str, seed: int, own: int | None) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        settings = tree(tmp_path, model_folder("llama"), *files, seed=seed, out=str(tmp_path / out))
        settings["align"]["seed"] = own
        return load_file(Path(align(parse(settings)).adapter or "") / "adapter_model.safetensors")

    plain, shared, other = weights("a", 0, None), weights("b", 5, 0), weights("c", 5, None)
    assert plain.keys() == shared.keys() == other.keys()
    assert all(torch.equal(plain[name], shared[name]) for name in plain)
    assert any(not torch.equal(plain[name], other[name]) for name in plain)
