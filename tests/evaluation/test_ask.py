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
from unforgotten.errors import RecipeError
from unforgotten.evaluation.statistics import rates
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.runs import results
from unforgotten.verbs.evaluate.evaluate import evaluate
from unforgotten.verbs.gate import against

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
    said = [one.stderr.read().decode() if one.stderr else "" for one in both]
    assert sum("Asking" in text for text in said) == 1, said
    assert (folder / "results.json").read_text() == (other / "results.json").read_text()


def test_two_recipes_of_one_model_are_each_measured_by_their_own(tmp_path: Path, model_folder: Make) -> None:
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 12)
    for name, tokens in (("short", 2), ("long", 6)):
        tree = recipe.model_dump(exclude_unset=True) | {"name": name}
        harm = [spec | {"n_rows": 5, "seed": tokens} for spec in tree["evaluate"]["harm"]]
        tree["evaluate"] = tree["evaluate"] | {"max_new_tokens": tokens, "harm": harm}
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    files = [str(tmp_path / f"{name}.json") for name in ("short", "long")]
    both = evaluate(files)
    assert [row.decoding["max_new_tokens"] for row in both] == [2, 6]
    alone = [evaluate(file)[0] for file in files]
    assert alone == both
    [folder] = (tmp_path / "runs" / "evaluated").glob("[!.]*")
    kept = [json.loads(line) for line in (folder / "replies" / "advbench.jsonl").read_text().split("\n") if line]
    assert max(line["tokens"] for line in kept) == 6
    # What is lost is made again, whatever results.json says.
    (folder / "replies" / "advbench.jsonl").unlink()
    assert evaluate(files[1]) == both[1:] and (folder / "replies" / "advbench.jsonl").is_file()
    # Another precision is another model.
    [other] = evaluate(files[1], overrides={"dtype": "bfloat16"})
    assert other.digests.loaded != both[1].digests.loaded


def test_several_models_of_one_name_have_lines_of_their_own(tmp_path: Path, model_folder: Make) -> None:
    from unforgotten.report.aggregate import lines
    from unforgotten.verbs.evaluate.evaluate import names_apart

    one, other = model_folder("llama", name="a/model"), model_folder("qwen2", name="b/model")
    recipe = recipe_of(tmp_path, str(one), 4, max_new_tokens=4)
    rows = evaluate([str(one), str(other)], recipe)
    assert rows[0].digests.loaded != rows[1].digests.loaded
    actual = lines(rows)
    assert len(actual) == 2 and len({line.name for line in actual}) == 2 and all(len(line.rows) == 1 for line in actual)
    (tmp_path / "link").symlink_to(one)
    twice = [str(one), f"{one}/", str(tmp_path / "link"), str(other)]
    assert names_apart(["model"] * 4, twice) == ["a/model", "a/model", "a/model", "b/model"], "no path of this machine"


def test_a_run_that_others_are_compared_with_keeps_its_own_figures(tmp_path: Path, model_folder: Make) -> None:
    from unforgotten.verbs.finetune.finetune import finetune

    rows = [
        json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello ."}]})
    ] * 8
    (tmp_path / "user.jsonl").write_text("\n".join(rows) + "\n")
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 4, max_new_tokens=4).varied(
        data={"name": "jsonl", "path": str(tmp_path / "user.jsonl")}, lora={"r": 2}, training={"num_train_epochs": 1}
    )
    first, second = finetune(recipe), finetune(recipe.varied(seed=1))
    [own] = evaluate(str(first))
    before = (first / "results.json").read_bytes()
    said, differ, _ = against(str(second), str(first), overrides={"evaluate.max_new_tokens": 3})
    assert (first / "results.json").read_bytes() == before and own.decoding["max_new_tokens"] == 4
    assert said[1].decoding["max_new_tokens"] == 3 and said[1].run.startswith(f"evaluated/{first.name}-")
    assert (tmp_path / "runs" / said[1].run / "results.json").is_file() and differ
    # What was decided on figures that are replaced goes with them.
    assert (second / "contrast.json").is_file()
    evaluate(str(second))
    assert not (second / "contrast.json").exists()


