"""Sizes at which the loss is computed in chunks; plans and training read the same."""

from __future__ import annotations

AUTO_VOCABULARY = 32_000
"""From this vocabulary on `loss: auto` is chunked, under a frozen head. A step's time over the Trainer's, of narrow
models on a CPU: about 0.5 where half of the tokens are prompts, 0.96 to 1.07 where none are; a trained head, which is
run twice, 0.8 and 1.3 to 1.6. Smaller chunks are slower (1.1 at a quarter of the size, 1.6 at a sixteenth)."""


CHUNK_ELEMENTS = 1 << 24
"""Logits alive at once: 64 MB in fp32, once under a plain head and a few times over under another. On a GPU twice that,
so that reading the head's weights for each chunk does not take longer than its products (reckoned, not measured)."""
