"""Model folders and adapters of a stranger: nothing outside is read, nothing hangs, nothing is exchanged unseen."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from unforgotten.errors import ModelError
from unforgotten.models import fingerprint, load
from unforgotten.models.fingerprint import loaded_digest
from unforgotten.models.folder import adapter as adapters
from unforgotten.models.folder import beneath, place, store
from unforgotten.models.folder.linear import Linear
from unforgotten.models.folder.open import opened, pinned
from unforgotten.models.saved_adapter import bundle
from unforgotten.models.weights.files import Files
from unforgotten.runs import digests

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def edit(file: Path, **more: Any) -> Path:
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return file


def lora(base: Path, name: str = "lora", **more: Any) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **more})
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(base.parent / name)
    return base.parent / name


def sharded(base: Path, names: list[str]) -> None:
    """The same weights in two files of these names (or what the names are to say of them)."""
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    where = {}
    for n, name in enumerate(names):
        part = {t: v for i, (t, v) in enumerate(sorted(tensors.items())) if i % len(names) == n}
        where |= dict.fromkeys(part, name)
        file = base / name if ".." not in name and not name.startswith("/") else base.parent / Path(name).name
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(part, file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


# A2: nothing outside the store is read

LISTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
OPTIONAL = ("vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja", "added_tokens.json", "vocab.json")


@pytest.mark.parametrize("name", [*LISTED, *OPTIONAL, "additional_chat_templates/x.jinja"])
@pytest.mark.parametrize("way", ["absolute", "relative", "over another link"])
def test_a_link_out_of_the_folder_is_refused(name: str, way: str, model_folder: Make) -> None:
    base = model_folder("llama")
    outside = base.parent / "another"
    outside.mkdir()
    (base / name).parent.mkdir(exist_ok=True)
    if (base / name).exists():
        (base / name).rename(outside / "secret")
    else:
        (outside / "secret").write_text("{}")
    target = str(outside / "secret") if way == "absolute" else os.path.relpath(outside / "secret", (base / name).parent)
    if way == "over another link":
        (base / "hop").symlink_to(os.path.relpath(outside, base))
        target = os.path.relpath(base / "hop" / "secret", (base / name).parent)
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(target)
    with pytest.raises(ModelError, match="points out of the folder"):
        opened(base)


@pytest.mark.parametrize("walked", [False, True])
def test_the_walk_by_hand_decides_as_openat2(walked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath, "_known", False if walked else None)
    inside = tmp_path / "store" / "deep"
    inside.mkdir(parents=True)
    (inside / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "store" / "up").symlink_to("deep/../deep/file")
    (tmp_path / "store" / "out").symlink_to("../secret")
    (tmp_path / "store" / "deep" / "back").symlink_to("../../store/deep/file")
    (tmp_path / "store" / "absolute").symlink_to(inside / "file")
    (tmp_path / "store" / "loop").symlink_to("loop")
    (tmp_path / "store" / "folder").symlink_to("..", target_is_directory=True)
    with beneath.root(tmp_path / "store") as top:
        for path in ("deep/file", "up", "./deep//file"):
            actual = beneath.open_file(top, path, "m")
            assert actual is not None and store.small(actual) == b"inside"
        for path in ("out", "deep/back", "absolute", "loop", "folder/secret", "../secret", "/etc/passwd"):
            with pytest.raises(ModelError, match="points out"):
                beneath.open_file(top, path, "m")
        assert beneath.open_file(top, "deep/nothing", "m") is None and beneath.open_file(top, "no/thing", "m") is None


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(kind: str, model_folder: Make) -> None:
    base = model_folder("llama", name="m")
    (base / "merges.txt").unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(base / "merges.txt")
    elif kind == "folder":
        (base / "merges.txt").mkdir()
    else:
        import socket

        before = os.getcwd()
        os.chdir(base)  # a socket's whole path may have 100 characters
        socket.socket(socket.AF_UNIX).bind("merges.txt")
        os.chdir(before)
    with pytest.raises(ModelError, match="merges.txt"):
        opened(base)


@pytest.mark.parametrize("name", ["../another/model.safetensors", "/tmp/model.safetensors", "a/../../x.safetensors"])
def test_a_shard_is_a_file_of_the_folder(name: str, model_folder: Make) -> None:
    base = model_folder("llama")
    sharded(base, [name, "model-2.safetensors"])
    with pytest.raises(ModelError, match="is not a file of this folder|points out of the folder"):
        opened(base)


@pytest.mark.parametrize("name", ["weights.bin", "adapter_model.safetensors", "x.py"])
def test_a_shard_is_a_file_of_whole_weights(name: str, model_folder: Make) -> None:
    base = model_folder("llama")
    sharded(base, [name, "model-2.safetensors"])
    with pytest.raises(ModelError, match="not a file of whole weights"):
        opened(base)


def test_what_config_names_for_weights_is_a_file_of_the_folder(model_folder: Make) -> None:
    base = model_folder("llama")
    edit(base / "config.json", transformers_weights="../another.safetensors")
    with pytest.raises(ModelError, match="points out of the folder"):
        opened(base)


def test_shards_in_sub_folders_are_read_and_decoys_are_not(model_folder: Make) -> None:
    base = model_folder("llama")
    whole = load_file(base / "model.safetensors")
    sharded(base, ["deep/one.safetensors", "two.safetensors"])
    save_file({"model.norm.weight": torch.zeros(32), "decoy": torch.ones(1)}, base / "zz.safetensors")
    save_file({"decoy": torch.ones(1)}, base / "consolidated.safetensors")
    (base / "pytorch_model.bin").write_bytes(b"a pickle")
    (base / "notes.txt").symlink_to("/etc/passwd")
    actual = opened(base)
    assert "zz.safetensors" not in actual.files and "decoy" not in actual.tensors
    assert sorted(p.name for p in actual.path.rglob("*.safetensors")) == ["one.safetensors", "two.safetensors"]
    assert Files(base).names() == sorted(whole)
    assert torch.equal(Files(base)["model.norm.weight"], whole["model.norm.weight"])
    model = load.load_model(str(base))
    assert torch.equal(model.model.norm.weight, whole["model.norm.weight"])


def test_a_pickled_adapter_beside_config_is_never_read(model_folder: Make) -> None:
    adapter = lora(model_folder("llama"))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapters are not read"):
        opened(adapter)


def test_files_that_a_tokenizer_config_names_are_not_followed(model_folder: Make) -> None:
    base = model_folder("llama")
    edit(base / "tokenizer_config.json", vocab_file="/etc/passwd", merges_file="../x", init_inputs=["/etc/passwd"])
    kept = json.loads((opened(base, part="chat").path / "tokenizer_config.json").read_text())
    assert not {"vocab_file", "merges_file", "init_inputs"} & kept.keys() and kept["eos_token"] == "<eos>"
    load.load_chat(str(base))


# an adapter's base


@pytest.mark.parametrize("how", ["absolute", "dots", "relative", "like a Hub id", "none"])
def test_a_path_in_an_adapter_is_not_followed(
    how: str, model_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = model_folder("llama", name="another")
    adapter = lora(base, "mine")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(base)
    named = {"absolute": str(base), "dots": "./mine/../another", "relative": "another", "like a Hub id": "owner/name"}
    edit(adapter / "adapter_config.json", base_model_name_or_path=named.get(how))
    with pytest.raises(ModelError, match=r"as `unaligned_model:` in the recipe"):
        load.load_model(str(adapter))
    if how != "none":
        assert adapters.base_of(opened(adapter).adapter or {}, str(adapter), (None, str(base))) == str(base)
        load.load_model(str(adapter), named=[str(base)])


def test_an_adapter_on_the_hub_id_of_a_public_model_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "gpt2"):
        assert adapters.base_of({"base_model_name_or_path": name}, "x") == name
    for name in ("../owner", "~/x", "/x", "a/b/c", "", "..", "a\\b", "owner/../name"):
        with pytest.raises(ModelError):
            adapters.base_of({"base_model_name_or_path": name}, "x")


# Hub snapshots


@pytest.mark.parametrize("leads", ["models--x--victim/snapshots/a", "victim", "models--y--evil/a"])
def test_a_snapshot_that_is_another_models_is_refused(leads: str, tmp_path: Path) -> None:
    """A ref such as ../../models--x--victim/snapshots/a, or a link in the place of a snapshot, led there."""
    with pytest.raises(ModelError, match="points to .*, outside models--y--evil"):
        place._refuse_another(tmp_path / leads, "y/evil")
    place._refuse_another(tmp_path / "models--y--evil/snapshots/a", "y/evil")


@pytest.mark.parametrize("how", ["link", "ref"])
def test_the_hubs_cache_gives_no_other_models_files(
    how: str, tmp_path: Path, model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub, at = tmp_path / "hub", "a" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    victim, evil = hub / "models--x--victim" / "snapshots" / at, hub / "models--y--evil" / "snapshots" / at
    shutil.copytree(model_folder("llama"), victim)
    evil.parent.mkdir(parents=True)
    (evil.parents[1] / "refs").mkdir()
    ref = at if how == "link" else f"../../models--x--victim/snapshots/{at}"
    (evil.parents[1] / "refs" / "main").write_text(ref)
    if how == "link":
        evil.symlink_to(victim)
    with pytest.raises(ModelError, match="outside models--y--evil"):
        opened("y/evil")


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_pipe_as_a_ref_of_the_hubs_cache_is_not_waited_for(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir(parents=True)
    os.mkfifo(refs / (revision or "main"))
    with pytest.raises(ModelError, match="is not a file"):
        opened("owner/name", revision)


def snapshot(base: Path, home: Path) -> Path:
    """The folder as the Hub's cache keeps it: links of a revision to blobs."""
    revision = "0123456789" * 4
    cached = home / "models--owner--name"
    (cached / "blobs").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots" / revision).mkdir(parents=True)
    for n, file in enumerate(sorted(base.iterdir())):
        shutil.move(file, cached / "blobs" / f"blob{n}")
        (cached / "snapshots" / revision / file.name).symlink_to(f"../../blobs/blob{n}")
    return cached / "snapshots" / revision


