"""The batched Fisher against one backward a row, and against each row by itself, on ragged rows in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainingArguments

from tests.methods.plainly import row_nll
from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.training.collate import Collator
from unforgotten.training.fisher import linear_owners, squares_of_linears, squares_row_by_row
from unforgotten.training.likelihood import token_logp
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

ROWS = testing.ragged_rows(5, 2)


def test_one_layer_by_hand() -> None:
    """y = Wx. Row one: g x = 1·(1, 2) + 3·(0, 1) over its two tokens, (1, 5); row two: 2·(1, 1). Squares: 5, 29."""
    layer = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[1.0, 1.0], [9.0, 9.0]]])  # (B, T, in)
    g = torch.tensor([[[1.0], [3.0]], [[2.0], [0.0]]])  # the last token of row two is padding
    actual = squares_of_linears({"w": layer}, [lambda: (layer(x) * g).sum()])
    assert actual is not None and actual["w"].tolist() == [[5.0, 29.0]]


def layers_of(model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}


def likelihoods(model: Any, size: int) -> Iterator[Callable[[], Tensor]]:
    def likelihood(at: int) -> Tensor:
        batch = Collator(0)(ROWS[at : at + size])
        labels = batch.pop("labels")
        return token_logp(model(**batch).logits, labels).sum()

    for at in range(0, len(ROWS), size):
        yield functools.partial(likelihood, at)


def exhaustive(model: Any, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Σ over rows of the squared gradient of each row alone, without padding or batches."""
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for row in ROWS:
        for n, g in zip(params, torch.autograd.grad(row_nll(model, row), list(params.values())), strict=True):
            total[n] += g**2
    return total


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_batch_at_a_time_is_a_row_at_a_time(size: int) -> None:
    model = tiny("llama", dtype=torch.float64)
    layers = layers_of(model)
    params = {n: layer.weight for n, layer in layers.items()}
    actual = squares_of_linears(layers, likelihoods(model, size))
    by_row = squares_row_by_row(params, likelihoods(model, 1))
    wanted = exhaustive(model, params)
    assert actual is not None and set(actual) == set(by_row) == set(wanted) and len(wanted) == 14
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(by_row[name], wanted[name], rtol=1e-9, atol=1e-15)


def test_row_by_row_takes_parameters_of_any_kind() -> None:
    model = tiny("qwen2", dtype=torch.float64)  # with biases, norms and a tied embedding
    params = dict(model.named_parameters())
    params["unused"] = nn.Parameter(torch.ones(2))
    actual = squares_row_by_row(params, likelihoods(model, 1))
    assert not actual.pop("unused").any()
    params.pop("unused")
    for name, wanted in exhaustive(model, params).items():
        torch.testing.assert_close(actual[name], wanted, rtol=1e-9, atol=1e-15)


def test_a_frozen_weight_is_squared_as_well() -> None:
    """What is trained lies below; the weight itself needs no gradient, and gets none."""
    torch.manual_seed(0)
    below, layer = nn.Linear(3, 4, bias=False).double(), nn.Linear(4, 2, bias=False).double().requires_grad_(False)
    x = torch.randn(2, 5, 3, dtype=torch.float64)

    def likelihood(rows: slice = slice(None)) -> Tensor:
        return layer(below(x[rows])).pow(3).sum()

    actual = squares_of_linears({"layer": layer, "below": below}, [likelihood])
    layer.requires_grad_(True)
    wanted = torch.zeros_like(layer.weight)
    for row in range(2):
        wanted += torch.autograd.grad(likelihood(slice(row, row + 1)), layer.weight)[0] ** 2
    assert actual is not None
    torch.testing.assert_close(actual["layer"], wanted)
    assert layer.weight.grad is None and below.weight.grad is None


def test_a_layer_that_runs_twice_is_not_guessed_at() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 4, 3)
    assert squares_of_linears({"w": layer}, [lambda: layer(layer(x)).sum()]) is None
    assert squares_of_linears({"w": layer}, [lambda: layer(x).sum(), lambda: layer(x).sum()]) is not None
    assert not layer._forward_hooks  # and nothing is left on the layer


def test_squares_of_narrow_gradients_are_summed_in_float32() -> None:
    layer = nn.Linear(2, 1, bias=False).bfloat16()
    x = torch.tensor([[[1e-3, 1.0]]], dtype=torch.bfloat16)
    actual = squares_of_linears({"w": layer}, [lambda: layer(x).sum()] * 300)
    assert actual is not None and actual["w"].dtype == torch.float32
    assert actual["w"][0, 1].item() == 300.0  # bfloat16 has 256 and 258 only
    by_row = squares_row_by_row({"w": layer.weight}, [lambda: layer(x).sum()] * 300)
    torch.testing.assert_close(by_row["w"], actual["w"])


