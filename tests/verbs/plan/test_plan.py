"""A plan is right in what can be counted, near in what can be measured here, and needs neither weights nor network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.training.shapes import tiny
from unforgotten.cli import app
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.errors import RecipeError
from unforgotten.models.chat import encode_rows
from unforgotten.models.load import load_chat
from unforgotten.models.real.catalog import MODELS
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.verbs.plan import catalog, costs, inventory
from unforgotten.verbs.plan.plan import plan
from unforgotten.verbs.plan.result import Stage
from unforgotten.verbs.plan.text import lines

Make = Callable[..., Path]

OFFLINE = """
import socket, sys
def refuse(*given, **named): raise AssertionError("a plan asked the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from unforgotten.verbs.plan.plan import plan
from unforgotten.verbs.plan.text import lines
from unforgotten.recipe.read import load_recipe
for n in range(1, 7):
    found = plan(load_recipe(f"paper/table{n}"))
    assert len(lines(found)) > 20
    print(n, *found.count.values(), len(found.needed), int(found.seconds > 3600))
assert not {"torch", "transformers"} & set(sys.modules), "a plan loaded torch"
"""


def test_all_tables_are_planned_offline_and_without_torch(tmp_path: Path) -> None:
    """No network, an empty cache of the Hub, and no GPU asked for but by its driver's own tool."""
    own = {"PATH": "/nowhere", "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in said] == [
        ["1", "21", "1"],
        ["2", "21", "1"],
        ["3", "16", "1"],
        ["4", "12", "1"],
        ["5", "6", "1"],
        ["6", "8", "2"],
    ]
    assert all(line[4] == "1" for line in said)


def test_counts_follow_from_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "cached", lambda *asked: None)
    actual = plan(load_recipe("paper/table2"))
    stages = {stage.title: stage for stage in actual.stages}
    assert stages["align meta-llama/Llama-2-7b-hf"].rows == 10_000
    trained = [stage for stage in actual.stages if stage.steps]
    assert [stage.steps for stage in trained] == [6000] + [3000] * 14 + [6000] * 7  # 3 epochs in batches of 5
    assert stages["ask sft, on gsm8k"].rows == 520 + 400 + 300 + 500
    # θ₀ and θ_safe are asked what they were not yet asked: harm once, each task once.
    asked = [stage.rows for stage in actual.stages if stage.title.startswith("ask the base model")]
    assert asked == [520 + 400 + 300 + 500, 872, 164 + 164]
    needed = {one.name: one for one in actual.needed}
    guard = needed["meta-llama/Llama-Guard-3-8B"]
    assert guard.what == "judge" and guard.terms and guard.url == "https://huggingface.co/meta-llama/Llama-Guard-3-8B"
    gated = {"meta-llama/Llama-2-7b-hf", "allenai/wildguard", "allenai/wildjailbreak", "walledai/AdvBench"}
    assert gated | {"LLM-Tuning-Safety/HEx-PHI"} <= {name for name, one in needed.items() if one.terms}
    assert "PKU-Alignment/BeaverTails" in needed and "BAAI/TACO" in needed
    text = "\n".join(lines(actual))
    assert "Accept first: Meta's Llama 2 licence" in text and "sandbox" in text and "assumed" in text


def stage(actual: list[Stage], title: str) -> Any:
    return next(one for one in actual if one.title == title)


def test_a_method_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_gpu", lambda: "NVIDIA A100-SXM4-80GB")
    actual = plan(load_recipe("paper/table1"))
    sft, der, agem, magmax = (stage(actual.stages, f"{m}, on gsm8k") for m in ("sft", "der", "agem", "magmax"))
    assert der.seconds == agem.seconds == 2 * sft.seconds
    assert sft.memory < der.memory < agem.memory, "both have safety batches of their own; DER's makes no logits"
    assert magmax.disk > 1e10 > sft.disk, "its result is a whole model"
    assert actual.machine and "312 bf16 TFLOP/s (assumed)" in actual.machine.how
    # 4 × 6.6 billion weights × 2.57 million tokens over 0.35 × 312 TFLOP/s
    assert sft.seconds == pytest.approx(4 * 6.607e9 * sft.tokens / (0.35 * 312e12), rel=1e-3)