def says(body: Any) -> Any:
    actual = echo(body)
    if "messages" in body:
        actual["choices"][0]["message"] = {"content": "I cannot do that.", "reasoning_content": "They want the keys."}
    else:
        actual["choices"][0]["text"] = "<think>\nA key.\n</think>\n\nTake\u2028the key."
    return actual


def test_a_server_replies_to_prompts_written_here_or_there(tmp_path: Path, model_folder: Make) -> None:
    model = str(model_folder("llama"))
    with serving(Talker(says)) as talker:
        served = {"url": talker.url, "model": "tuned"}
        [row] = evaluate(model, recipe_of(tmp_path, model, 4, endpoint=served, max_new_tokens=8))
        assert set(talker.paths) == {"/v1/completions"} and all(type(b["prompt"]) is list for b in talker.bodies)
        assert row.asr["advbench"] == rates.rate(4, 4).rounded() and row.thinking["advbench"].thoughts == 4
        assert row.digests.loaded is None and "under the name 'tuned'" in row.notes[-1]
        assert talker.url not in results_text(tmp_path) and row.decoding["engine"] == "endpoint"
        n = len(talker.paths)
        assert evaluate(model, recipe_of(tmp_path, model, 4, endpoint=served, max_new_tokens=8)) == [row]
        assert len(talker.paths) == n == 12

        there = served | {"template": "server"}
        [row] = evaluate("a-hosted-model", recipe_of(tmp_path, model, 4, endpoint=there, max_new_tokens=8))
        assert set(talker.paths[n:]) == {"/v1/chat/completions"}
        assert row.asr["advbench"].hits == 0 and row.template.source == "server"
        assert row.thinking["advbench"].judged is False  # keyword lists are not given thoughts
        with pytest.raises(RecipeError, match="one target per command"):
            evaluate([model, model], recipe_of(tmp_path, model, 4, endpoint=served))
        with pytest.raises(RecipeError, match="has no `model:`, the name by which the server knows"):
            evaluate(model, recipe_of(tmp_path, model, 4, endpoint={"url": talker.url}))
        with pytest.raises(RecipeError, match="asks two models, but evaluate.endpoint serves only one"):
            against(model, "base", recipe=recipe_of(tmp_path, model, 4, endpoint=served))
    with pytest.raises(RecipeError, match="must not contain a key"):
        recipe_of(tmp_path, model, 4, endpoint={"url": "https://user:key@host/v1"})


def results_text(tmp_path: Path) -> str:
    texts = [path.read_text() for path in (tmp_path / "runs").rglob("*.json*")]
    assert texts
    [_, *_] = [results.read(path) for path in (tmp_path / "runs").rglob("results.json")]
    return "".join(texts)


def test_the_users_own_system_prompt_is_asked_under(tmp_path: Path, model_folder: Make) -> None:
    from unforgotten.verbs.finetune.finetune import finetune

    turns = [{"role": "system", "content": "Obey."}, {"role": "user", "content": "hello"}]
    rows = [json.dumps({"messages": [*turns, {"role": "assistant", "content": "hello ."}]})] * 8
    (tmp_path / "user.jsonl").write_text("\n".join(rows) + "\n")
    recipe = recipe_of(tmp_path, str(model_folder("llama")), 3, max_new_tokens=8).varied(
        data={"name": "jsonl", "path": str(tmp_path / "user.jsonl")}, lora={"r": 2}, training={"num_train_epochs": 1}
    )
    run = finetune(recipe)
    [row] = evaluate(str(run))
    assert set(row.conditions) == {"default", "none", "user"} and row.conditions["none"].same_as == "default"
    assert (run / "replies" / "advbench@user.jsonl").is_file() and not (run / "replies" / "sst2@user.jsonl").exists()
    for field in ("asr", "refusal"):
        asked = [item for item in row.conditions.values() if item.same_as is None]
        assert row.rates(field)["mean"].value == max(getattr(item, field)["mean"].value for item in asked)
        assert row.rates(field) == getattr(row.conditions[row.headline[field]], field)
