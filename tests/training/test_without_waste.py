"""What a step leaves out changes nothing: no logits where hidden states do, no second forward, no wait for a device."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.training.shapes import SHAPES, tiny
from tests.training.test_trainer import arguments
from unforgotten import testing
from unforgotten.models.weights.base import ByRows
from unforgotten.models.weights.files import Files
from unforgotten.models.weights.stream import stream
from unforgotten.training import likelihood, replay_memory
from unforgotten.training.collate import Collator, predicts
from unforgotten.training.head import Head, last_hidden
from unforgotten.training.run_memory import RunMemory
from unforgotten.training.trainer import MethodTrainer

N, D, V = 37, 16, 50
ROWS = [{**row, "row_id": i} for i, row in enumerate(testing.ragged_rows(6, 4))]


def head(cap: float | None, seed: int, scale: float = 1.0, biased: bool = False, exact: bool = False) -> Head:
    torch.manual_seed(seed)
    linear = torch.nn.Linear(D, V, bias=biased, dtype=torch.float64 if exact else None).requires_grad_(False)
    return Head(linear, scale, cap, False, linear.weight.detach(), linear.bias.detach() if biased else None)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_by_formula_are_those_of_autograd(seed: int, chunk: int, cap: float | None) -> None:
    """Against autograd through whole logits in float64."""
    scale, biased = [(1.0, False), (0.3, True), (2.0, False)][seed]
    exact, single = head(cap, seed, scale, biased, exact=True), head(cap, seed, scale, biased)
    single.module.weight.copy_(exact.weight.float())
    if biased:
        single.module.bias.copy_(exact.module.bias.float())
    h, kept = 3 * torch.randn(N, D, dtype=torch.float64), 3 * torch.randn(N, D, dtype=torch.float64)
    tokens = torch.randint(V, (N,))
    leaf = h.clone().requires_grad_()
    z, fixed = exact.logits(leaf), exact.aligned_logits(kept)
    expected = {"nll": cross_entropy(z, tokens, reduction="sum"), "distance": (z - fixed).square().sum()}
    for f, within in ((exact, 1e-10), (single, 1e-5)):
        mine = h.to(f.weight.dtype).requires_grad_()
        actual = {"nll": f.nll(mine, tokens, chunk), "distance": f.distance(mine, kept.to(f.weight.dtype), chunk)}
        for name, loss in expected.items():
            (slope,) = torch.autograd.grad(
                loss / 7, leaf, retain_graph=True
            )  # as a trainer divides by the step's count
            for _ in range(2):  # the same graph can be gone back through twice
                (ours,) = torch.autograd.grad(actual[name] / 7, mine, retain_graph=True)
                assert float((ours - slope).norm() / slope.norm()) < within, name
            assert float((actual[name] - loss).abs() / loss) < within, name


@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_head_that_is_trained_goes_through_its_logits(cap: float | None) -> None:
    f = head(cap, 4, exact=True)
    live = Head(f.module.requires_grad_(), 1.0, cap, True, f.weight, None)
    assert f.closed and not live.closed
    h, tokens = torch.randn(N, D, dtype=torch.float64, requires_grad=True), torch.randint(V, (N,))
    actual = torch.autograd.grad(live.nll(h, tokens, 8), (h, f.module.weight))
    expected = torch.autograd.grad(cross_entropy(live.logits(h), tokens, reduction="sum"), (h, f.module.weight))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_forward_without_logits_gives_the_hidden_states_of_one_with_all(shape: str) -> None:
    model = tiny(shape)
    rows = replay_memory.as_batch(ROWS, [0, 2, 5], Collator(0), "cpu")
    asked: list[Any] = []
    model.lm_head.register_forward_hook(lambda _, given, out: asked.append(given[0].shape))

    states = []
    for find in (
        lambda: last_hidden(model, rows.inputs, model),
        lambda: model(**rows.inputs, output_hidden_states=True, use_cache=False).hidden_states[-1],
    ):
        model.zero_grad()
        h = find()
        h.square().sum().backward()
        states.append((h.detach(), model.model.embed_tokens.weight.grad.clone()))
    assert asked[0][1] == 0 and asked[1][1] == rows.labels.shape[1]
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])


def test_places_found_on_the_host_are_those_of_the_mask() -> None:
    rows = replay_memory.as_batch(ROWS, [3, 0, 1], Collator(0), "cpu")
    assert rows.at is not None
    hidden = torch.randn(*rows.labels.shape, D)
    assert torch.equal(rows.select(hidden), hidden[predicts(rows.labels)])
    assert torch.equal(likelihood.targets(rows.labels, rows.at), likelihood.targets(rows.labels))
    assert list(rows.counts) == predicts(rows.labels).sum(1).tolist()
    empty = replay_memory.as_batch(ROWS, [], Collator(0), "cpu")
    assert empty.at is not None and len(empty.at) == 0 and empty.counts == (0,)


def test_a_replay_waits_for_no_device() -> None:
    """Tensors on `meta` have no values: whatever the host would read back from the device raises."""
    rows = replay_memory.as_batch(ROWS, [3, 0, 1], Collator(0), "meta")
    n = sum(rows.counts)
    run: Any = type("", (), {"_states": [torch.empty(k, D, device="meta") for k in _counts()]})()
    hidden = torch.empty(*rows.labels.shape, D, device="meta", requires_grad=True)
    h = rows.select(hidden)
    kept = RunMemory.stored_states(run, rows)
    assert h.shape == kept.shape == (n, D)
    weight = torch.empty(V, D, device="meta")
    for cap in (None, 3.0):
        f = Head(None, 1.0, cap, False, weight, None)
        nll = f.nll(h, likelihood.targets(rows.labels, rows.at), 8)
        ((h - kept).square().sum() + nll + f.distance(h, kept, 8)).backward(retain_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        hidden[rows.predicts]  # what a mask asks


def _counts() -> list[int]:
    return [int(predicts(torch.tensor([row["labels"]])).sum()) for row in ROWS]


@pytest.mark.parametrize("shape", [(7,), (1500, 1031), (3, 5, 7)])
def test_an_edit_written_by_rows_is_the_edit_of_the_whole(shape: tuple[int, ...], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from unforgotten.methods.magmax import larger_change
    from unforgotten.verbs.repair.repair import repair

    torch.manual_seed(1)
    tensors = {role: torch.randn(shape).to(torch.bfloat16) for role in ("unaligned_model", "aligned", "tuned")}
    for role, tensor in tensors.items():
        (tmp_path / role).mkdir()
        save_file({"w": tensor}, tmp_path / role / "model.safetensors")
        (tmp_path / role / "config.json").write_text(json.dumps({}))
    repair("magmax", **{role: str(tmp_path / role) for role in tensors}, out=str(tmp_path / "out"))
    whole = larger_change(tensors["unaligned_model"], tensors["aligned"], tensors["tuned"], 1.0)
    assert torch.equal(Files(tmp_path / "out")["w"], whole.to(torch.bfloat16))


def test_an_edit_by_rows_of_another_shape_is_refused(tmp_path: Path) -> None:
    from unforgotten.models.weights.base import Held

    def none() -> Any:
        return iter([torch.zeros(2, 3)])

    with pytest.raises(ValueError, match="edited to"):
        stream(Held({"w": torch.zeros(4, 3)}), [("w", ByRows((2, 3), none))], tmp_path)


def test_the_norm_of_a_large_change_is_right() -> None:
    from unforgotten.methods.base.projection import reference

    torch.manual_seed(2)
    v = torch.randn(4096, 2048)
    b: Tensor = torch.randn(4096, 2)
    exact = reference(v.double(), None)(b.double())
    assert float((reference(v, None)(b) - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("adapter_mode", ["full", "merge"])
@pytest.mark.parametrize(("method", "apart"), [("der", True), ("derpp", True), (["der", "lwf"], True), ("lwf", False)])
def test_a_replay_is_freed_before_the_users_rows_come(
    method: Any, apart: bool, adapter_mode: testing.AdapterMode, tmp_path: Path
) -> None:
    """Weak references to what a layer made of the replayed rows, looked at when it makes something of the user's."""
    model = testing.tiny_model(adapter_mode)
    seen: list[tuple[bool, int]] = []
    before: list[weakref.ref[Tensor]] = []
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.1.mlp.down_proj"))

    def watch(_: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
        if out.requires_grad:
            seen.append((trainer._apart, sum(one() is not None for one in before)))
            before.append(weakref.ref(given[0]))

    layer.register_forward_hook(watch)
    trainer = MethodTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=testing.ragged_rows(8, 1),
        safety_dataset=testing.ragged_rows(6, 2),
        method=method,
    )
    trainer.train()
    users = [alive for is_users, alive in seen if is_users]
    assert len(users) == 2 * trainer.args.gradient_accumulation_steps
    assert len(seen) - len(users) >= (len(users) if apart else 0)
    assert set(users) == {0}  # what the replay kept for its backward is gone
