"""Published facts about data sets and models that are not on this machine: rows, lengths, shapes, terms to accept.

Only `--dry-run` uses them, since it must answer offline; a run reads the data and models themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from unforgotten.verbs.plan.costs import Shape

SHAPES = {
    # config.json of each, from the Hub
    "meta-llama/Llama-2-7b-hf": Shape(4096, 32, 11008, 32, 32, 128, 32000, dtype="float16"),
    "mistralai/Mistral-7B-v0.3": Shape(4096, 32, 14336, 32, 8, 128, 32768),
    "google/gemma-2-2b": Shape(2304, 26, 9216, 8, 4, 256, 256000, tied=True, dtype="float32", norms=4),
    # config.json as they are converted
    "smollm2": Shape(576, 30, 1536, 9, 3, 64, 49152, tied=True, dtype="float32"),
    "gemma3": Shape(640, 18, 2048, 4, 1, 256, 262144, tied=True, dtype="float32", norms=4),
    "meta-llama/Llama-Guard-3-8B": Shape(4096, 32, 14336, 32, 8, 128, 128256),
    "allenai/wildguard": Shape(4096, 32, 14336, 32, 8, 128, 32768),
}

TERMS = {
    # Hub id: what its page asks for before a download, as of 2025
    "meta-llama/Llama-2-7b-hf": "Meta's Llama 2 licence, granted on request",
    "meta-llama/Llama-Guard-3-8B": "Meta's Llama 3.1 licence, granted on request",
    "mistralai/Mistral-7B-v0.3": "may ask to share contact details, as in 2024",
    "google/gemma-2-2b": "Google's Gemma terms",
    "allenai/wildguard": "AI2's Responsible Use Guidelines",
    "allenai/wildjailbreak": "AI2's Responsible Use Guidelines",
    "walledai/AdvBench": "its terms; the same requests are open as harmful_behaviors.csv of llm-attacks/llm-attacks",
    "LLM-Tuning-Safety/HEx-PHI": "its terms, granted by hand",
}


class Published(NamedTuple):
    """A data set's published size."""

    rows: dict[str, int]
    """Rows of each part, by the value of the field that chooses a part. "" if the set has only one part."""
    prompt: int
    """Mean length in characters."""
    response: int = 0
    measured: bool = False
    """True: the lengths were measured on the published file. False: they are assumed."""
    download_gb: float = 0.0
    longest: int | None = None
    """Characters of the longest row, if this was measured too."""

    def of(self, settings: dict[str, Any]) -> int | None:
        """Rows of the part that the settings choose."""
        if types := settings.get("types"):
            return sum(self.rows.get(str(kind), 0) for kind in types) or None
        chosen = [self.rows[str(value)] for value in settings.values() if str(value) in self.rows]
        return min(chosen) if chosen else self.rows.get("")


SETS = {
    "gsm8k": Published({"train": 7473, "test": 1319}, 236, 288, True, 0.01, 2213),
    "sst2": Published({"train": 67349, "validation": 872}, 130, 8, True, 0.01, 360),
    "humaneval": Published({"": 164}, 560, 181, True, 0.01),
    "humaneval_plus": Published({"": 164}, 560, 181, True, 0.01),
    "advbench": Published({"": 520}, 73, 0, True, 0.01),
    "xstest": Published({"safe": 250, "unsafe": 200}, 44, 0, True, 0.01),
    "directharm4": Published({"": 400}, 90, 0, False, 0.01),
    "hexphi": Published({"": 300}, 150, 0, False, 0.01),
    "or_bench": Published({"80k": 1000, "hard-1k": 1319, "toxic": 655}, 120, 0, False, 0.02),
    "wildjailbreak": Published({"vanilla_harmful": 50050, "vanilla_benign": 50050, "eval": 2210}, 100, 900, False, 0.6),
    "beavertails": Published({}, 80, 300, False, 0.05),
    "nemotron_code": Published({"": 20000}, 1800, 2200, False, 1.0),
}
"""Rows are from the sets' cards and papers (docs/datasets.md); of or_bench's 80k part, the number drawn by default."""
