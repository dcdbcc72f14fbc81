"""A recipe that is made to do harm: it is refused at once, by name, and nothing of it is done."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import stat
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError, RecipeError
from unforgotten.recipe.read import load_recipe, parse
from unforgotten.runs import atomic, results, strict_yaml, trust, variables
from unforgotten.verbs.compare.compare import cells

LAUGHS = "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
MERGED = "".join(
    f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
N = 250_000
HOSTILE = {
    "aliases that multiply": ("a: &a [l, l]\n" + LAUGHS, "more than 100,000 values"),
    "merges that multiply": ("a: &a {x: 1}\n" + MERGED, "more than 100,000 values"),
    "a list in itself": ("a: &a [*a]", r"line 1: `\*a` refers to itself"),
    "a mapping in itself": ("model: m\nx: &a {b: [*a]}", r"line 2: `\*a` refers to itself"),
    "lists in lists": ("[" * N, "40 levels of nesting"),
    "mappings in mappings": ("{a: " * (N // 4), "40 levels of nesting"),
    "dashes": ("- " * (N // 2), "40 levels of nesting"),
    "questions": ("? " * (N // 2), "40 levels of nesting"),
    "a long text": ("a: " + "b" * 300_000, "more than 262,144 bytes"),
    "a key twice": ("model: m\nseed: 1\nseed: 2", "line 3: 'seed' appears twice"),
    "a key twice, further in": (
        "model: m\ntraining: {num_train_epochs: 1, 'num_train_epochs': 2}",
        "line 2: 'num_train_epochs' appears twice",
    ),
    "a number as key": ("1: a", "a key must be text, but '1'"),
    "a truth as key": ("model: m\nno: a", "line 2: a key must be text, but 'no'"),
    "a list as key": ("? [a]\n: b", "a list or a mapping is not"),
    "code": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag"),
    "a binary": ("a: !!binary aGk=", "the tag"),
    "a tag of somebody's own": ("a: !mine 1", "the tag '!mine'"),
    "two documents": ("a: 1\n---\nb: 1", "is not YAML"),
    "bad letters": ("a: \x00", "is not YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_yaml_that_is_too_much_is_refused_at_once(case: str, tmp_path: Path) -> None:
    text, said = HOSTILE[case]
    (tmp_path / "r.yaml").write_text(text)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "r.yaml")
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_the_bounds_of_yaml_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strict_yaml.load("a: [[1]]", "x") == {"a": [[1]]}
    monkeypatch.setenv("UNFORGOTTEN_MAX_YAML_DEPTH", "2")
    with pytest.raises(RecipeError, match="2 levels"):
        strict_yaml.load("a: [[1]]", "x")
    monkeypatch.setenv("UNFORGOTTEN_MAX_YAML_DEPTH", "-1")
    with pytest.raises(RecipeError, match="UNFORGOTTEN_MAX_YAML_DEPTH is '-1'"):
        strict_yaml.load("a: [[1]]", "x")


def test_what_a_person_writes_is_read_as_it_is_written() -> None:
    text = "a: &a {x: 1, y: [1.5, 5.0e-5, 20_000]}\nb: {<<: *a, x: 2}\nc: *a\n"
    text += "d: 2026-01-01\ne: 1:30\nf: 010\ng: ~\nh: true"
    assert strict_yaml.load(text, "r.yaml") == {
        "a": {"x": 1, "y": [1.5, 5e-5, 20_000]},
        "b": {"x": 2, "y": [1.5, 5e-5, 20_000]},
        "c": {"x": 1, "y": [1.5, 5e-5, 20_000]},
        "d": "2026-01-01",
        "e": "1:30",
        "f": "010",
        "g": None,
        "h": True,
    }


@pytest.mark.parametrize("value", ["&a [*a]", "{a: 1, a: 2}", "[" * 1000, "!!binary aGk="])
def test_what_set_gives_is_bounded_too(value: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m")
    with pytest.raises(RecipeError, match="--set x"):
        load_recipe(tmp_path / "r.yaml", {"variables.x": value})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate.*finite"),
        ({"training": {"num_train_epochs": float("nan")}}, "training.num_train_epochs"),
        ({"training": {"num_train_epochs": "nan"}}, "training.num_train_epochs"),
        ({"training": {"num_train_epochs": True}}, "training.num_train_epochs.*no numbers"),
        ({"memory": {"share": float("inf")}}, "memory.share"),
        ({"compare": {"seed": [0, True]}}, "compare.seed"),
        ({"compare": {"poison": [-0.5]}}, "compare.poison"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"method": {"name": "der", "weight": float("inf")}}, "weight.*finite"),
        ({"method": {"name": "der", "weight": True}}, "weight.*number"),
        ({"data": {"name": "jsonl", "path": "x", "seed": -1}}, "seed"),
        ({"data": {"name": "jsonl", "path": "x", "n_rows": True}}, "n_rows"),
        ({"sweep": {"fields": {"weight": {"low": 0, "high": float("inf")}}}}, "high"),
        ({"compare": {"seed": list(range(200)), "poison": [0.0, 0.1], "model": ["m"] * 30}}, "12,000 runs"),
    ],
)
def test_a_number_that_is_none_is_refused(tree: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse({"model": "m", **tree})


EVIL = """
import os, pathlib
pathlib.Path({mark!r}).write_text(os.environ.get("HF_TOKEN", "ran"))
raise SystemExit(0)
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that somebody sent, with code beside it, in a folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_of_ours")
    (tmp_path / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "ran")))
    (tmp_path / "private.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    run = tmp_path / "runs" / "run-0123456789ab"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    (run / "trained.json").write_text(json.dumps({"memory_rows": 1, "notes": [], "adapter_mode": "merge"}))
    aligned = {"digest": "0", "base": "owner/name", "revision": None, "full": "owner/name"}
    facts = {"digests": {}, "aligned": aligned | {"adapter": None, "chat": "owner/name", "made": False}}
    (run / "environment.json").write_text(json.dumps(facts))
    return run


ASKS = {
    "code as method": ({"method": "./evil.py:Evil"}, "method names code"),
    "code in a list": ({"method": ["sft", {"name": "./evil.py:Evil"}]}, "method.name names code"),
    "code in settings": ({"settings": {"./evil.py:Evil": {}}}, "settings"),
    "code as data": ({"data": {"name": "evil.py:Evil"}}, "data.name names code"),
    "code by a whole path": ({"data": {"name": "/etc/evil.py:Evil"}}, "data.name names code"),
    "code from above": ({"data": {"name": "../../x.py:Evil"}}, "data.name names code"),
    "code by another suffix": ({"data": {"name": "evil.txt:Evil"}}, "data.name names code"),
    "code of Windows": ({"method": "C:\\x.py:Evil"}, "method names code"),
    "code as safety": ({"safety_data": ["evil.py:Evil"]}, "safety_data names code"),
    "code as replay": ({"replay": ["evil.py:Evil"]}, "replay names code"),
    "code as poison": ({"poison": {"data": "evil.py:Evil"}}, "poison.data names code"),
    "code as judge": ({"evaluate": {"judge": ["./evil.py:Evil"]}}, "evaluate.judge names code"),
    "code as harm": ({"evaluate": {"harm": {"name": "./evil.py:Evil"}}}, "evaluate.harm.name names code"),
    "code that makes safety data": ({"synthesize": {"judge": "./evil.py:Evil"}}, "synthesize.judge names code"),
    "code in a grid": ({"compare": {"method": ["./evil.py:Evil"]}}, "compare.method names code"),
    "code in a search": ({"sweep": {"development": {"harm": ["evil.py:E"], "utility": ["sst2"]}}}, "names code"),
    "a server": ({"evaluate": {"endpoint": {"url": "http://127.0.0.1:9/v1"}}}, "evaluate.endpoint.url names a server"),
    "a key": ({"evaluate": {"judge": {"name": "llama_guard", "key_variable": "HF_TOKEN"}}}, "a variable's name"),
    "a judge's server": ({"evaluate": {"judge": {"name": "llama_guard", "endpoint": "http://x/v1"}}}, "names a server"),
    "a tracker": ({"report_to": ["wandb"]}, "report_to names a tracker"),
    "a variable": ({"model": "${HF_TOKEN}"}, "model asks for an environment variable"),
    "a variable of ours": ({"license": "${UNFORGOTTEN_X:-a}"}, "license asks for an environment variable"),
    "a bare variable": ({"data": {"name": "jsonl", "path": "owner/$HF_TOKEN"}}, "data.path names"),
    "another's data": ({"data": {"name": "jsonl", "path": "private.jsonl"}}, "data.path names 'private.jsonl'"),
    "a whole path": ({"data": {"name": "jsonl", "path": "/etc/passwd"}}, "data.path names '/etc/passwd'"),
    "a home": ({"safety_data": [{"name": "refusals", "path": "~/x"}]}, "safety_data.path names '~/x'"),
    "a model's folder": ({"model": "../shared/models/lab"}, "model names"),
    "a model here": ({"model": "runs/run-0123456789ac"}, "model names 'runs/"),
    "a base": ({"unaligned_model": "/models/other-tenant"}, "unaligned_model names"),
    "a template": ({"template": "/etc/passwd"}, "template names"),
    "models of a grid": ({"compare": {"model": ["/models/a"]}}, "compare.model names"),
    "an encoder": ({"synthesize": {"embedder": "/models/a"}}, "synthesize.embedder names"),
    "a file above": ({"extends": "../../private.yaml"}, "extends names"),
    "a file here": ({"extends": "private.yaml"}, "extends names"),
}


@pytest.mark.parametrize("case", ASKS)
def test_a_strangers_recipe_does_nothing_on_its_own(case: str, stranger: Path) -> None:
    asked, said = ASKS[case]
    (stranger.parent / "run-0123456789ac").mkdir()
    (stranger.parent.parent / "private.yaml").write_text("model: m\nmethod: ./evil.py:Evil\n")
    (stranger / "recipe.yaml").write_text(yaml.safe_dump({"model": "owner/name"} | asked))
    with pytest.raises(RecipeError, match=f"{re.escape(said)}.*--recipe FILE.*--trust-recipe") as error:
        load_recipe(stranger / "recipe.yaml")
    assert "hf_a_secret_of_ours" not in str(error.value)
    done = CliRunner().invoke(app, ["evaluate", str(stranger)])
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    verbs = [
        ["finetune", f"{stranger}/recipe.yaml"],
        ["evaluate", "owner/other", "--recipe", f"{stranger}/recipe.yaml"],
    ]
    verbs += [["export", str(stranger), "--as", "adapter"]] if "code" in case else []  # which opens no data
    for verb in verbs:
        done = CliRunner().invoke(app, verb)
        assert done.exit_code not in (0, 3, 4) and "hf_a_secret_of_ours" not in done.output
    assert not (stranger.parent.parent / "ran").exists()


def test_what_it_extends_is_a_strangers_too(stranger: Path) -> None:
    (stranger / "below.yaml").write_text("model: owner/name\nmethod: ./evil.py:Evil\n")
    (stranger / "recipe.yaml").write_text("extends: below.yaml\n")
    with pytest.raises(RecipeError, match="below.yaml: method names code"):
        load_recipe(stranger / "recipe.yaml")
    mine = stranger.parent.parent / "mine.yaml"
    mine.write_text(f"extends: {stranger}/recipe.yaml\nseed: 3\n")
    with pytest.raises(RecipeError, match="below.yaml: method names code"):
        load_recipe(mine)
    linked = stranger.parent.parent / "linked.yaml"
    linked.symlink_to(stranger / "recipe.yaml")
    with pytest.raises(RecipeError, match="run folder that was not trained here"):
        load_recipe(linked)


def test_what_a_flag_gives_is_the_operators(stranger: Path) -> None:
    (stranger / "recipe.yaml").write_text("model: owner/name\nevaluate: {harm: advbench}\n")
    recipe = load_recipe(stranger / "recipe.yaml", {"evaluate.endpoint.url": "http://127.0.0.1:9/v1"})
    assert recipe.origin == recipe.varied(seed=1).origin == "foreign"
    assert recipe.evaluate is not None and recipe.evaluate.endpoint is not None


def test_a_run_that_was_trained_here_is_ours(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stranger / "recipe.yaml").write_text("model: owner/name\ndata: {name: jsonl, path: private.jsonl}\n")
    with pytest.raises(RecipeError, match="data.path"):
        load_recipe(stranger / "recipe.yaml")
    trust.own(stranger)
    assert load_recipe(stranger / "recipe.yaml").origin == "operator"
    (stranger / "recipe.yaml").write_text("model: owner/name\ndata: {name: jsonl, path: ./private.jsonl}\n")
    with pytest.raises(RecipeError, match="data.path"):  # somebody wrote another one into it
        load_recipe(stranger / "recipe.yaml")
    monkeypatch.setenv("UNFORGOTTEN_TRUST_RECIPE", "1")
    assert load_recipe(stranger / "recipe.yaml").origin == "operator"


def test_no_user_code_forbids_the_operators_too(stranger: Path) -> None:
    (here := stranger.parent.parent / "mine.yaml").write_text("model: owner/name\nmethod: ./evil.py:Evil\n")
    for words in (["--no-user-code", "finetune", str(here)], ["finetune", str(here), "--no-user-code"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2 and "--no-user-code" in done.output
    assert "UNFORGOTTEN_NO_USER_CODE" not in os.environ and not (here.parent / "ran").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(0)", "SystemExit in line 1: 0"),
        ("import sys\nsys.exit()", "SystemExit in line 2"),
        ("class Odd(BaseException): pass\nraise Odd('so')", "Odd in line 2: so"),
        ("1 / 0", "ZeroDivisionError in line 1"),
        ("def f(", "SyntaxError"),
        ("import no_such_package_of_ours", "ModuleNotFoundError in line 1: No module named 'no_such_package_of_ours'"),
    ],
)
def test_code_that_ends_the_program_is_an_error(text: str, said: str, stranger: Path) -> None:
    (stranger.parent.parent / "odd.py").write_text(text)
    (stranger.parent.parent / "mine.yaml").write_text("model: owner/name\nmethod: ./odd.py:Odd\n")
    done = CliRunner().invoke(app, ["finetune", "mine.yaml"])
    assert done.exit_code == 2 and f"odd.py cannot be imported: {said}" in done.output.replace("\n", " ")


def test_code_that_ends_the_program_later_is_an_error_too(stranger: Path) -> None:
    (here := stranger.parent.parent / "rows.py").write_text(
        "import sys\nfrom dataclasses import dataclass\nfrom unforgotten.datasets.base import Dataset\n"
        "@dataclass(kw_only=True)\nclass Rows(Dataset):\n    made: bool = False\n"
        "    def __post_init__(self):\n        if self.made: sys.exit(0)\n"
        "    def rows(self):\n        sys.exit(0)\n"
    )
    (here.parent / "mine.yaml").write_text("model: world\ndata: ./rows.py:Rows\n")
    for words in (["finetune", "mine.yaml"], ["finetune", "mine.yaml", "--set", "data.made=true"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2 and "ended the program" in done.output


def test_a_run_that_results_name_lies_beside_the_others(stranger: Path) -> None:
    row: dict[str, object] = dict.fromkeys(results.FIELDS) | {"stage": "tuned"}
    for run in ("../../etc", "/etc"):
        (stranger / "results.json").write_text(json.dumps({"schema": 1, "rows": [row | {"run": run}]}))
        with pytest.raises(DataError, match="row 1: .*run: "):
            results.read(stranger / "results.json")


def test_only_variables_of_ours_are_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_of_ours")
    monkeypatch.setenv("UNFORGOTTEN_DATA", "/data/of/mine")
    (file := tmp_path / "r.yaml").write_text("model: ${UNFORGOTTEN_DATA}/m\nlicense: ${HF_TOKEN}\n")
    with pytest.raises(RecipeError, match=r"\$\{HF_TOKEN\} is not expanded.*--allow-env HF_TOKEN") as error:
        load_recipe(file)
    assert "hf_a_secret" not in str(error.value)
    recipe = load_recipe(file, allow_env=["HF_TOKEN"])
    assert (recipe.model, recipe.license) == ("/data/of/mine/m", "hf_a_secret_of_ours")
    for one in (recipe, recipe.varied(seed=3), cells(recipe)[0], pickle.loads(pickle.dumps(recipe))):
        facts = one.record()
        assert (facts["model"], facts["license"]) == ("${UNFORGOTTEN_DATA}/m", "${HF_TOKEN}")
    with pytest.raises(DataError, match="--allow-env HF_TOKEN"):
        files.expand("$HF_TOKEN/x")
    with pytest.raises(DataError, match="There is no file") as missing:
        files.local("${UNFORGOTTEN_DATA}/x")
    assert "/data/of/mine" not in variables.hidden(str(missing.value))


def test_a_value_is_not_filled_in_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_ONE", "${HF_TOKEN}-$HOME-x")
    recipe = parse({"model": "${UNFORGOTTEN_ONE}"})
    assert recipe.model == recipe.varied(seed=1).model == "${HF_TOKEN}-$HOME-x"


def test_errors_do_not_repeat_what_was_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNFORGOTTEN_SECRET", "s3cret-value")
    monkeypatch.setenv("MY_TOKEN", "s3cret-token")
    monkeypatch.setenv("UNFORGOTTEN_ALLOW_ENV", "MY_TOKEN")
    for tree in (
        {"training": {"num_train_epochs": "${UNFORGOTTEN_SECRET}"}},
        {"seed": "x${MY_TOKEN}"},
        {"method": {"name": "der", "weight": "${MY_TOKEN}"}},
        {"method": "${MY_TOKEN}"},
        {"evaluate": {"endpoint": {"url": "ftp://${MY_TOKEN}"}}},
        {"data": {"name": "jsonl", "path": "x", "kind": "${MY_TOKEN}"}},
        {"date": "${MY_TOKEN}"},
        {"compare": {"table": "${MY_TOKEN}"}},
    ):
        with pytest.raises(RecipeError) as error:
            parse({"model": "m", **tree})
        assert "s3cret" not in str(error.value), tree
    atomic.put(tmp_path / "a" / "x.json", "token s3cret-token, data s3cret-value")
    assert (tmp_path / "a" / "x.json").read_text() == "token ${MY_TOKEN}, data s3cret-value"


def test_run_folders_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        atomic.put(tmp_path / "runs" / "one" / "x.json", "{}")
        assert [stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("runs", "runs/one")] == [0o700, 0o700]
        os.umask(0o077)
        monkeypatch.setenv("UNFORGOTTEN_RUNS_MODE", "755")
        assert stat.S_IMODE(atomic.private_folder(tmp_path / "two").stat().st_mode) == 0o755
        monkeypatch.setenv("UNFORGOTTEN_RUNS_MODE", "rwx")
        with pytest.raises(RecipeError, match="UNFORGOTTEN_RUNS_MODE"):
            atomic.private_folder(tmp_path / "three")
    finally:
        os.umask(before)
