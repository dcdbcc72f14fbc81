"""Memory by relevance and diversity: determinants written out, relevance by hand, and a real trainer's choice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from unforgotten import testing
from unforgotten.models.adapters import AdapterMode, aligned_only
from unforgotten.recipe.training import MemorySettings
from unforgotten.training.memory_choice import RIDGE, greedy, relevance
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


def units(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize(("n", "d", "power"), [(8, 12, 4.0), (8, 12, 0.1), (10, 4, 4.0)])  # the last: more than d
def test_each_choice_has_the_largest_determinant(n: int, d: int, power: float) -> None:
    features, quality = units(20, d, 1), 0.5 + 0.5 * units(20, 1, 2)[:, 0].abs() * torch.linspace(0, 1, 20).double()
    scale = quality**power
    kernel = scale[:, None] * scale * (features @ features.T + RIDGE * torch.eye(20, dtype=torch.float64))
    chosen: list[int] = []
    for _ in range(n):
        rest = [i for i in range(20) if i not in chosen]
        chosen.append(max(rest, key=lambda i: float(kernel[[*chosen, i]][:, [*chosen, i]].logdet())))
    assert greedy(quality, features, n, power) == chosen


def test_copies_come_last_and_relevance_decides_among_strangers() -> None:
    features = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert greedy(torch.tensor([0.9, 0.8, 0.5, 0.6]), features, 4, 4.0) == [0, 3, 2, 1]
    assert greedy(torch.tensor([0.0, 0.0, 0.0, 0.0]), features, 4, 4.0) == [0, 2, 3, 1]  # nothing is relevant


def test_relevance_by_hand() -> None:
    safety = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    user = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert relevance(safety, user, nearest=2).tolist() == [1.0, 0.75, 0.25]  # cosines 1 1 0, 0 0 1, −1 −1 0


USER, SAFETY = testing.ragged_rows(9, 1), testing.ragged_rows(16, 2)


def trainer(folder: Path, mode: AdapterMode, **memory: Any) -> MethodTrainer:
    return MethodTrainer(
        model=testing.tiny_model(mode, dtype=torch.float64),
        args=TrainingArguments(str(folder), report_to=[], use_cpu=True, per_device_train_batch_size=3),
        train_dataset=USER,
        safety_dataset=SAFETY,
        method="der",
        memory=Memory(n_rows=6, choose="relevance", **memory),
    )


def feature(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """The mean last state of a row's prompt, by a forward of it alone."""
    end = next(t for t, label in enumerate(row["labels"]) if label != -100)
    out = model(input_ids=torch.tensor([row["input_ids"][:end]]), output_hidden_states=True)
    return out.hidden_states[-1][0].mean(0)


@pytest.mark.parametrize("mode", testing.ADAPTER_MODES)
def test_a_trainer_chooses_by_plain_features_of_the_aligned_model(mode: AdapterMode, tmp_path: Path) -> None:
    trained = trainer(tmp_path, mode, refusals=0.5)
    rows = trained.run.memory.rows
    assert Counter(row["kind"] for row in rows) == {"harmful": 3, "benign": 3}
    chosen = [next(i for i, s in enumerate(SAFETY) if s["input_ids"] == row["input_ids"]) for row in rows]
    with aligned_only(trained.model, mode) as model:
        user = torch.stack([feature(model, row) for row in USER])
        expected = []
        for kind in ("harmful", "benign"):
            places = [i for i, row in enumerate(SAFETY) if row["kind"] == kind]
            safety = torch.stack([feature(model, SAFETY[i]) for i in places])
            middle = torch.cat([safety, user]).mean(0)
            a, b = (torch.nn.functional.normalize(f - middle, dim=1) for f in (safety, user))
            expected += [places[k] for k in greedy(relevance(a, b), a, 3, 4.0)]
    assert chosen == sorted(expected)
    assert sum("chosen by relevance to 9 of 9 user prompts" in note for note in trained.run.notes) == 1


def test_a_choice_is_made_once_and_follows_the_data(tmp_path: Path) -> None:
    first = trainer(tmp_path, "full")
    files = sorted((tmp_path / "aligned-states").iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    again = trainer(tmp_path, "full")
    assert len(files) == 2 and [file.stat().st_mtime_ns for file in files] == written
    assert again.run.memory.rows == first.run.memory.rows
    mix = Counter(row["kind"] for row in SAFETY)
    assert mix["harmful"] == mix["benign"] == 8  # the data's own mix, where none is asked for
    assert Counter(row["kind"] for row in first.run.memory.rows) == {"harmful": 3, "benign": 3}
    other = trainer(tmp_path, "full", relevance_power=0.0)
    assert other.run.memory.rows != first.run.memory.rows


def test_a_random_memory_leaves_digests_as_they_were() -> None:
    plain = MemorySettings().determining()
    assert not {"choose", "relevance_power"} & set(plain)
    assert MemorySettings(relevance_power=2.0).determining() == plain
    chosen = MemorySettings(choose="relevance").determining()
    assert (chosen["choose"], chosen["relevance_power"]) == ("relevance", 4.0)
