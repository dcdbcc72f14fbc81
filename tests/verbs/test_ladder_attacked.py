"""The ladder where somebody disturbs it: killed, tampered with, out of prompts, or given what cannot be."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.verbs.test_ladder import tree as tree
from unforgotten.errors import LeaseLost, ModelError, RecipeError
from unforgotten.evaluation import gate as gates
from unforgotten.evaluation.gate import Decision, Limits
from unforgotten.evaluation.measurement import Measurement
from unforgotten.recipe.read import parse
from unforgotten.verbs.finetune import finetune as training
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.repair import out_folder
from unforgotten.verbs.repair.ladder import _Climb, ladder
from unforgotten.verbs.repair.rungs import Candidate, in_words, stronger

BARE = {"scales": [], "one_shot": None, "edits": [], "retrains": False}
"""Rung 0 alone."""
WEIGHTS = "adapter_model.safetensors"


def killed(climb: Callable[[], Any], arm: Callable[[], Any]) -> bool:
    """Runs the ladder in a process of its own, where `arm` makes something send SIGKILL; was it killed?"""
    if not (child := os.fork()):
        try:
            arm()
            climb()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def figures(out: Path) -> dict[str, Any]:
    """The report without what no two calls have alike."""
    facts = json.loads((out / "repair.json").read_text())
    timed = ("make_seconds", "ask_seconds")
    return facts | {"attempts": [{k: v for k, v in a.items() if k not in timed} for a in facts["attempts"]]}


def second_file(source: str, target: str, seen: list[str] = []) -> str:  # noqa: B006
    """Dies with the second file of a model in its place."""
    os.link(Path(source).resolve(), target)
    seen.append(target)
    if len(seen) == 2:
        die()
    return target


def before_report(self: _Climb, model: Path | None, ended: bool, write: Any = _Climb._write) -> Any:
    return die() if ended else write(self, model, ended)


ARMS: dict[str, Callable[[], Any]] = {
    "while the model is copied": lambda: setattr(out_folder, "_link", second_file),
    "before the report": lambda: setattr(_Climb, "_write", before_report),
    "before candidates are removed": lambda: setattr(out_folder, "clear", die),
}


def test_a_ladder_that_is_killed_at_its_end_goes_on(tree: dict[str, Any], tmp_path: Path) -> None:
    run, recipe = str(finetune(parse(tree))), parse(tree | {"repair": BARE | {"scales": [0.0]}})

    def climb(out: Path) -> Any:
        return ladder(run, gate="max_asr=60", out=str(out), recipe=recipe)

    assert climb(tmp_path / "whole").exit_code == 0
    for i, (when, arm) in enumerate(ARMS.items()):
        out = tmp_path / f"killed {i}"
        assert killed(lambda out=out: climb(out), arm), when
        if when == "before candidates are removed":
            with pytest.raises(RecipeError, match="is finished"):
                climb(out)
        else:
            assert climb(out).exit_code == 0, when
        assert figures(out) == figures(tmp_path / "whole"), when
        ours, theirs = (load_file(folder / "model" / WEIGHTS) for folder in (out, tmp_path / "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], t) for n, t in theirs.items()), when
        names = {path.name for path in out.iterdir()}
        assert names == {"model", "README.md", "repair.json", "work"}, when
        assert not list((out / "work").glob("*/model")), when


def test_replies_that_somebody_else_wrote_do_not_pass_a_model(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out, recipe = str(finetune(parse(tree))), tmp_path / "out", parse(tree | {"repair": BARE})
    monkeypatch.setattr(_Climb, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ladder(run, gate="max_asr=60", out=str(out), recipe=recipe)
    monkeypatch.undo()
    assert json.loads((out / "repair.json").read_text())["attempts"][0]["gate"]["outcome"] == "fail"
    changed = 0
    for file in (out / "work").glob("0-*/choose/replies/*.jsonl"):
        rows = [json.loads(line) for line in file.open()]
        for row in rows:
            for verdict in (row.get("verdicts") or {}).values():
                if isinstance(verdict, dict):
                    verdict |= {"complied": False, "refused": True}
                    changed += 1
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert changed
    repaired = ladder(run, gate="max_asr=60", out=str(out), recipe=recipe)
    assert repaired.exit_code == 3 and not (out / "model").exists()


def test_a_model_that_passes_as_it_is_is_copied_and_shares_no_file(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finetune(parse(tree))
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run / "adapter", tmp_path / "tuned")
    (tmp_path / "tuned" / "notes.txt").write_text("the owner's")
    aligned = next(p for p in (tmp_path / "runs" / "aligned").glob("[!.]*") if p.is_dir())
    repaired = ladder(
        gate="max_asr=100", out=str(tmp_path / "out"), tuned="~/tuned", aligned=str(aligned), recipe=parse(tree)
    )
    assert repaired.model == tmp_path / "out" / "model" and repaired.exit_code == 0
    before = (repaired.model / WEIGHTS).read_bytes()
    with (tmp_path / "tuned" / WEIGHTS).open("r+b") as file:  # the owner trains on, into the same file
        file.write(b"\xff" * 64)
    assert (repaired.model / WEIGHTS).read_bytes() == before


def test_where_prompts_run_out_what_was_not_tried_is_said_and_nothing_is_decided(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_part(limits: Limits, measured: Any, reference: Any = None) -> Decision:
        return Decision("pass" if measured[1].name == "choose" else "fail", ())

    monkeypatch.setattr(gates, "gate", by_part)
    run = str(finetune(parse(tree)))
    recipe = parse(tree | {"repair": {"scales": [0.9], "one_shot": None, "decisions": 1}})
    repaired = ladder(run, gate="max_asr=60", out=str(tmp_path / "out"), recipe=recipe)
    why = {(skipped.rung, skipped.what): skipped.why for skipped in repaired.skipped}
    assert "no fresh prompts are left" in why[1, "interpolate, s 0.9"] and "is null" in why[2, "one-shot patch"]
    assert {rung for rung, _ in why} == {1, 2, 3, 4}
    assert repaired.outcome == "unclear" and repaired.exit_code == 4
    assert "too few prompts to tell" in (tmp_path / "out" / "README.md").read_text()


def test_a_candidate_that_cannot_reply_is_said_and_the_next_is_tried(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ask = str(finetune(parse(tree))), Measurement.ask

    def broken(self: Measurement, *more: Any) -> None:
        if self.name == "interpolate, s 0.9":
            raise ModelError("The model's logits are NaN.")
        ask(self, *more)

    monkeypatch.setattr(Measurement, "ask", broken)
    recipe = parse(tree | {"repair": BARE | {"scales": [0.9, 0.0]}})
    repaired = ladder(run, gate="max_asr=60", out=str(tmp_path / "out"), recipe=recipe)
    why = {skipped.what: skipped.why for skipped in repaired.skipped}
    assert why["interpolate, s 0.9"] == "it cannot be asked: The model's logits are NaN."
    assert repaired.exit_code == 0 and figures(tmp_path / "out")["passed"] == "interpolate, s 0"


def test_a_run_that_another_process_took_over_ends_the_ladder_and_not_the_rung(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = str(finetune(parse(tree))), parse(tree | {"repair": BARE | {"retrains": True}})

    def lost(*_: Any, **__: Any) -> None:
        raise LeaseLost("Another process took over.")

    monkeypatch.setattr(training, "train", lost)
    with pytest.raises(LeaseLost):
        ladder(run, gate="max_asr=0", out=str(tmp_path / "out"), recipe=recipe)
    assert figures(tmp_path / "out")["outcome"] is None


def test_what_cannot_be_is_told_before_anything_is_asked(tree: dict[str, Any], tmp_path: Path) -> None:
    run, out = str(finetune(parse(tree))), str(tmp_path / "out")
    with pytest.raises(RecipeError, match=r"too few for 1000000001 parts"):
        ladder(run, gate="max_asr=5", out=out, recipe=parse(tree | {"repair": {"decisions": 10**9}}))
    with pytest.raises(RecipeError, match=r"repair\.max_utility_drop .* Add evaluate\.utility"):
        ladder(run, gate="max_asr=5", out=out, recipe=parse(tree | {"repair": {"max_utility_drop": 5}}))
    with pytest.raises(RecipeError, match="The gate has no limit"):
        ladder(run, gate=Limits(), out=out)
    with pytest.raises(ModelError, match="nowhere"):
        ladder(run, gate="max_asr=5", out=out, unaligned_model="./nowhere")
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("rungs", "why"),
    [
        ({"edits": ["der"]}, "der works during training"),
        ({"edits": ["safelora", {"name": "safelora"}]}, "list each edit once"),
        ({"one_shot": {"learning_rates": []}}, "at least 1 item"),
        ({"one_shot": {"learning_rates": [1e-3, 1e-3]}}, "each learning rate once, the smallest first"),
        ({"one_shot": {"learning_rates": [1e-3, 1e-4]}}, "each learning rate once, the smallest first"),
        ({"retrain": []}, "name a method"),
    ],
)
def test_rungs_that_cannot_be_are_refused(rungs: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        parse({"model": "world", "repair": rungs})


def test_an_auto_weight_is_made_stricter_and_a_weight_of_0_is_no_der() -> None:
    [dual] = stronger([{"name": "der", "weight": "auto", "hold": 0.02}], 4)
    assert dual["weight"] == "auto" and dual["hold"] == 0.005
    [ratio] = stronger([{"name": "der", "weight": "auto", "auto": "ratio", "ratio": 0.5}], 4)
    assert ratio["ratio"] == 2.0
    [alone] = stronger([{"name": "der", "weight": 0}], 4)
    assert alone["name"] == "der" and alone["weight"] == 4.0


def test_two_candidates_that_read_alike_have_folders_of_their_own(tmp_path: Path) -> None:
    specs = [{"name": "safemerge", "safety_adapter": str(tmp_path / at / "adapter")} for at in ("one", "another")]
    for spec in specs:
        Path(spec["safety_adapter"]).mkdir(parents=True)
    assert in_words(specs[0]) == in_words(specs[1])
    first, second = (Candidate(3, in_words(spec), spec, die) for spec in specs)  # type: ignore[arg-type]
    assert first.folder != second.folder
    assert in_words({"name": "interpolate", "scale": 0.35}) != in_words({"name": "interpolate", "scale": 0.35000001})
