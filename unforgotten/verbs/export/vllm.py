"""Can vLLM serve an export, and with which command? Read off its files; vLLM itself is not asked.

What vLLM takes of adapters [vllm-project/vllm: vllm/lora/peft_helper.py, vllm/config/lora.py]: LoRA of linear layers
with one rank and one alpha, no whole modules (`modules_to_save`), no biases, no DoRA, and a rank up to
`--max-lora-rank`, which is one of a few numbers.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Allowed values of `--max-lora-rank`. 1 is left out, since only newer versions accept it."""


@dataclass(frozen=True)
class VllmCommands:
    """What vLLM can do with one export."""

    why_not: list[str] = field(default_factory=list)
    """Empty if vLLM can serve the export."""
    commands: list[str] = field(default_factory=list)
    """Commands to run one after another, in any folder where the export's path is valid."""

    def lines(self) -> list[str]:
        """For the terminal and the model card."""
        if self.why_not:
            return [
                f"vLLM cannot serve it: {'; '.join(self.why_not)}. Export with `--as merged`: vLLM serves whole "
                "weights."
            ]
        return self.commands


def served(folder: Path, called: str, name: str, max_rank: int) -> VllmCommands:
    """How vLLM serves an export. called: its path in the commands. name: what requests will call the model.

    An adapter whose base is bundled needs that base in a folder of its own, since vLLM reads every safetensors file
    of a model's folder as its weights.
    """
    inside = [f for f in ("chat_template.jinja", "generation_config.json") if (folder / f).is_file()]
    replying = [
        *(["--chat-template", f"{called}/chat_template.jinja"] if "chat_template.jinja" in inside else []),
        *(["--generation-config", called] if "generation_config.json" in inside else []),
    ]
    if not (folder / "adapter_config.json").is_file():
        return VllmCommands(commands=[shlex.join(["vllm", "serve", called, "--served-model-name", name])])
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if why := _why_not(config, folder, max_rank):
        return VllmCommands(why_not=why)
    before: list[str] = []
    base = config["base_model_name_or_path"]
    pinned = ["--revision", config["revision"]] if base and config.get("revision") else []
    if (folder / "config.json").is_file():
        base = f"{called.rstrip('/')}-base"
        present = [
            f for f in ("config.json", "generation_config.json", "chat_template.jinja") if (folder / f).is_file()
        ]
        files = " ".join(shlex.quote(f"{called}/{file}") for file in present)
        globs = f"{shlex.quote(called)}/model*.safetensors* {shlex.quote(called)}/token*"
        before = [f"mkdir {shlex.quote(base)} && ln {files} {globs} {shlex.quote(base)}/"]
    lora = ["--enable-lora", "--max-lora-rank", str(next(r for r in RANKS if r >= int(config["r"])))]
    command = ["vllm", "serve", base, *pinned, *lora, "--lora-modules", f"{name}={called}", *replying]
    return VllmCommands(commands=[*before, shlex.join(command)])


def _why_not(config: dict[str, Any], folder: Path, max_rank: int) -> list[str]:
    from safetensors import safe_open

    reasons = []
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        reasons.append("the adapter is not a plain LoRA")
    if config.get("bias", "none") != "none":
        reasons.append("it trains biases")
    if modules := config.get("modules_to_save"):
        reasons.append(f"it holds whole modules ({', '.join(modules)})")
    if config.get("trainable_token_indices"):
        reasons.append("it trains single tokens of the embedding")
    with safe_open(str(folder / "adapter_model.safetensors"), "pt") as handle:
        ranks = {handle.get_slice(n).get_shape()[0] for n in handle.keys() if ".lora_A." in n}
    if ranks - {config["r"]} or config.get("rank_pattern") or config.get("alpha_pattern"):
        reasons.append("rank or alpha differ from module to module (`--as stacked` makes them one)")
    elif (rank := int(config["r"])) > min(max_rank, RANKS[-1]):
        limit = f"--max-rank {max_rank}" if max_rank <= RANKS[-1] else f"vLLM's largest, {RANKS[-1]}"
        reasons.append(f"its rank {rank} is above {limit}")
    return reasons
