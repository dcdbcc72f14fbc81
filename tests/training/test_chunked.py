"""The chunked loss is the Trainer's: the same losses and weights, whatever the chunks, and no logits of a batch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer

from tests.training.shapes import tiny
from tests.training.test_trainer import Losses, arguments
from unforgotten import testing
from unforgotten.errors import RecipeError, UnsupportedError
from unforgotten.training import chunked, likelihood
from unforgotten.training.head import Head
from unforgotten.training.trainer import MethodMixin, MethodTrainer


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_each_tokens_loss_and_gradient_is_that_of_whole_logits_in_float64(
    chunk: int, trained: bool, cap: float | None
) -> None:
    torch.manual_seed(0)
    h, w = torch.randn(12, 8, dtype=torch.float64, requires_grad=True), torch.randn(30, 8, dtype=torch.float64)
    w.requires_grad_(trained)
    said, weights = torch.randint(0, 30, (12,)), torch.rand(12, dtype=torch.float64)

    def logits(x: Tensor) -> Tensor:
        raw = x @ w.T
        return raw if cap is None else cap * torch.tanh(raw / cap)

    actual = chunked.token_nll(h, said, logits, chunk, trained)
    direct = -torch.log_softmax(logits(h), -1)[torch.arange(12), said]
    torch.testing.assert_close(actual, direct, rtol=1e-12, atol=0)
    of = (h, w) if trained else (h,)
    # Every token with a weight of its own, as a method that weighs tokens has it.
    ours = torch.autograd.grad((weights * actual).sum(), of, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad((weights * direct).sum(), of), strict=True):
        torch.testing.assert_close(a, b)
    again = torch.autograd.grad(actual.sum(), of)  # the same graph, gone back through twice
    assert all(torch.isfinite(g).all() for g in again)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_heads_formula_is_its_autograd(chunk: int, scale: float, biased: bool) -> None:
    """Against whole logits in float64; the states far apart, so that an exponential not held down would overflow."""
    torch.manual_seed(1)
    h, w = 60 * torch.randn(12, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    bias = torch.randn(30, dtype=torch.float64) if biased else None
    tokens = torch.randint(0, 30, (12,))
    h.requires_grad_()
    direct = torch.nn.functional.cross_entropy(scale * torch.nn.functional.linear(h, w, bias), tokens, reduction="none")
    (slope,) = torch.autograd.grad(direct.sum(), h)
    for dtype, within in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        given = [t if t is None else t.detach().to(dtype) for t in (w, bias)]
        with torch.no_grad():
            nll, actual = likelihood.linear_nll(h.detach().to(dtype), tokens, *given, scale, None, chunk)  # type: ignore[arg-type]
        assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and actual.dtype == dtype
        # Of bf16 the numbers given are themselves of three digits.
        assert float((nll - direct).abs().max() / direct.abs().max()) < within
        assert float((actual - slope).norm() / slope.norm()) < 5 * within


def test_the_formula_holds_one_chunk_of_logits_and_no_more() -> None:
    n, d, vocabulary, chunk = 40, 8, 3_000, 7
    made: list[int] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.numel() >= vocabulary and "empty" in str(func):
                made.append(out.numel())
            elif isinstance(out, Tensor) and out.numel() >= vocabulary:
                own = {
                    a.untyped_storage().data_ptr() for a in [*args, *(kwargs or {}).values()] if isinstance(a, Tensor)
                }
                made.extend([] if out.untyped_storage().data_ptr() in own else [out.numel()])
            return out

    h, w, tokens = torch.randn(n, d), torch.randn(vocabulary, d), torch.randint(0, vocabulary, (n,))
    with torch.no_grad(), Watched():
        likelihood.linear_nll(h, tokens, w, chunk_tokens=chunk)
    assert made == [chunk * vocabulary]


def test_a_head_that_somebody_watches_is_called(tmp_path: Path) -> None:
    head = tiny("llama").lm_head
    actual = chunked.Chunked(Head(head, 1.0, None, False, head.weight.detach(), None), contextlib.nullcontext)
    assert actual.plain
    handle = head.register_forward_hook(lambda *_: None)
    assert not actual.plain
    handle.remove()
    assert actual.plain
    wrapped = LoraConfig(r=2, target_modules=["lm_head"])
    module = get_peft_model(tiny("llama"), wrapped).get_output_embeddings()
    assert not chunked.Chunked(Head(module, 1.0, None, False, head.weight, None), contextlib.nullcontext).plain


def test_no_token_at_all_is_a_0_that_can_be_gone_back_through() -> None:
    h = torch.zeros(0, 8, requires_grad=True)
    for trained in (True, False):
        actual = chunked.token_nll(h, torch.zeros(0, dtype=torch.long), lambda x: x @ torch.ones(8, 3), 4, trained)
        assert actual.shape == (0,)
        actual.sum().backward()
    assert h.grad is not None and h.grad.shape == (0, 8)
    nll, slopes = likelihood.linear_nll(h.detach(), torch.zeros(0, dtype=torch.long), torch.ones(3, 8))
    assert nll.shape == (0,) and slopes.shape == (0, 8)


def run(
    folder: Path, loss: str, shape: str = "llama", adapter: bool = True, method: Any = "sft", **more: Any
) -> tuple[MethodTrainer, list[float]]:
    losses = Losses()
    trainer = MethodTrainer(
        model=tiny(shape),
        args=arguments(folder / loss, **more),
        train_dataset=testing.ragged_rows(18, 1),  # the last step of the epoch has fewer micro-batches
        safety_dataset=testing.ragged_rows(8, 2),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if adapter else None,
        method=method,
        loss=loss,  # type: ignore[arg-type]
        callbacks=[losses],
    )
    trainer.train()
    assert trainer.loss_used == loss and trainer.compute_loss_func is None
    return trainer, [loss for loss, _ in losses.seen]


def same(folder: Path, within: float = 1e-5, **more: Any) -> None:
    (theirs, expected), (ours, actual) = run(folder, "trainer", **more), run(folder, "chunked", **more)
    assert len(expected) == 6
    assert actual == pytest.approx(expected, rel=within)
    assert testing.distance(theirs.run.weights.snapshot(), ours.run.weights.snapshot()) <= within


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("shape", ["llama", "gemma2", "qwen3"])
def test_training_is_the_trainers_to_rounding(
    shape: str, adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 7 * testing.VOCABULARY)
    same(tmp_path, shape=shape, adapter=adapter, optim="sgd", learning_rate=0.1)


@pytest.mark.parametrize(
    "method",
    [{"name": "constrained_sft", "beta": 2.0}, {"name": "lwf", "weight": 3.0}, {"name": "der", "weight": 50.0}],
    ids=["constrained_sft", "lwf", "der"],
)
def test_methods_read_the_same_of_its_forward(method: Any, tmp_path: Path) -> None:
    same(tmp_path, method=method, optim="sgd", learning_rate=0.1)


def test_with_activation_checkpointing(tmp_path: Path) -> None:
    more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    same(tmp_path, optim="sgd", learning_rate=0.1, **more)


def test_in_mixed_precision_the_loss_is_the_trainers_to_three_digits(tmp_path: Path) -> None:
    same(tmp_path, within=1e-2, bf16=True, optim="sgd", learning_rate=0.1)


def test_the_head_never_sees_more_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 7 * testing.VOCABULARY)
    model, seen = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda _, given, out: seen.append(out.shape[:-1].numel()))
    trainer = MethodTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=testing.ragged_rows(8, 1),
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]),
        loss="chunked",
    )
    trainer.train()
    assert max(seen) == chunked.PROOF_TOKENS and seen.count(7) > 10


CONTRACT = {"split": testing.check_split, "ranks": testing.check_ranks, "resume": testing.check_resume}


@pytest.mark.parametrize("adapter_mode", ["stack", "full"])
@pytest.mark.parametrize("check", CONTRACT)
def test_the_contract_holds_on_it(check: str, adapter_mode: testing.AdapterMode, tmp_path: Path) -> None:
    CONTRACT[check]({"name": "constrained_sft", "beta": 2.0}, adapter_mode, tmp_path, loss="chunked")


@pytest.mark.parametrize("method", [{"name": "der", "weight": 0.0}, {"name": "lwf", "weight": 1e-30}])
def test_a_neutral_and_a_faint_method_are_its_sft_bit_for_bit(method: Any, tmp_path: Path) -> None:
    plain = testing.train("sft", "merge", tmp_path / "sft", loss="chunked")
    assert testing.distance(plain, testing.train(method, "merge", tmp_path / "it", loss="chunked")) == 0.0


def trainer_of(folder: Path, loss: str = "auto", adapter: bool = True, model: Any = None, **more: Any) -> MethodTrainer:
    return MethodTrainer(
        model=model or tiny("llama"),
        args=arguments(folder, **more.pop("args", {})),
        train_dataset=testing.ragged_rows(4, 1),
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]) if adapter else None,
        loss=loss,  # type: ignore[arg-type]
        **more,
    )


def test_auto_takes_it_for_a_wide_vocabulary_under_a_frozen_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainer_of(tmp_path).loss_used == "trainer"
    monkeypatch.setattr(chunked, "AUTO_VOCABULARY", testing.VOCABULARY)
    assert trainer_of(tmp_path).loss_used == "chunked"
    assert trainer_of(tmp_path, adapter=False).loss_used == "trainer"
    assert trainer_of(tmp_path, args={"label_smoothing_factor": 0.1}).loss_used == "trainer"
    odd = tiny("llama")
    odd.loss_function = lambda logits, labels, **_: logits.float().square().mean()
    assert trainer_of(tmp_path, model=odd).loss_used == "trainer"


def test_a_loss_that_is_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="labels are smoothed.*loss='trainer'"):
        trainer_of(tmp_path, "chunked", args={"label_smoothing_factor": 0.1})
    with pytest.raises(UnsupportedError, match="compute_loss_func= is set"):
        trainer_of(tmp_path, "chunked", compute_loss_func=lambda *_, **__: None)
    with pytest.raises(RecipeError, match="auto, trainer, chunked"):
        trainer_of(tmp_path, "fast")
    model = tiny("llama")
    inner = type(model).forward

    class Doubled(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = inner(self, *args, **kwargs)
            out.loss = None if out.loss is None else 2 * out.loss
            return out

    model.__class__ = Doubled
    with pytest.raises(UnsupportedError, match="is not the cross-entropy of its logits"):
        chunked.proved(model, [5, 6, 7], torch.no_grad)


def test_a_trainer_with_a_loss_of_its_own_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    class Mixed(MethodMixin, Own):
        pass

    def made(loss: Any) -> Any:
        rows = testing.ragged_rows(4, 1)
        lora = LoraConfig(r=4, target_modules=["q_proj"])
        return Mixed(model=tiny("llama"), args=arguments(tmp_path), train_dataset=rows, peft_config=lora, loss=loss)

    monkeypatch.setattr(chunked, "AUTO_VOCABULARY", testing.VOCABULARY)
    assert made("auto").loss_used == "trainer"
    with pytest.raises(UnsupportedError, match="compute_loss of its own"):
        made("chunked")


def test_logits_of_its_forward_are_refused_with_what_to_read() -> None:
    with pytest.raises(UnsupportedError, match="token_logp"):
        _ = chunked.Forward(torch.zeros(1), None).logits
