"""Where the time of one DER step goes: a stopwatch round each of its parts, in the real trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import shapes
from benchmarks.measure import Figure, clock
from benchmarks.race import Lane
from benchmarks.steps import maker

DOCS = Path(__file__).parent.parent / "docs" / "performance"
PARTS = DOCS / "step.json"
STEPS = 10


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """No ratio: writes the parts of a step for the page."""
    lane = Lane(maker(shapes.SMALL, device, "der"))
    trainer = lane.trainer
    run, method = trainer.run, trainer.methods["der"]
    inner = trainer.model.get_base_model()
    parts = {
        "fetching the batch": (trainer, "get_batch_samples"),
        "user: layers forward": (inner.model, "forward"),
        "user: head and cross-entropy forward": (inner, "forward"),
        "replay: forward to hidden states": (run.weights, "states"),
        "replay: stored states": (run.memory, "stored_states"),
        "replay: drawing and collating rows": (run.memory, "draw"),
        "replay: Gram distance and the rest": (method, "loss"),
        "backward, both": (trainer.accelerator, "backward"),
        "clipping": (trainer, "_clip_grad_norm"),
        "optimizer": (trainer.optimizer, "step"),
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for name, (owner, attribute) in parts.items():
        _mark(owner, attribute, spent[name])
    total = sum(lane.step() for _ in range(STEPS)) / STEPS
    lane.close()
    own = _own({name: sum(seconds) / STEPS for name, seconds in spent.items()}, total)
    DOCS.mkdir(exist_ok=True)
    PARTS.write_text(json.dumps({"shape": shapes.SMALL.says, "seconds": own}, indent=1, ensure_ascii=False) + "\n")
    yield from ()


def _mark(owner: Any, attribute: str, seconds: list[float]) -> None:
    plain = getattr(owner, attribute)

    def marked(*args: Any, **kwargs: Any) -> Any:
        started = clock()
        try:
            return plain(*args, **kwargs)
        finally:
            seconds.append(clock() - started)

    object.__setattr__(owner, attribute, marked)


def _own(times: dict[str, float], total: float) -> dict[str, float]:
    """Each part without the parts inside it. The replay's forward runs the same layers as the user's."""
    actual = dict(times)
    replay = actual["replay: forward to hidden states"]
    actual["user: layers forward"] -= replay
    actual["user: head and cross-entropy forward"] -= replay + actual["user: layers forward"]
    inside = replay + actual["replay: stored states"] + actual["replay: drawing and collating rows"]
    actual["replay: Gram distance and the rest"] -= inside
    actual["all else (Trainer, callbacks)"] = total - sum(actual.values())
    return {name: max(seconds, 0.0) for name, seconds in actual.items()}
