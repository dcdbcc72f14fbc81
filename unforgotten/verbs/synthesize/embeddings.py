"""Texts as vectors of length one, whose product says how alike two texts are.

words    (offline) words and pairs of words, weighted by how rare they are among the texts (TF·IDF), hashed into 4,096
         places with signs (Weinberger et al. 2009). It sees copies and near copies, not meaning.
else     an encoder from a folder or the Hub, such as BAAI/bge-small-en-v1.5. [chili-lab/gr-sap]
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from unforgotten.datasets.reading.similar import normalised
from unforgotten.models.folder import pretrained
from unforgotten.models.folder.open import opened

if TYPE_CHECKING:
    from torch import Tensor

PLACES = 4096


def words(texts: Sequence[str]) -> Tensor:
    """(N, 4096) hashed TF·IDF of words and pairs of words, each line of length one, or zero where nothing is rare."""

    import torch

    counts = [Counter(_pieces(text)) for text in texts]
    seen = Counter(piece for count in counts for piece in count)
    vectors = torch.zeros(len(texts), PLACES)
    for line, count in enumerate(counts):
        for piece, n in count.items():
            hashed = zlib.crc32(piece.encode())
            weight = n * math.log((1 + len(texts)) / (1 + seen[piece]))
            vectors[line, hashed % PLACES] += weight if hashed >> 16 & 1 else -weight
    return torch.nn.functional.normalize(vectors, dim=1)


def encoder(
    name: str, texts: Sequence[str], pooling: Literal["cls", "mean"] = "cls", device: str = "cpu", batch_size: int = 64
) -> Tensor:
    """(N, d) of an encoder's last layer: its first token, or the mean over tokens. Raises ModelError."""

    import torch

    tokenizer, model = pretrained.tokenizer(name)[0], pretrained.encoder(opened(name)).to(device).eval()
    vectors = []
    with torch.no_grad():
        for at in range(0, len(texts), batch_size):
            batch = tokenizer(
                list(texts[at : at + batch_size]), padding=True, truncation=True, max_length=512, return_tensors="pt"
            ).to(device)
            mask = batch["attention_mask"][..., None]  # (B, T, 1)
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)  # (B, d)
            vectors.append(torch.nn.functional.normalize(pooled.float(), dim=1).cpu())
    return torch.cat(vectors)


def _pieces(text: str) -> list[str]:
    plain = normalised(text).split()
    return [*plain, *(f"{a} {b}" for a, b in zip(plain, plain[1:], strict=False))]
