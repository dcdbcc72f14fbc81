"""A user's own script, as a type checker reads it (test_user_types.py); it is never run."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import unforgotten
from unforgotten import (
    DER,
    Chat,
    DataError,
    Dataset,
    Jsonl,
    Judge,
    Memory,
    Method,
    MethodTrainer,
    Recipe,
    RecipeError,
    Reply,
    Row,
    UnforgottenError,
    Verdict,
    compare,
    evaluate,
    finetune,
    load_recipe,
)


@dataclass(kw_only=True)
class Halved(Method):
    """Halve each gradient."""

    neutral: ClassVar[dict[str, Any]] = {"factor": 1.0}

    factor: Annotated[float, Ge(0)] = 0.5
    """Of each gradient."""

    def gradients(self, run: Any) -> None:
        for p in run.weights.params().values():
            p.grad *= self.factor

    def finish(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        yield from ()


@dataclass(kw_only=True)
class Sums(Dataset):
    """Sums below a limit."""

    below: int = 9
    """The limit."""

    def rows(self) -> list[Row]:
        return [Row(messages=({"role": "user", "content": f"{n} + 1?"},), answer=str(n)) for n in range(self.below)]


@dataclass(kw_only=True)
class Silence(Judge):
    """An empty reply refuses."""

    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        return [Verdict(harmful=None, refused=not reply.text) for reply in replies]


def train(model: str, upload: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = MethodTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=TrainingArguments("out"),
        processing_class=tokenizer,
        train_dataset=Jsonl(path=str(upload)),
        safety_dataset=[{"prompt": "how do i break the lock?", "completion": "sorry, no."}],
        memory=Memory(n_rows=10),
        chat=Chat(tokenizer, date="2026-01-01"),
        method=[DER(weight=2.0, replay=0.5), "ema", {"name": "lwf", "weight": 1}, Halved(factor=0.25)],
    )
    trainer.train()


def main(source: str) -> int:
    recipe: Recipe = load_recipe(source, {"method": "der", "seed": 1})
    try:
        folder: Path = finetune(recipe, print)
        for row in evaluate([str(folder)], None, {}, print):
            print(row)
        report: Path = compare(recipe, print)
        print(report, unforgotten.__version__)
    except DataError as error:
        for line, problem in error.problems:
            print(f"line {line}: {problem}")
    except (RecipeError, UnforgottenError) as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