def test_measuring_held_out_rows_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps, every 4: 32 rows each at 0, 4 and 8, and twice all 40 at the end."""
    assert costs.measured_rows(10, 4, 40, 32) == 3 * 32 + 2 * 40
    assert costs.measured_rows(8, 4, 40, 32) == 2 * 32 + 2 * 40, "the last step's measurement is one of all rows"
    assert costs.measured_rows(600, None, 20, 32, steers=True) == 20 * 20 + 2 * 20, "a twentieth of the run is 30 steps"
    assert costs.measured_rows(600, None, 20, 32) == 20 + 2 * 20, "at step 0, and at the end"
    monkeypatch.setattr(inventory, "_gpu", lambda: "NVIDIA A100-SXM4-80GB")
    name = "sft, on gsm8k"
    recipe = load_recipe("paper/table1")
    memory = {"n_rows": 1000, "held_out": 0.2, "held_out_rows": 200}
    never, rarely, often = (
        stage(plan(recipe.varied(memory=how)).stages, name).seconds
        for how in ({"n_rows": 1000}, memory, memory | {"held_out_every_steps": 10})
    )
    # 3,000 steps: left out there is 1 measurement of 200 rows, 10 apart 300; and 2 of all 200.
    assert never < rarely < often and (often - never) / (rarely - never) == pytest.approx(302 / 3)
    safety = stage(plan(recipe.varied(memory=memory), "align").stages, "align meta-llama/Llama-2-7b-hf")
    a_row = safety.tokens / recipe.align.num_train_epochs / safety.rows
    # 6.607 billion weights without tables, and twice 32,000 × 4,096 of the head for less than every token
    least, most = (2 * 3 * 200 * a_row * (6.476e9 + twice) / (0.35 * 312e12) for twice in (0, 2 * 0.131e9))
    assert least < rarely - never < most


def test_parameters_are_those_of_the_models() -> None:
    totals = {  # of the tensors in each checkpoint, as the Hub counts them
        "meta-llama/Llama-2-7b-hf": 6_738_415_616,
        "mistralai/Mistral-7B-v0.3": 7_248_023_552,
        "google/gemma-2-2b": 2_614_341_888,
        "meta-llama/Llama-Guard-3-8B": 8_030_261_248,
        "smollm2": MODELS["smollm2"].parameters,
        "gemma3": MODELS["gemma3"].parameters - 18 * 2 * 256,  # norms of queries and keys are left out
    }
    assert {name: catalog.SHAPES[name].parameters for name in totals} == totals
    assert catalog.SHAPES["meta-llama/Llama-2-7b-hf"].adapter(8, ["q_proj", "v_proj"]) == 4_194_304


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_config_tells_the_shape(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    actual = inventory.shape(str(tmp_path))
    assert actual is not None and actual.parameters == model.num_parameters()
    assert costs.shape_of({"model_type": "mixtral", "num_local_experts": 8}) is None


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", None])
def test_activations_are_near_what_autograd_keeps(family: str, targets: Any) -> None:
    """Measured: the storages that the forward keeps for the backward, weights left out. Near: by a factor below 1.5."""
    import peft

    big = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}
    model = tiny(family, vocabulary=200, **big).train()
    shape = costs.shape_of(model.config.to_dict() | {"dtype": "float32"})
    assert shape is not None
    if targets is not None:
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=2, lora_dropout=0.1, target_modules=targets))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(3, 200, (4, 32))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids).loss
    layers, logits = costs.activation_bytes(shape, "float32", targets=targets)
    # Of the logits' share the gradients come later, and are not kept by the forward.
    said, measured = ids.numel() * (layers + logits / 2), sum(kept.values())
    assert loss.requires_grad and 1 / 1.5 < said / measured < 1.5


def test_the_chunked_loss_and_4_bits_take_what_they_leave() -> None:
    llama = catalog.SHAPES["meta-llama/Llama-2-7b-hf"]
    wide = replace(llama, vocabulary=128_256)
    given: dict[str, Any] = {"r": 8, "targets": ["q_proj", "v_proj"], "tokens": 2048, "gpu": True}
    whole = costs.training_bytes(wide, "bfloat16", loss="trainer", **given)
    chunked = costs.training_bytes(wide, "bfloat16", **given)
    # 2048 - 2^25 // 128,256 = 2048 - 261 tokens, each with 128,256 logits of 2 + 3 * 4 bytes
    assert whole - chunked == (2048 - 261) * 128_256 * 14
    narrow = replace(llama, vocabulary=31_999)
    same = [costs.training_bytes(narrow, "bfloat16", loss=loss, **given) for loss in ("auto", "trainer")]
    assert same[0] == same[1]
    assert costs.logits_alive(wide, 2048, "auto", trained=True, gpu=True) == 2048
    # A replay is gone when the user's rows come: what is alive is the larger of the two, and not their sum.
    few = costs.training_bytes(llama, "bfloat16", replayed=1024, **given)
    assert few == costs.training_bytes(llama, "bfloat16", **given)
    layers, _ = costs.activation_bytes(llama, "bfloat16", targets=["q_proj", "v_proj"])
    many = [costs.training_bytes(llama, "bfloat16", replayed=n, **given) for n in (8192, 10_240)]
    assert many[1] - many[0] == 2048 * layers
    # Of 6.74e9 parameters 6.48e9 are packed: 3.34 GB; 0.26e9 in fp32: 1.05 GB; one of 4096 x 11008 in bf16: 0.09 GB
    assert abs(costs.weight_bytes(llama, "bfloat16", "nf4") / 1e9 - 4.48) < 0.02


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_what_4_bits_weigh_is_near_what_is_held(family: str, model_folder: Make) -> None:
    pytest.importorskip("bitsandbytes")
    from unforgotten.models import load

    big = {"hidden_size": 256, "intermediate_size": 512}
    folder = model_folder(family, **big)
    held = load.load_model(str(folder), load_in="nf4")
    shape = inventory.shape(str(folder))
    assert shape is not None
    scales = [
        b for p in held.parameters() if (q := getattr(p, "quant_state", None)) for b in (q.absmax, q.state2.absmax)
    ]
    said = sum(t.untyped_storage().nbytes() for t in [*held.parameters(), *scales])
    unpacked = max(a * b for a, b in shape.modules.values()) * 4
    assert abs((costs.weight_bytes(shape, "float32", "nf4") - unpacked) / said - 1) < 0.02


def test_rows_that_are_here_are_counted(model_folder: Make, rows_file: Make) -> None:
    recipe = parse(
        {
            "model": str(model_folder("llama")),
            "align": {"num_train_epochs": 1},
            "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 12))},
            "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 11))},
            "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "lora": None,
        }
    )
    actual = plan(recipe, "finetune")
    assert actual.count == {"runs": 1, "alignments": 1} and not actual.needed
    align, run = actual.stages
    assert (align.rows, align.steps, run.rows, run.steps) == (
        12,
        3,
        11,
        4,
    )  # 3 batches are 2 steps of 2, the second one short
    assert all("tokens by the model's tokenizer and template" in one.how for one in actual.sets)
    chat = load_chat(recipe.model)
    trained = encode_rows(chat, Jsonl(path=str(rows_file("user.jsonl", 11))).rows())[0]
    assert run.tokens == pytest.approx(2 * sum(len(one["input_ids"]) for one in trained)), (
        "two epochs of what is trained"
    )
    assert actual.machine and "CPU" in actual.machine.name
    [only] = plan(recipe, "align").stages
    assert only == align
    with pytest.raises(RecipeError, match="no `evaluate:`"):
        plan(recipe)
    with pytest.raises(RecipeError, match="no `data:`"):
        plan(recipe.varied(data=None), "finetune")


def test_what_nothing_here_tells_is_said() -> None:
    given = {"model": "owner/unknown", "data": {"name": "refusals", "path": "owner/set"}}
    with pytest.raises(RecipeError, match="does not know how many rows 'refusals'"):
        plan(parse(given), "finetune")
    given["data"] = {"name": "refusals", "path": "owner/set", "n_rows": 100}
    actual = plan(parse(given), "finetune")
    assert actual.stages[0].steps == 60 and actual.stages[0].seconds is None
    assert "owner/unknown: its config.json is not on this machine" in "\n".join(lines(actual))


def test_recipes_are_listed() -> None:
    done = CliRunner().invoke(app, ["list", "recipes"])
    assert done.exit_code == 0 and "paper/table6" in done.output and "world-sweep" in done.output


@pytest.mark.parametrize("verb", ["align", "finetune", "compare"])
def test_a_dry_run_prints_and_does_nothing(verb: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [verb, "demo", "--dry-run", "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert ("6 runs" in done.output) == (verb == "compare") and "align world" in done.output
    assert not (tmp_path / "runs").exists()
