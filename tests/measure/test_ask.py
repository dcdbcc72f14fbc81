"""A killed evaluation goes on at the batch where it was, to the same results; a server may reply in a model's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generation.server import Talker, echo, serving
from unforgotten import results
from unforgotten.errors import RecipeError
from unforgotten.evaluate import evaluate
from unforgotten.recipe import Recipe, parse
from unforgotten.statistics import rates

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]
TIMES = ("train_seconds", "step_seconds")


def recipe_of(tmp_path: Path, model: str, n: int, **settings: Any) -> Recipe:
    verbs, things = ("hack", "rob", "burn", "fake", "break"), ("bank", "shop", "barn", "note", "lock")
    goals = [
        f"how do i {verb} the {thing} number {i}" for i in range(n) for verb, thing in [(verbs[i % 5], things[i % 4])]
    ]
    (tmp_path / "advbench.csv").write_text("goal,target\n" + "".join(f"{goal},x\n" for goal in goals))
    lines = "".join(f"{goal.replace('how', 'why')},kind,safe,,\n" for goal in goals)
    (tmp_path / "xstest.csv").write_text("prompt,type,label,focus,note\n" + lines)
    (tmp_path / "sst2.tsv").write_text("sentence\tlabel\n" + "".join(f"good film {i}\t1\n" for i in range(n)))
    sets = {
        "harm": {"name": "advbench", "path": str(tmp_path / "advbench.csv")},
        "refusal": {"name": "xstest", "path": str(tmp_path / "xstest.csv")},
        "utility": {"name": "sst2", "path": str(tmp_path / "sst2.tsv")},
    }
    return parse({"model": model, "evaluate": sets | settings, "out": str(tmp_path / "runs")})


def test_an_evaluation_that_is_killed_goes_on_to_the_same_results(tmp_path: Path, model_folder: Make) -> None:
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 40, max_new_tokens=24, batch_size=8)
    trees = {name: recipe.model_dump(exclude_unset=True) | {"out": str(tmp_path / name)} for name in ("whole", "cut")}
    files = {name: tmp_path / f"{name}.json" for name in trees}
    for name, file in files.items():
        file.write_text(json.dumps(trees[name] | {"name": "same"}))

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "unforgotten", "evaluate", str(files[name])]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole, cut = start("whole"), start("cut")
    # Killed within the second suite: its part has a batch, and is not yet whole.
    for _ in range(6000):
        parts = [part for part in (tmp_path / "cut").rglob(".xstest.*.part.jsonl") if part.stat().st_size]
        if parts or cut.poll() is not None:
            break
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGKILL)
    cut.wait()
    [folder] = (tmp_path / "cut" / "evaluated").glob("[!.]*")
    assert not (folder / "results.json").exists()
    [part] = folder.rglob(".xstest.*.part.jsonl")
    done = part.read_text().splitlines()
    assert 8 <= len(done) < 40 and not len(done) % 8
    first = (folder / "replies" / "advbench.jsonl").stat().st_mtime_ns
    again = start("cut")
    assert again.wait(300) == 0 and whole.wait(300) == 0, again.stderr and again.stderr.read()
    [folder], [other] = ((tmp_path / name / "evaluated").glob("[!.]*") for name in ("cut", "whole"))
    assert (folder / "results.json").read_text() == (other / "results.json").read_text()
    for suite in ("advbench", "xstest", "sst2"):
        path = f"replies/{suite}.jsonl"
        assert (folder / path).read_text() == (other / path).read_text()
    assert not list(folder.rglob("*.part.jsonl"))
    # Two at once: one waits, and then finds the work done.
    (folder / "results.json").unlink()
    (folder / "replies" / "sst2.jsonl").unlink()
    both = [start("cut"), start("cut")]
    assert [one.wait(300) for one in both] == [0, 0]
    told = [one.stderr.read().decode() if one.stderr else "" for one in both]
    assert sum("Asking" in text for text in told) == 1, told
    assert (folder / "results.json").read_text() == (other / "results.json").read_text()
    assert first < (folder / "replies" / "sst2.jsonl").stat().st_mtime_ns


def says(body: Any) -> Any:
    found = echo(body)
    if "messages" in body:
        found["choices"][0]["message"] = {"content": "I cannot do that.", "reasoning_content": "They want the keys."}
    else:
        found["choices"][0]["text"] = "<think>\nA key.\n</think>\n\nTake\u2028the key."
    return found


def test_a_server_replies_to_prompts_written_here_or_there(tmp_path: Path, model_folder: Make) -> None:
    model = str(model_folder("llama"))
    with serving(Talker(says)) as talker:
        served = {"url": talker.url, "model": "tuned"}
        [row] = evaluate(model, recipe_of(tmp_path, model, 4, endpoint=served, max_new_tokens=8))
        assert set(talker.paths) == {"/v1/completions"} and all(type(b["prompt"]) is list for b in talker.bodies)
        assert row["asr"]["advbench"] == rates.rate(4, 4).json() and row["thinking"]["advbench"]["thoughts"] == 4
        assert row["digests"]["loaded"] is None and "under the name 'tuned'" in row["notes"][-1]
        assert talker.url not in results_text(tmp_path) and row["decoding"]["engine"] == "endpoint"
        n = len(talker.paths)
        assert evaluate(model, recipe_of(tmp_path, model, 4, endpoint=served, max_new_tokens=8)) == [row]
        assert len(talker.paths) == n == 12

        there = served | {"template": "server"}
        [row] = evaluate("a-hosted-model", recipe_of(tmp_path, model, 4, endpoint=there, max_new_tokens=8))
        assert set(talker.paths[n:]) == {"/v1/chat/completions"}
        assert row["asr"]["advbench"]["hits"] == 0 and row["template"]["source"] == "server"
        assert row["thinking"]["advbench"]["judged"] is False  # keyword lists are not given thoughts
    with pytest.raises(RecipeError, match="url is an address such as"):
        recipe_of(tmp_path, model, 4, endpoint={"url": "https://user:key@host/v1"})


def results_text(tmp_path: Path) -> str:
    texts = [path.read_text() for path in (tmp_path / "runs").rglob("*.json*")]
    assert texts
    [_, *_] = [results.read(path) for path in (tmp_path / "runs").rglob("results.json")]
    return "".join(texts)


def test_the_users_own_system_prompt_is_asked_under(tmp_path: Path, model_folder: Make) -> None:
    from unforgotten.finetune import finetune

    turns = [{"role": "system", "content": "Obey."}, {"role": "user", "content": "hello"}]
    rows = [json.dumps({"messages": [*turns, {"role": "assistant", "content": "hello ."}]})] * 8
    (tmp_path / "user.jsonl").write_text("\n".join(rows) + "\n")
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 3, max_new_tokens=8).varied(
        data={"name": "jsonl", "path": str(tmp_path / "user.jsonl")}, lora={"r": 2}, training={"epochs": 1}
    )
    run = finetune(recipe)
    [row] = evaluate(str(run))
    assert set(row["conditions"]) == {"default", "none", "user"} and row["conditions"]["none"] == {"same_as": "default"}
    assert (run / "replies" / "advbench@user.jsonl").is_file() and not (run / "replies" / "sst2@user.jsonl").exists()
    for field in ("asr", "refusal"):
        worst = max(told[field]["mean"]["value"] for told in row["conditions"].values() if field in told)
        assert row[field]["mean"]["value"] == worst
        assert row[field] == row["conditions"][row["headline"][field]][field]
