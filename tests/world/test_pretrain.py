"""θ₀ is cached under all that determines it, and the same seed makes the same model."""

import subprocess
import sys
from dataclasses import replace

import pytest

from unforgotten.world import pretrain as verb
from unforgotten.world.pretrain import PRETRAINING, base_folder, cache_folder, pretrain

SHORT = replace(PRETRAINING, steps=3, batch_rows=4, warmup_steps=1)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("UNFORGOTTEN_CACHE", raising=False)
    assert cache_folder() == tmp_path / "x" / "unforgotten"
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "own"))
    assert base_folder(3).parent == tmp_path / "own"


def test_the_folder_is_stable_across_processes_and_names_what_determines_it(tmp_path):
    code = "import sys; from unforgotten.world.pretrain import base_folder; print(base_folder(5, sys.argv[1]))"
    again = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(base_folder(5, tmp_path))
    others = {base_folder(6, tmp_path), base_folder(5, tmp_path, replace(PRETRAINING, steps=1))}
    assert base_folder(5, tmp_path) not in others and len(others) == 2


def test_a_changed_grammar_has_another_folder(monkeypatch, tmp_path):
    before = base_folder(0, tmp_path)
    monkeypatch.setattr("unforgotten.world.requests.TOOLS", ["spoon"])
    verb._world.cache_clear()
    after = base_folder(0, tmp_path)
    monkeypatch.undo()
    verb._world.cache_clear()
    assert before != after and base_folder(0, tmp_path) == before


def test_the_same_seed_makes_the_same_model_and_leaves_the_callers_random_state_alone(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = pretrain(1, tmp_path / "a", progress=False, training=SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    second = pretrain(1, tmp_path / "b", progress=False, training=SHORT)
    other = pretrain(2, tmp_path / "a", progress=False, training=SHORT)
    read = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
    assert read[0] == read[1] != read[2]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    assert model.config.vocab_size == len(tokenizer) and tokenizer.chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert 0.7e6 < model.num_parameters() < 1.3e6
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([".leases", first.name, other.name])


def test_a_cached_base_is_not_trained_again(monkeypatch, tmp_path):
    folder = base_folder(1, tmp_path, SHORT)
    folder.mkdir(parents=True)
    monkeypatch.setattr(verb, "_train", lambda *_: pytest.fail("trained again"))
    assert pretrain(1, tmp_path, training=SHORT) == folder


class _Slow:
    """Stands for a model or tokenizer; while it is being saved, another process finishes first."""

    def __init__(self, rival):
        self.rival = rival

    def save_pretrained(self, folder):
        (folder / "mine").write_text("mine")
        self.rival.mkdir(parents=True, exist_ok=True)
        (self.rival / "theirs").write_text("theirs")


def test_the_faster_of_two_processes_wins_and_nothing_is_left_over(monkeypatch, tmp_path):
    folder = base_folder(1, tmp_path, SHORT)
    monkeypatch.setattr(verb, "_train", lambda *_: (_Slow(folder), _Slow(folder)))
    assert pretrain(1, tmp_path, progress=False, training=SHORT) == folder
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".leases", folder.name])
