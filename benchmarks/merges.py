"""Weight edits of a 2 GB checkpoint on disk: peak anonymous memory, and time over one pass that does nothing but I/O.

The checkpoint is made on the spot in the shapes of Llama 3.2 1B (V 128,256, d 2,048; fewer layers), three times.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks import memory
from benchmarks.measure import Figure, of_pairs, paired
from unforgotten.models.weights import peft_format
from unforgotten.models.weights.base import ByRows

GROUP = "merges"
HIDDEN, INNER, VOCABULARY, KV, LAYERS = 2048, 8192, 128_256, 512, 12
ROLES = ("base", "aligned", "tuned")
ALLOWED_BYTES = 3 * 4 * 2**18 + 300 * 10**6
"""Three row-chunks in fp32 of 2^18 numbers, as edits are made, and 300 MB."""


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Weight edits through `repair`, and the merge of whole models in memory as peers write it."""
    room = Path(tempfile.mkdtemp(prefix="bench-merge-"))
    cache = os.environ.get("UNFORGOTTEN_CACHE")
    os.environ["UNFORGOTTEN_CACHE"] = str(room / "cache")  # whole models are copied there, and would stay
    try:
        size = make(room)
        said = f"{size / 1e9:.1f} GB a model"
        plain = _wall(lambda: one_pass(str(room)), room)
        small = room / "one layer"
        make(small, layers=1)
        for method, where in (("magmax", room), ("interpolate", room), ("safelora", small), ("safemerge", small)):
            held = memory.peak("merges", "repaired", room=str(where), method=method)
            shutil.rmtree(where / "out")
            yield Figure(
                name=f"peak anonymous memory of repair ({method}) over 3 row-chunks + 300 MB",
                ratio=held / ALLOWED_BYTES,
                reach=1.0,
                note=f"{held / 1e6:,.0f} MB of {ALLOWED_BYTES / 1e6:,.0f}; "
                + (f"{said}." if where == room else "one layer of the same model, since dense products take minutes."),
                group=GROUP,
            )
        held = memory.peak("merges", "in_memory", room=str(room))
        shutil.rmtree(room / "out")
        yield Figure(
            name="peak anonymous memory of a merge in memory over 3 row-chunks + 300 MB",
            ratio=held / ALLOWED_BYTES,
            reach=None,
            note=f"{held / 1e6:,.0f} MB: the obvious opponent.",
            group=GROUP,
        )
        ours = _wall(lambda: repaired(str(room), "magmax"), room)
        name = "repair (magmax) over one pass of reads, casts and a write"
        yield of_pairs(name, paired(ours, plain, 3), 1.5, note=said, group=GROUP)
        floor = _wall(lambda: one_pass(str(room), by_rows=True), room)
        yield of_pairs(f"{name}, by rows", paired(ours, floor, 3), None, note="The floor of such an edit.", group=GROUP)
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.environ.pop("UNFORGOTTEN_CACHE")
        if cache is not None:
            os.environ["UNFORGOTTEN_CACHE"] = cache


def make(room: Path, layers: int = LAYERS) -> int:
    """Three folders of weights in bf16; returns the bytes of one."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qo"}
        shapes |= {f"{at}self_attn.{n}_proj.weight": (KV, HIDDEN) for n in "kv"}
        shapes |= {f"{at}mlp.{n}_proj.weight": (INNER, HIDDEN) for n in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (HIDDEN, INNER), f"{at}input_layernorm.weight": (HIDDEN,)}
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(HIDDEN * 1024, generator=generator) * 0.02
    other = torch.randn(HIDDEN * 1021, generator=generator) * 1e-3
    for role, moved in zip(ROLES, (0, 1, 2), strict=True):
        tensors = {}
        for n, shape in shapes.items():
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            whole = some.repeat(-(-count // len(some)))[:count]
            if moved:
                whole += other.roll(moved).repeat(-(-count // len(other)))[:count]
            tensors[n] = whole.reshape(shape).to(torch.bfloat16)
        (room / role).mkdir(parents=True)
        save_file(tensors, room / role / "model.safetensors", metadata={"format": "pt"})
        (room / role / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    _safety_adapter(room, shapes)
    return (room / "base" / "model.safetensors").stat().st_size


def _safety_adapter(room: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """An adapter of rank 8 on every layer of `aligned`, with a link to its weights, as a run bundles them."""
    generator = torch.Generator().manual_seed(1)
    modules = [n.removesuffix(".weight") for n in shapes if "_proj" in n]
    tensors = {}
    for module in modules:
        out, into = shapes[f"{module}.weight"]
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = 1e-3 * torch.randn(8, into, generator=generator)
        tensors[f"{stem}.lora_B.weight"] = 1e-3 * torch.randn(out, 8, generator=generator)
    peft_format.save(room / "safety", tensors, 8, modules)
    shutil.copyfile(room / "aligned" / "config.json", room / "safety" / "config.json")
    (room / "safety" / "model.safetensors").hardlink_to(room / "aligned" / "model.safetensors")


def repaired(room: str, method: str) -> None:
    """`unforgotten repair`."""
    from unforgotten.verbs.repair.repair import repair

    base, aligned, tuned = (f"{room}/{role}" for role in ROLES)
    edit: dict[str, object] = {"name": method}
    if method == "safemerge":  # every layer is merged
        edit |= {"safety_adapter": f"{room}/safety", "threshold": 1.0}
    repair(edit, unaligned_model=base, aligned=aligned, tuned=tuned, out=f"{room}/out")


def one_pass(room: str, by_rows: bool = False) -> None:
    """Reads three files tensor by tensor, or some rows at a time, casts each to fp32, writes one in bf16.

    By rows it is the floor of any such edit: what is read is still in the processor's cache when it is cast.
    """
    out = Path(room) / "out"
    out.mkdir()
    files = [safe_open(f"{room}/{role}/model.safetensors", "pt") for role in ROLES]
    with (out / "model.safetensors").open("wb") as target:
        for name in sorted(files[0].keys()):
            whole = [file.get_tensor(name) for file in files]
            rows = ByRows.rows_a_part(tuple(whole[0].shape)) if by_rows else len(whole[0])
            for some in zip(*(w.split(rows) for w in whole), strict=True):
                wide = [w.float() for w in some]
                wide[-1].to(torch.bfloat16).view(torch.uint8).numpy().tofile(target)


def in_memory(room: str) -> None:
    """MagMax with three state dicts, as task-vector code has it."""
    base, aligned, tuned = (load_file(f"{room}/{role}/model.safetensors") for role in ROLES)
    merged = {}
    for name, zero in base.items():
        first, second = aligned[name] - zero, tuned[name] - zero
        merged[name] = zero + torch.where(second.abs() >= first.abs(), second, first)
    (Path(room) / "out").mkdir()
    save_file(merged, f"{room}/out/model.safetensors")


def _wall(work: Callable[[], None], room: Path) -> Callable[[], float]:
    """Seconds on the wall, since reading and writing are not the processor's; what was written is deleted after."""

    def run() -> float:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        shutil.rmtree(room / "out")
        return seconds

    return run
