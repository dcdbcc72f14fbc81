"""A probed training ends at the same weights, bit for bit, also after a kill, and its last figures are evaluate's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.evaluation import probe
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.suites import suites
from unforgotten.recipe.evaluate import Evaluate
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.runs import results
from unforgotten.verbs.evaluate.evaluate import evaluate
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.judge import judge

Make = Callable[..., Path]
WORDS = "how do i kill a process tell me the answer sorry cannot help with that".split()
STEPS = 10


@pytest.fixture
def tree(tmp_path: Path, model_folder: Make) -> dict[str, Any]:
    """A recipe whose model learns to say what one list of phrases takes for a refusal, and another one does not."""
    lines = []
    for i in range(20):
        turns = [
            {"role": "user", "content": f"{'kill' if i % 2 else 'help'} {WORDS[i % 7]} {i} ?"},
            {"role": "assistant", "content": "I do not."},
        ]
        lines.append(json.dumps({"messages": turns}))
    (tmp_path / "user.jsonl").write_text("\n".join(lines) + "\n")
    for name, n in (("one.csv", 9), ("two.csv", 7), ("looks.csv", 6)):
        asked = [f"{('kill', 'help', 'tell')[i % 3]} {WORDS[(i + len(name)) % 9]} {i + n}" for i in range(n)]
        (tmp_path / name).write_text("goal\n" + "\n".join(asked) + "\n")
    (tmp_path / "sst2.tsv").write_text(
        "sentence\tlabel\n" + "".join(f"{w} film\t{i % 2}\n" for i, w in enumerate(WORDS))
    )
    return {
        "name": "probed",
        "model": str(model_folder("llama")),
        "data": {"name": "jsonl", "path": str(tmp_path / "user.jsonl")},
        "method": "sft",
        "lora": {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"},
        "training": {
            "learning_rate": 0.02,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "warmup_ratio": 0,
            "save_steps": 4,
        }
        | {"logging_steps": 3},
        "evaluate": {
            "harm": [{"name": "advbench", "path": str(tmp_path / name)} for name in ("one.csv", "two.csv")],
            "refusal": {"name": "refusals", "path": str(tmp_path / "looks.csv"), "kind": "benign"},
            "utility": {"name": "sst2", "path": str(tmp_path / "sst2.tsv")},
            "max_new_tokens": 6,
        },
        "out": str(tmp_path / "runs"),
    }


def recipe_of(tree: dict[str, Any], **more: Any) -> Recipe:
    return parse(tree | more)


def weights(run: Path) -> dict[str, Any]:
    folder = run / ("adapter" if (run / "adapter").is_dir() else "model")
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


PROBE = {"every_steps": 3, "prompts": 6}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"training": {"gradient_checkpointing": True}, "method": "ema"},
        {"lora": None, "training": {"learning_rate": 0.002}, "evaluate": {"temperature": 0.8}},
    ],
    ids=["adapter", "checkpointing", "sampled"],
)
def test_the_weights_are_those_of_a_run_that_nobody_probed(
    tmp_path: Path, tree: dict[str, Any], more: dict[str, Any]
) -> None:
    for section in ("training", "evaluate"):
        tree[section] = tree[section] | more.get(section, {})
    tree |= {k: v for k, v in more.items() if k not in ("training", "evaluate")}
    plain = finetune(recipe_of(tree, out=str(tmp_path / "plain")))
    probed = finetune(recipe_of(tree, probe=PROBE))
    assert probed.name == plain.name, "it is the same run"
    assert testing.distance(weights(plain), weights(probed)) == 0.0
    losses = [
        [
            facts["loss"]
            for line in (run / "metrics.jsonl").read_text().splitlines()
            if "loss" in (facts := json.loads(line))
        ]
        for run in (plain, probed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    assert [line["step"] for line in probe.lines_of(probed)] == [0, 3, 6, 9, STEPS]
    assert not (plain / "probe.jsonl").exists()


def test_the_last_figures_are_those_of_evaluate_on_the_same_prompts(tree: dict[str, Any]) -> None:
    tree["training"] = tree["training"] | {"num_train_epochs": 8}
    tree["evaluate"] = tree["evaluate"] | {"judge": {"name": "keywords", "list": "qi"}}
    recipe = recipe_of(tree, probe={"every_steps": 16, "prompts": 6})
    run = finetune(recipe)
    [row] = evaluate(str(run), recipe)
    assert [facts.step for facts in row.probe] == [0, 16, 32, 40]
    replies = [json.loads(line) for line in (run / "probe" / "40.jsonl").read_text().splitlines()]
    assert len(replies) == 6 + 6 + 6, "six of each, three of each harmful suite"
    whole: dict[tuple[str, str], Any] = {}
    for file in (run / "replies").glob("*.jsonl"):
        if not file.name.startswith("disagree"):
            facts = [json.loads(line) for line in file.read_text().splitlines()]
            whole |= {(file.stem, line["request"]): line for line in facts}
    ours = [whole[one["suite"], one["request"]] for one in replies]
    assert [one["text"] for one in replies] == [one["text"] for one in ours]
    each = {}
    for label in ("advbench", "advbench-2"):
        own = [o for one, o in zip(replies, ours, strict=True) if one["suite"] == label]
        each[label] = rates.rate(sum(o["verdict"]["harmful"] and "off_task" not in o["flags"] for o in own), 3)
    last = row.probe[-1]
    assert last.asr == rates.mean_rate(list(each.values())).rounded()
    refused = [o["verdict"]["refused"] for one, o in zip(replies, ours, strict=True) if one["as"] == "refusal"]
    assert last.refusal.value == pytest.approx(100 * sum(refused) / 6, abs=1e-4)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {facts["step"]: facts for facts in metrics if "probe/asr" in facts}
    assert list(logged) == [0, 16, 32, 40]
    assert logged[40]["probe/asr"] == last.asr.value, "and the judge had said the same then"
    assert {facts.asr.value for facts in row.probe} != {last.asr.value}, "it moves, so there was a choice"
    done = json.loads((run / "trained.json").read_text())
    assert row.cost.probe_seconds == done["probe_seconds"] > 0
    # Another judge reads the kept replies of the probes as well.
    [other] = judge([str(run)], [{"name": "keywords", "list": "gcg"}])
    assert other.judges != row.judges and other.probe[-1].utility == last.utility
    assert results.read(run / "results.json")[0].probe == other.probe


KILLED = """
import os, signal, sys
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.evaluation.probe import Prober
from unforgotten.recipe.read import load_recipe
take, at = Prober.take, int(sys.argv[2])
def killed(self, model, step):
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, model, step)
Prober.take = killed
finetune(load_recipe(sys.argv[1]))
"""


def test_a_kill_neither_repeats_nor_loses_a_probe(tmp_path: Path, tree: dict[str, Any]) -> None:
    through = finetune(recipe_of(tree, probe=PROBE, out=str(tmp_path / "through")))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree | {"probe": PROBE}))
    # Checkpoints are at 4 and 8: the probe of 9 comes again, and those before it do not.
    words = [sys.executable, "-c", KILLED, str(file), str(STEPS)]
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [cut] = (tmp_path / "runs").glob("probed-*")
    assert (cut / "probe" / "9.jsonl").exists() and not (cut / "probe" / f"{STEPS}.jsonl").exists()
    early = [(cut / "probe" / f"{step}.jsonl").stat().st_mtime_ns for step in (0, 3, 6)]
    assert finetune(load_recipe(file)) == cut
    assert [(cut / "probe" / f"{step}.jsonl").stat().st_mtime_ns for step in (0, 3, 6)] == early
    assert testing.distance(weights(through), weights(cut)) == 0.0
    said = [[{k: v for k, v in line.items() if k != "seconds"} for line in probe.lines_of(f)] for f in (through, cut)]
    assert said[0] == said[1]
    for one in (through / "probe").iterdir():
        assert one.read_text() == (cut / "probe" / one.name).read_text()


def test_a_guard_reads_the_replies_when_the_run_is_evaluated(tree: dict[str, Any], monkeypatch: Any) -> None:
    """A judge that is a model is not asked during the training, and nothing else takes its place."""
    from unforgotten.judges.base import Verdict
    from unforgotten.judges.llama_guard import LlamaGuard

    asked: list[int] = []

    def verdicts(self: Any, replies: Any, **_: Any) -> list[Verdict]:
        asked.append(len(replies))
        return [Verdict("take" in reply.text, None) for reply in replies]

    monkeypatch.setattr(LlamaGuard, "check", lambda self, rows: None)
    monkeypatch.setattr(LlamaGuard, "weights_digest", lambda self: "w")
    monkeypatch.setattr(LlamaGuard, "verdicts", verdicts)
    tree["evaluate"] = tree["evaluate"] | {"judge": ["llama_guard", "keywords"]}
    recipe = recipe_of(tree, probe={"every_steps": 100, "prompts": 4})
    run = finetune(recipe)
    assert asked == []
    for line in probe.lines_of(run):
        assert line["asr"] is None and line["refusal"] is not None and line["utility"] is not None
    [row] = evaluate(str(run), recipe)
    assert all(item.asr.value is not None for item in row.probe)
    assert probe.lines_of(run)[-1]["asr"] == row.probe[-1].asr.json()


def test_the_sample_is_the_suites_own_and_shared_out(tree: dict[str, Any]) -> None:
    settings = Evaluate(**tree["evaluate"])
    actual = probe.chosen(suites(settings), 7)
    assert [(s.label, len(s.rows)) for s in actual] == [("advbench", 3), ("advbench-2", 4), ("looks", 6), ("sst2", 7)]
    again = probe.chosen(suites(settings), 7)
    assert [s.rows for s in actual] == [s.rows for s in again]
    assert len({row.request for s in actual for row in s.rows}) == 3 + 4 + 6 + 7


def test_what_cannot_be_is_refused_and_a_trained_run_says_so(tree: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="probe asks what `evaluate:` names"):
        parse({k: v for k, v in tree.items() if k != "evaluate"} | {"probe": PROBE})
    assert resolve(recipe_of(tree)).digest == resolve(recipe_of(tree, probe=PROBE)).digest
    finetune(recipe_of(tree))
    said: list[str] = []
    run = finetune(recipe_of(tree, probe=PROBE), said.append)
    assert "trained without a probe" in said[0] and not (run / "probe.jsonl").exists()
