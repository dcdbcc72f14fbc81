"""What a step leaves out changes nothing: no logits where hidden states do, no second forward, no wait for a device."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.training.shapes import SHAPES, tiny
from unforgotten import testing
from unforgotten.methods.base import with_gradient
from unforgotten.methods.der import logit_distance
from unforgotten.training import likelihood, memory
from unforgotten.training.collate import Collator, predicts
from unforgotten.training.head import Head
from unforgotten.training.run import Run
from unforgotten.weights.base import ByRows
from unforgotten.weights.files import Files
from unforgotten.weights.write import stream

N, D, V = 37, 16, 50
ROWS = [{**row, "row_id": i} for i, row in enumerate(testing.ragged_rows(6, 4))]


def head(cap: float | None, seed: int) -> Head:
    torch.manual_seed(seed)
    linear = torch.nn.Linear(D, V, bias=False).requires_grad_(False)
    return Head(linear, 1.0, cap, False, linear.weight.detach(), None)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_taken_at_once_are_those_made_again(seed: int, chunk: int, cap: float | None) -> None:
    f = head(cap, seed)
    h, kept = torch.randn(N, D), torch.randn(N, D)
    tokens = torch.randint(V, (N,))
    for distance in (
        functools.partial(logit_distance, kept=kept, logits=f.logits, target=f.aligned_logits, chunk_tokens=chunk),
        functools.partial(likelihood.nll, tokens=tokens, logits=f.logits, chunk_tokens=chunk),
    ):
        found = []
        for frozen in (False, True):
            leaf = h.clone().requires_grad_()
            loss = distance(leaf, frozen=frozen)
            (loss / 7).backward()  # as a trainer divides by the step's count
            assert leaf.grad is not None
            found.append((loss.detach(), leaf.grad))
        (loss, grad), (fast, slope) = found
        torch.testing.assert_close(fast, loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slope, grad, rtol=1e-5, atol=1e-6)


def test_a_gradient_taken_at_once_survives_a_second_backward_over_the_same_graph() -> None:
    h = torch.randn(N, D, requires_grad=True)
    loss = with_gradient(lambda x: x.pow(3).sum(), h * 2)
    first = torch.autograd.grad(loss, h, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, h)[0], first)
    torch.testing.assert_close(first, 24 * h.detach().square())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_forward_without_logits_gives_the_hidden_states_of_one_with_all(shape: str) -> None:
    model = tiny(shape)
    rows = memory.replay(ROWS, [0, 2, 5], Collator(0), "cpu")
    asked: list[Any] = []
    model.lm_head.register_forward_hook(lambda _, given, out: asked.append(given[0].shape))

    class Bare:
        """What `_hidden` needs of a run."""

        _keeps_logits = Run._keeps_logits
        _trainer = type("", (), {"accelerator": type("", (), {"unwrap_model": staticmethod(lambda m: m)})})

    states = []
    for find in (
        lambda: Run._hidden(Bare(), model, rows),  # type: ignore[arg-type]
        lambda: model(**rows.inputs, output_hidden_states=True, use_cache=False).hidden_states[-1],
    ):
        model.zero_grad()
        h = find()
        h.square().sum().backward()
        states.append((h.detach(), model.model.embed_tokens.weight.grad.clone()))
    assert asked[0][1] == 0 and asked[1][1] == rows.labels.shape[1]
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])


def test_places_found_on_the_host_are_those_of_the_mask() -> None:
    rows = memory.replay(ROWS, [3, 0, 1], Collator(0), "cpu")
    assert rows.at is not None
    hidden = torch.randn(*rows.labels.shape, D)
    assert torch.equal(Run.predicting(None, hidden, rows), hidden[predicts(rows.labels)])  # type: ignore[arg-type]
    assert torch.equal(likelihood.targets(rows.labels, rows.at), likelihood.targets(rows.labels))
    assert list(rows.counts) == predicts(rows.labels).sum(1).tolist()
    empty = memory.replay(ROWS, [], Collator(0), "cpu")
    assert empty.at is not None and len(empty.at) == 0 and empty.counts == (0,)


def test_a_replay_waits_for_no_device() -> None:
    """Tensors on `meta` have no values: whatever the host would read back from the device raises."""
    rows = memory.replay(ROWS, [3, 0, 1], Collator(0), "meta")
    n = sum(rows.counts)
    run: Any = type("", (), {"_states": [torch.empty(k, D, device="meta") for k in _counts()]})()
    hidden = torch.empty(*rows.labels.shape, D, device="meta", requires_grad=True)
    h = Run.predicting(run, hidden, rows)
    kept = Run.states(run, rows)
    assert h.shape == kept.shape == (n, D)
    weight = torch.empty(V, D, device="meta")
    nll = likelihood.nll(h, likelihood.targets(rows.labels, rows.at), lambda x: x @ weight.T, 8, True)
    ((h - kept).square().sum() + nll).backward()
    with pytest.raises((NotImplementedError, RuntimeError)):
        hidden[rows.predicts]  # what a mask asks


def _counts() -> list[int]:
    return [int(predicts(torch.tensor([row["labels"]])).sum()) for row in ROWS]


@pytest.mark.parametrize("shape", [(7,), (1500, 1031), (3, 5, 7)])
def test_an_edit_written_by_rows_is_the_edit_of_the_whole(shape: tuple[int, ...], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from unforgotten.methods.magmax import larger_change
    from unforgotten.repair import repair

    torch.manual_seed(1)
    tensors = {role: torch.randn(shape).to(torch.bfloat16) for role in ("base", "aligned", "tuned")}
    for role, tensor in tensors.items():
        (tmp_path / role).mkdir()
        save_file({"w": tensor}, tmp_path / role / "model.safetensors")
        (tmp_path / role / "config.json").write_text(json.dumps({}))
    repair("magmax", **{role: str(tmp_path / role) for role in tensors}, out=str(tmp_path / "out"))
    whole = larger_change(tensors["base"], tensors["aligned"], tensors["tuned"], 1.0)
    assert torch.equal(Files(tmp_path / "out")["w"], whole.to(torch.bfloat16))


def test_an_edit_by_rows_of_another_shape_is_refused(tmp_path: Path) -> None:
    from unforgotten.weights.base import Held

    def none() -> Any:
        return iter([torch.zeros(2, 3)])

    with pytest.raises(ValueError, match="edited to"):
        stream(Held({"w": torch.zeros(4, 3)}), [("w", ByRows((2, 3), none))], tmp_path)


def test_the_norm_of_a_large_change_is_right() -> None:
    from unforgotten.methods.safelora import reference

    torch.manual_seed(2)
    v = torch.randn(4096, 2048)
    b: Tensor = torch.randn(4096, 2)
    exact = reference(v.double(), None)(b.double())
    assert float((reference(v, None)(b) - exact).norm() / exact.norm()) < 1e-5


def test_cross_entropy_beside_it() -> None:
    f = head(None, 5)
    h, tokens = torch.randn(N, D), torch.randint(V, (N,))
    plain = cross_entropy(f.logits(h), tokens, reduction="sum")
    torch.testing.assert_close(likelihood.nll(h.requires_grad_(), tokens, f.logits, 8, True).detach(), plain)