def test_each_weight_of_a_linear_layer_is_told_its_layer() -> None:
    model = tiny("llama")
    params = {f"{n}.weight": layer.weight for n, layer in layers_of(model).items()}
    assert linear_owners(model, params) == {f"{n}.weight": layer for n, layer in layers_of(model).items()}
    adapted = testing.tiny_model("merge")
    factors = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    owners = linear_owners(adapted, factors)
    assert owners is not None and all(owners[n].weight is p for n, p in factors.items())


@pytest.mark.parametrize(
    ("shape", "odd"),
    [
        ("llama", "model.norm.weight"),
        ("llama", "model.embed_tokens.weight"),
        ("gemma2", "model.embed_tokens.weight"),  # which is the head too
        ("qwen2", "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_one_parameter_that_is_no_linear_layers_own_weight_is_enough(shape: str, odd: str) -> None:
    model = tiny(shape)
    names = ["model.layers.0.mlp.up_proj.weight", odd]
    assert linear_owners(model, {n: p for n, p in model.named_parameters() if n in names}) is None
    assert linear_owners(model, {n: p for n, p in model.named_parameters() if n in names[:1]}) is not None


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["q_proj", "lm_head"], ["embed_tokens", "v_proj"]])
def test_a_runs_fisher_is_the_mean_over_its_memory_whatever_is_trained(targets: list[str], tmp_path: Path) -> None:
    """A head is run twice in a forward, an embedding is no linear layer: then it goes row by row."""
    torch.manual_seed(3)
    model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=targets)).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name and not p.any():
                p.normal_(std=0.1)
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, max_steps=1, learning_rate=0.0, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = MethodTrainer(
        model=model, args=args, train_dataset=testing.ragged_rows(2, 1), safety_dataset=ROWS,
        memory=Memory(n_rows=len(ROWS)), method={"name": "ewc", "space": "adapter"},
    )  # fmt: skip
    trainer.train()
    trainer.model.eval()
    actual = trainer.methods["ewc"]._fisher
    wanted = exhaustive(trainer.model, trainer.run.weights.params())
    assert set(actual) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name] / len(ROWS), rtol=1e-9, atol=1e-15)


class Experts(nn.Module):
    """Tokens in one flat list, each to one of three experts, of which the third gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 3)
        chosen = (flat[:, 0] > 0).long()
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            at = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, at, expert(flat[at]))
        return out.view_as(x)


def test_tokens_sorted_by_expert_are_counted_row_by_row() -> None:
    torch.manual_seed(0)
    model, x = Experts().double(), torch.randn(4, 5, 3, dtype=torch.float64)
    layers = {str(i): layer for i, layer in enumerate(model.experts)}

    def likelihood(at: slice) -> Tensor:
        return model(x[at]).pow(3).sum()

    def shape_of(batch: Any) -> tuple[int, int]:
        rows = x[batch.args[0]].shape
        return rows[0], rows[1]

    assert squares_of_linears(layers, [functools.partial(likelihood, slice(0, 4))], shape_of) is None
    rows = [functools.partial(likelihood, slice(i, i + 1)) for i in range(4)]
    actual = squares_of_linears(layers, rows, shape_of)
    assert actual is not None
    for name in "01":
        wanted = sum(torch.autograd.grad(row(), model.experts[int(name)].weight)[0] ** 2 for row in rows)
        torch.testing.assert_close(actual[name], wanted, rtol=1e-9, atol=1e-12)
    assert "2" not in actual or not actual["2"].any()


def test_a_flat_list_of_tokens_is_no_row_even_where_its_length_would_do() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 4, 3)
    flat = functools.partial(lambda: layer(x.reshape(-1, 3)).pow(2).sum())
    turned = functools.partial(lambda: layer(x.transpose(0, 1)).pow(2).sum())
    for batch in (flat, turned):
        assert squares_of_linears({"w": layer}, [batch], lambda _: (2, 4)) is None


def test_a_weight_that_is_used_outside_its_layer_is_not_taken_for_unreached() -> None:
    layer, x = nn.Linear(3, 3, bias=False), torch.randn(1, 4, 3)
    assert squares_of_linears({"w": layer}, [lambda: (x @ layer.weight.T).sum()], lambda _: (1, 4)) is None