@pytest.mark.parametrize("mine", [True, False])
def test_a_hub_snapshot_loads_through_its_links_to_blobs(
    mine: bool, model_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_folder("llama")
    before = loaded_digest(load.load_model(str(base)))
    actual = snapshot(base, tmp_path / "hub")
    if mine:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert loaded_digest(load.load_model(str(actual))) == before
    linked = (opened(actual).path / "model.safetensors").resolve()
    assert linked.is_relative_to(tmp_path / ("hub" if mine else "cache")), "a stranger's snapshot is copied"
    (tmp_path / "hub" / "secret").write_text("{}")
    (actual / "config.json").unlink()
    (actual / "config.json").symlink_to("../../../secret")
    with pytest.raises(ModelError, match="points out"):
        opened(actual)


# the private copy


def test_weights_come_from_a_private_copy_that_no_later_change_reaches(model_folder: Make, cache: Path) -> None:
    base = model_folder("llama")
    with pinned():
        digest = fingerprint.model_digest(str(base))
        tensors = load_file(base / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
        edit(base / "config.json", rms_norm_eps=0.5)
        model = load.load_model(str(base))
        assert model.model.norm.weight.eq(1).all() and model.config.rms_norm_eps != 0.5
        assert fingerprint.model_digest(str(base)) == digest
    assert fingerprint.model_digest(str(base)) != digest
    assert stat.S_IMODE((cache / "models").stat().st_mode) == 0o700
    blobs = list((cache / "models" / "blobs").iterdir())
    assert len(blobs) == 2 and not list((cache / "models" / "parts").iterdir())
    for blob in blobs:
        import hashlib

        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_a_bundled_base_is_never_a_hard_link_into_a_strangers_folder(model_folder: Make, tmp_path: Path) -> None:
    base = model_folder("llama")
    bundle(base, tmp_path)
    assert (base / "model.safetensors").stat().st_nlink == 1
    assert not (tmp_path / "model.safetensors").samefile(base / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    (base / "generation_config.json").unlink()
    (base / "generation_config.json").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="points out"):
        bundle(base, tmp_path)


def test_a_copy_that_does_not_fit_says_what_is_needed(model_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_folder("llama")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ModelError, match="UNFORGOTTEN_CACHE to a larger disk"):
        opened(base)


def test_a_copy_that_is_cut_off_leaves_nothing(
    model_folder: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_folder("llama")

    def full(descriptor: int, part: Path) -> str:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_copied", full)
    with pytest.raises(ModelError, match="No space left"):
        opened(base)
    assert not list((cache / "models" / "parts").iterdir()) and not list((cache / "models" / "blobs").iterdir())


# A4: a digest is of what is opened


def test_a_digest_is_of_all_that_transformers_opens_and_of_nothing_else(model_folder: Make) -> None:
    base = model_folder("llama")
    sharded(base, ["deep/one.safetensors", "two.safetensors"])
    before = fingerprint.model_digest(str(base))
    for name in ("README.md", "trainer_state.json", "notes.txt", "decoy.safetensors", "deep/other.safetensors"):
        (base / name).write_text("{}")
        assert fingerprint.model_digest(str(base)) == before, name
    for name in ("merges.txt", "vocab.txt", "added_tokens.json", "chat_template.jinja", "special_tokens_map.json"):
        (base / name).write_text("{}")
        assert fingerprint.model_digest(str(base)) != before, name
        before = fingerprint.model_digest(str(base))
    tensors = load_file(base / "deep" / "one.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, base / "deep" / "one.safetensors", metadata={"format": "pt"})
    assert fingerprint.model_digest(str(base)) != before


def test_a_forged_time_of_change_hides_no_change(model_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_folder("llama")
    monkeypatch.setattr(store, "SMALL", 100)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # as if the file had lain for long, so that its digest is remembered
    file = base / "model.safetensors"
    first, facts = fingerprint.model_digest(str(base)), file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_mtime_ns == facts.st_mtime_ns
    assert fingerprint.model_digest(str(base)) != first


def test_under_a_gate_every_byte_is_read_again(model_folder: Make, cache: Path) -> None:
    base = model_folder("llama")
    right = fingerprint.model_digest(str(base))
    opened(base)
    blob = (opened(base).path / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with digests.in_full():
        assert fingerprint.model_digest(str(base)) == right
    assert (opened(base).path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


# A5: bounds

NUMBERS: list[dict[str, Any]] = [
    {"vocab_size": 10**12},
    {"vocab_size": -1},
    {"vocab_size": "300"},
    {"num_hidden_layers": 10**9},
    {"num_hidden_layers": 200_000},
    {"num_hidden_layers": 1.5},
    {"intermediate_size": 10**12},
    {"intermediate_size": 2**23, "hidden_size": 2**19},
    {"hidden_size": True},
    {"hidden_size": 10**400},
    {"num_attention_heads": 0},
    {"max_position_embeddings": 10**12},
    {"torch_dtype": "manual_seed"},
    {"dtype": "float99"},
    {"text_config": {"num_hidden_layers": 10**9}},
    {"num_experts": 10**9},
    {"num_local_experts": 10**6, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
    {"attn_implementation": "owner/kernel"},
    {"_attn_implementation": "owner/kernel@main:f"},
    {"model_type": "no such"},
    {"num_hidden_layers": 3},
    {"num_hidden_layers": 250},
    {"hidden_size": 64},
    {"layer_types": ["x"] * 3},
]


@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda n: json.dumps(n)[:50])
def test_a_config_that_its_weights_do_not_bear_is_refused_at_once(numbers: dict[str, Any], model_folder: Make) -> None:
    base = model_folder("llama")
    edit(base / "config.json", **numbers)
    start = time.process_time()
    with pytest.raises(ModelError):
        load.load_model(str(base))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"x": NaN}', '{"x": 1e999}', "[]", ""]
)
def test_json_that_nests_or_is_none_is_refused(text: str, model_folder: Make) -> None:
    base = model_folder("llama")
    (base / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        opened(base)


def test_weights_that_the_files_lack_are_not_made_up(model_folder: Make) -> None:
    base = model_folder("llama")
    tensors = load_file(base / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.*They would be random numbers"):
        load.load_model(str(base))


def header(facts: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(facts).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


A = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header({}, length=10**12),
        header({"a": {**A, "shape": [10**12]}}, b"0000"),
        header({"a": A, "b": A}, b"0000"),
        header({"a": {**A, "data_offsets": [0, 2**63]}}, b"0000"),
        header({"a": {**A, "shape": [-1, -1]}}, b"0000"),
        header({"a": {**A, "dtype": "EVIL"}}, b"0000"),
        header({"a": A}, b"00"),
        header({"a": A}, b"00000000"),
        header({"a": 3}),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_file_is_refused(content: bytes, model_folder: Make) -> None:
    base = model_folder("llama")
    (base / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        opened(base)


def test_patterns_of_an_adapter_are_matched_in_linear_time_and_reach_peft_as_names(model_folder: Make) -> None:
    base = model_folder("llama")
    plain = lora(base, "plain")
    expected = loaded_digest(load.load_model(str(plain), named=[str(base)]))
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        adapter = lora(base, name)
        evil = {
            "target_modules": r"(.*a+)+(.*a+)+$|.*[qv]_proj",
            "exclude_modules": "((a|.)+)+!",
            "layers_pattern": "(x+x+)+y",
        }
        edit(adapter / "adapter_config.json", **{name: evil[name]})
        start = time.process_time()
        assert loaded_digest(load.load_model(str(adapter), named=[str(base)])) == expected
        assert time.process_time() - start < 5
        kept = json.loads((opened(adapter).path / "adapter_config.json").read_text())
        assert sorted(kept["target_modules"])[0] == "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "more",
    [
        {"r": 10**9},
        {"r": 3},
        {"r": -1},
        {"r": "8"},
        {"lora_alpha": "x"},
        {"lora_alpha": 1e300},
        {"rank_pattern": {"q_proj": 10**7}},
        {"rank_pattern": {"q_proj": 64}},
        {"rank_pattern": {r"(a+)+\1": 2}},
        {"alpha_pattern": {r"(?=x)(a|a)*b": 2}},
        {"alpha_pattern": {"a{1000000}": 2}},
        {"modules_to_save": ["((a+)+)+$"]},
        {"target_parameters": ["(a+)+$"]},
        {"target_modules": ["x"] * 20_000},
        {"megatron_config": {"a": 1}, "megatron_core": "os"},
        {"corda_config": {"cache_file": "/etc/passwd"}},
    ],
    ids=lambda m: json.dumps(m)[:50],
)
def test_an_adapter_config_that_its_tensors_do_not_bear_is_refused(more: dict[str, Any], model_folder: Make) -> None:
    adapter = lora(model_folder("llama"))
    edit(adapter / "adapter_config.json", **more)
    start = time.process_time()
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        opened(adapter)
    assert time.process_time() - start < 5


def test_factors_that_an_adapter_lacks_are_not_made_up(model_folder: Make) -> None:
    base = model_folder("llama")
    adapter = lora(base)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors = {n: t for n, t in tensors.items() if "layers.1.self_attn.v_proj" not in n}
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="would be random numbers"):
        load.load_model(str(adapter), named=[str(base)])


def test_keys_as_peft_writes_them_stay_and_others_become_names_of_modules_and_parameters() -> None:
    stem = "base_model.model.model.layers.0.mlp.experts"
    tensors = {f"{stem}.base_layer.lora_A.weight": (16, 32), f"{stem}.lora_A.weight": (8, 48)}
    own = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    own |= {"target_parameters": ["gate_up_proj", "down_proj"], "rank_pattern": {r".*\.gate_up_proj": 4}}
    assert adapters.checked(own, tensors, "m") is own
    other = adapters.checked(own | {"rank_pattern": {r"(.*x?)+\.gate_\w+": 4}}, tensors, "m")
    assert other["rank_pattern"] == {r"model\.layers\.0\.mlp\.experts\.gate_up_proj": 4}


def test_the_linear_engine_agrees_with_python() -> None:
    import random
    import re

    rng = random.Random(0)
    for pattern in (
        "(a+)+b",
        "a|bc",
        r"layers\.1\..*v_proj",
        "[^.]+x{2,3}$",
        "^ab?c*",
        "(v|k)_proj",
        r"\d+\.x",
        "(x|y|zz)*?q",
    ):
        engine = Linear(pattern)
        texts = ["".join(rng.choices("abcxyzqvk_proj.12", k=rng.randint(0, 6))) for _ in range(300)]
        for text in [*texts, "layers.1.mlp.v_proj", "aab", "abxxx", "zzq", "v_proj", "12.x", "acc"]:
            assert engine.fullmatch(text) == bool(re.fullmatch(pattern, text)), (pattern, text)
    start = time.process_time()
    assert not Linear("(a+)+b").fullmatch("a" * 5000)
    assert time.process_time() - start < 2


PATTERNS = [r"(a+)+$", r"(?:\p{L}+)*!", r"(a|a)*\1", r"(x*)*y", r"a*a*a*a*a*a*b", r"(?:(?:a{2,})+)+b", r"(?<n>a)\g<n>"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("where", ["pre_tokenizer", "normalizer"])
def test_a_tokenizer_whose_patterns_could_hang_is_refused(pattern: str, where: str, model_folder: Make) -> None:
    base = model_folder("llama")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}
    part = {"type": "Sequence", "pretokenizers": [split]} if where == "pre_tokenizer" else replace
    edit(base / "tokenizer.json", **{where: part})
    with pytest.raises(ModelError, match=r"tokenizer\.json is refused"):
        load.load_chat(str(base))


@pytest.mark.parametrize("what", ["grows", "tokens", "nests", "cut"])
def test_a_tokenizer_that_fills_memory_or_is_none_is_refused(
    what: str, model_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_folder("llama")
    file = base / "tokenizer.json"
    if what == "grows":
        edit(file, normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000})
    elif what == "tokens":
        monkeypatch.setenv("UNFORGOTTEN_MAX_ADDED_TOKENS", "2")
    elif what == "nests":
        deep: dict[str, Any] = {"type": "Lowercase"}
        for _ in range(300):
            deep = {"type": "Sequence", "normalizers": [deep]}
        edit(file, normalizer=deep)
    else:
        file.write_text(file.read_text()[:1000])
    start = time.time()
    with pytest.raises(ModelError, match=r"tokenizer"):
        load.load_chat(str(base))
    assert time.time() - start < 30


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?| ?[^\s]+|\s+(?!\S)|\s+"
)
REAL = [LLAMA_3, GPT_4O]


@pytest.mark.parametrize("pattern", REAL)
def test_patterns_of_known_tokenizers_pass(pattern: str, model_folder: Make) -> None:
    base = model_folder("llama")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    edit(base / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})
    load.load_chat(str(base))


# run folders


def test_a_run_whose_weights_are_a_link_is_not_followed(model_folder: Make, tmp_path: Path) -> None:
    from unforgotten.models.shelf import part_of

    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter").symlink_to(model_folder("llama"))
    with pytest.raises(ModelError, match="is a link"):
        part_of(run)


def test_an_export_is_of_the_weights_that_the_gate_decided_on(model_folder: Make, tmp_path: Path) -> None:
    from unforgotten.models.shelf import weights_digest_of
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.verbs.gate import check_gated

    run = tmp_path / "run"
    run.mkdir()
    model_folder("llama").rename(run / "model")
    recipe = Recipe(model="owner/name")
    assert check_gated(run, recipe) is None
    decision = {"outcome": "fail", "checks": [{"line": "too high"}], "notes": []}
    weights = weights_digest_of(str(run / "model"), recipe)
    (run / "gate.json").write_text(json.dumps(decision | {"model": {"weights": weights}}))
    actual = check_gated(run, recipe)
    assert actual is not None and (actual.outcome, actual.lines, actual.weights) == ("fail", ("too high",), weights)
    edit(run / "model" / "config.json", rms_norm_eps=0.5)
    with pytest.raises(ModelError, match="weights that its gate did not decide on"):
        check_gated(run, recipe)


def test_a_gate_and_an_export_load_a_copy_even_of_our_own_runs(model_folder: Make, tmp_path: Path) -> None:
    """Whoever writes into the run between its digest and its loading changes nothing."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    (run / "environment.json").write_text("{}")
    model_folder("llama").rename(run / "model")
    weights = run / "model" / "model.safetensors"
    whole = weights.read_bytes()
    assert place.is_ours(run / "model")
    with digests.in_full():
        gated = opened(run / "model")
        assert opened(gated.path).path != run / "model"
    weights.write_bytes(whole[:-4] + b"evil")
    assert (gated.path / "model.safetensors").read_bytes() == whole
    with digests.in_full():  # a folder gathered before with a link into the run is copied too
        linked = opened(gated.path)
        assert not (linked.path / "model.safetensors").resolve().is_relative_to(run)


def test_a_link_put_in_a_folders_place_is_not_followed_within_one_gate(model_folder: Make, tmp_path: Path) -> None:
    mine, other = model_folder("llama"), model_folder("llama", name="other")
    edit(other / "config.json", rms_norm_eps=0.5)
    with pinned(), digests.in_full():
        before = opened(mine)
        mine.rename(tmp_path / "away")
        mine.symlink_to(other)
        assert opened(mine).path == before.path
    assert opened(mine).digest != before.digest


def test_a_gate_reads_the_bytes_of_an_adapters_base_on_the_hub(
    model_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id and revision stay where the cache's bytes change."""
    from huggingface_hub import constants

    from unforgotten.models.shelf import weights_digest_of
    from unforgotten.recipe.recipe import Recipe

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = model_folder("llama")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="owner/name")
    cached = snapshot(base, tmp_path / "hub")
    monkeypatch.setattr("unforgotten.models.folder.place._downloaded", lambda *given: cached)

    def gated() -> str:
        with digests.in_full():
            return weights_digest_of(str(tmp_path / "adapter"), Recipe(model="owner/name"))

    before, plain = gated(), weights_digest_of(str(tmp_path / "adapter"), Recipe(model="owner/name"))
    blob = (cached / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"evil")
    assert gated() != before and weights_digest_of(str(tmp_path / "adapter"), Recipe(model="owner/name")) == plain


def test_only_folders_that_nobody_else_can_write_are_loaded_in_place(model_folder: Make, tmp_path: Path) -> None:
    base = model_folder("llama")
    assert not place.is_ours(base)
    (base / "aligned.json").write_text("{}")
    base.chmod(0o700)
    assert place.is_ours(base)
    (base / "model.safetensors").chmod(0o666)
    assert not place.is_ours(base)


# one way in


def test_nothing_else_opens_a_model_by_its_name() -> None:
    """`from_pretrained` and `snapshot_download` are called in models/ alone."""
    package = Path(digests.__file__).parents[1]
    calls = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                calls.append(f"{file.relative_to(package)}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and any(a.name == "snapshot_download" for a in node.names):
                calls.append(f"{file.relative_to(package)}:{node.lineno}")
    assert {call.partition(":")[0] for call in calls} == {
        "models/folder/pretrained.py",
        "models/folder/skeleton.py",
        "models/folder/place.py",
        "models/real/convert.py",  # a file that was unpacked a moment ago, never a name
    }, calls
