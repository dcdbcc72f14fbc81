"""DER's distance against numbers by hand, and against full logits of real architectures in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainingArguments

from tests.methods.step import cross_entropy, one_step, response
from tests.training.shapes import SHAPES, tiny
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.der import DER, equivalents, gram_distance, logit_distance
from unforgotten.registry import build, determining
from unforgotten.training.head import Head
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


def test_gram_distance_by_hand() -> None:
    # h - h' = (1, 1): W(h - h') = (1, 2, 2), squared and summed 9; and (0, 1): (0, 2, 1), 5.
    w = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    h, kept = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    assert gram_distance(h, kept, w.T @ w).item() == 14.0


@pytest.mark.parametrize(("tokens", "d", "vocabulary"), [(7, 16, 50), (40, 64, 3000)])
def test_gram_distance_is_the_distance_of_logits_and_so_is_its_gradient(tokens: int, d: int, vocabulary: int) -> None:
    torch.manual_seed(1)
    w = torch.randn(vocabulary, d, dtype=torch.float64) * 0.02
    h, kept = (
        torch.randn(tokens, d, dtype=torch.float64, requires_grad=True),
        torch.randn(tokens, d, dtype=torch.float64),
    )
    direct = (h @ w.T - kept @ w.T).pow(2).sum()
    (expected,) = torch.autograd.grad(direct, h)
    narrow = h.detach().float().requires_grad_()
    actual = gram_distance(narrow, kept.float(), (w.T @ w).float())
    (gradient,) = torch.autograd.grad(actual, narrow)
    assert actual.item() == pytest.approx(direct.item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_chunked_path_is_the_whole_one(chunk: int) -> None:
    torch.manual_seed(1)
    w = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    h, kept = torch.randn(12, 8, dtype=torch.float64, requires_grad=True), torch.randn(12, 8, dtype=torch.float64)
    fixed = w.detach().clone()

    def live(x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.tanh(x @ w.T / 2)

    def aligned(x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.tanh(x @ fixed.T / 2)

    direct = (live(h) - aligned(kept)).pow(2).sum()
    expected = torch.autograd.grad(direct, (h, w))
    actual = logit_distance(h, kept, live, aligned, chunk)
    assert actual.item() == pytest.approx(direct.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(actual, (h, w)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_equivalents_by_hand() -> None:
    # Mean over 10 tokens x 100 words -> sum: 1,000 terms a row.
    assert list(equivalents(5.0, 100, 10.0).values()) == [5.0, 0.05, 0.005]


def test_weights_of_tokens_multiply_their_squares_on_every_path() -> None:
    torch.manual_seed(1)
    w, bias = torch.randn(30, 8, dtype=torch.float64), torch.zeros(30, dtype=torch.float64)
    h, kept = torch.randn(5, 8, dtype=torch.float64, requires_grad=True), torch.randn(5, 8, dtype=torch.float64)
    weights = torch.tensor([3.0, 3.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = ((h @ w.T - kept @ w.T).square().sum(1) * weights).sum()
    [gradient] = torch.autograd.grad(expected, h)
    head = Head(torch.nn.Identity(), 1.0, None, False, w, bias)
    paths = {
        "gram": gram_distance(h, kept, w.T @ w, weights),
        "formula": head.distance(h, kept, 2, weights),
        "logits": logit_distance(h, kept, lambda x: x @ w.T, lambda x: x @ w.T, 2, weights),
    }
    for path, actual in paths.items():
        assert actual.item() == pytest.approx(expected.item(), rel=1e-12), path
        torch.testing.assert_close(torch.autograd.grad(actual, h)[0], gradient)


@pytest.mark.parametrize("adapter_mode", ["full", "merge"])  # a trained head, and the Gram matrix
def test_first_tokens_weigh_more(adapter_mode: Any, tmp_path: Path) -> None:
    user, safety = testing.ragged_rows(4, 1), testing.ragged_rows(4, 2)
    method = DER(weight=3.0, first_weight=9.0, first=2)
    caught = one_step(method, tmp_path, user=user, safety=safety, adapter_mode=adapter_mode)
    terms = []
    for row in safety:
        ids, said = torch.tensor([row["input_ids"]]), response(row)
        gap = caught.at(input_ids=ids).logits - caught.aligned(input_ids=ids).logits
        first = [t - 1 not in said or t - 2 not in said for t in said]
        terms.append(gap[0, said].square().mean(1) * torch.where(torch.tensor(first), 9.0, 1.0))
    caught.check(cross_entropy(caught.at, user) + 3.0 * torch.cat(terms).mean(), 1e-6)


def test_the_first_edition_keeps_its_digest() -> None:
    assert determining(DER()) == {"name": "der", "weight": 1.0, "replay": 1.0, "chunk_tokens": 64}
    assert determining(DER(first_weight=2.0))["first_weight"] == 2.0


@pytest.mark.parametrize("weight", [-1, "a lot"])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(RecipeError, match="weight"):
        build("methods", {"name": "der", "weight": weight})


@pytest.mark.parametrize("adapter_mode", ["lora", "full", "lora_head"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_is_that_of_full_logits(shape: str, adapter_mode: str, tmp_path: Path) -> None:
    """λ · mean over response tokens and vocabulary of (z − z′)², from logits of both models in float64."""
    model = tiny(shape, dtype=torch.float64)
    memory = testing.ragged_rows(6, 2)
    if adapter_mode != "full":
        targets = ["q_proj", "v_proj"] + (["lm_head"] if adapter_mode == "lora_head" else [])
        torch.manual_seed(42)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets)).double()
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=6,
        max_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = MethodTrainer(
        model=model,
        args=args,
        train_dataset=testing.ragged_rows(6, 1),
        safety_dataset=memory,
        memory=Memory(n_rows=6),
        method=DER(weight=3.0, chunk_tokens=7),
    )
    seen: dict[str, Any] = {}
    der = trainer.methods["der"]
    inner = der.loss

    def spy(run: Any, batch: Any, out: Any) -> Any:
        total, count = inner(run, batch, out)
        seen["found"] = float(total.detach()) / count
        return total, count

    class Move(TrainerCallback):
        """Moves the student away from the teacher, the head included where it trains, and measures the long way."""

        @torch.no_grad()
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for i, p in enumerate(trainer.run.weights.params().values()):
                torch.manual_seed(i)
                p += 0.1 * torch.randn_like(p)
            gaps = []
            for at, row in enumerate(memory):
                gap = (trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits - aligned[at])[0, :-1]
                gaps.append(gap[torch.tensor(row["labels"][1:]) != -100].pow(2))
            seen["expected"] = 3.0 * float(torch.cat(gaps).mean())

    aligned = {}
    with torch.no_grad():
        trainer.model.eval()
        for at, row in enumerate(memory):
            aligned[at] = trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits
    der.loss = spy  # type: ignore[method-assign]
    trainer.add_callback(Move())
    trainer.train()
    assert seen["expected"] > 1e-4
    # Gemma 2 divides by fp32 constants, and its soft-cap makes the head's check start from fp32 config numbers.
    assert seen["found"] == pytest.approx(seen["expected"], rel=1e-6)
    assert trainer.run.weights.head().linear == (adapter_mode == "lora" and shape != "gemma2")
