"""Do token ids and lengths fit a model? Checked by row, before the first step.

An id beyond the embedding ends in an index error, on a GPU in one that names nothing. A position beyond a learned table
does the same; beyond what rotary positions were trained for, a model silently gets worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unforgotten.errors import DataError

_LEARNED = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "wpe_embedding")
"""What modules are called that hold one vector for each position."""
_COMPUTED = ("embed_positions", "pos_encoding")
"""What tables of them are called that are no module (GPT-J, CodeGen, CTRL)."""


def embedding_rows(model: Any) -> int | None:
    """How many token ids the model has a vector for, at its input and its output."""
    counts = []
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module = getattr(module, "base_layer", module)  # a wrapper's out_features is the width
        weight = getattr(module, "weight", None)
        rows = getattr(module, "num_embeddings", None) or getattr(module, "out_features", None)
        rows = rows or (weight.shape[0] if weight is not None and len(weight.shape) == 2 else None)
        counts += [int(rows)] if rows else []
    return min(counts, default=None)


def positions(model: Any) -> tuple[int, str] | None:
    """How many positions the model has, and why; None where it has no bound."""
    for name, module in model.named_modules():
        rows = getattr(module, "num_embeddings", None)
        if rows and name.rpartition(".")[2] in _LEARNED:
            taken = getattr(module, "offset", None) or (getattr(module, "padding_idx", None) or -1) + 1
            return int(rows) - int(taken), "learned positions and no more"
    for name, table in [*model.named_buffers(), *_tables(model)]:
        if name.rpartition(".")[2] in _COMPUTED and table.ndim == 2:
            return int(table.shape[0]), "rows in its table of positions and no more"
    config = model.config.get_text_config(decoder=True)
    if config.model_type == "mpt":
        return int(config.max_seq_len), "positions in its ALiBi table and no more"
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not limit or not (rope or getattr(config, "rope_theta", None)):
        return None  # no positions, or such as have no bound (ALiBi)
    return max([int(limit), *_stretched(rope)]), "rotary positions; beyond them it gets worse without an error"


def _tables(model: Any) -> list[tuple[str, Any]]:
    """Tables that a model keeps as plain attributes."""
    held = [(key, value) for module in model.modules() for key, value in vars(module).items() if key in _COMPUTED]
    return [(key, value) for key, value in held if hasattr(value, "ndim")]


def _stretched(rope: Any) -> list[int]:
    """What scaled rotary positions reach: the factor, times the positions that the model was first trained for."""
    if not isinstance(rope, dict):
        return []
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    inner = [length for value in rope.values() for length in _stretched(value)]
    return inner + ([int(factor * original)] if factor and original else [])


def refuse(rows: Sequence[tuple[str, Sequence[int]]], model: Any, pad_id: int | None = None, room: bool = True) -> None:
    """Raises DataError with every row that does not fit.

    rows: what each is called, and its ids. room: check lengths, too.
    """
    size, reach = embedding_rows(model), positions(model) if room else None
    if size and pad_id is not None and pad_id >= size:
        raise DataError(
            f"The pad token has the id {pad_id}, but the model has only {size} embeddings. Set tokenizer.pad_token to "
            "a token of the model, or enlarge the model with resize_token_embeddings."
        )
    problems = []
    for n, (name, ids) in enumerate(rows, 1):
        line = name.rpartition(":")[2]
        why = []
        if size and ids and (highest := max(ids)) >= size:
            why.append(f"the token id {highest} is beyond the model's {size} embeddings")
        if ids and min(ids) < 0:
            why.append(f"the token id {min(ids)} is negative")
        if reach and len(ids) > reach[0]:
            why.append(f"{len(ids):,} tokens: the model has {reach[0]:,} {reach[1]}")
        if why:
            problems.append((int(line) if line.isdecimal() else n, f"{name + ': ' if name else ''}{'; '.join(why)}"))
    if not problems:
        return
    mend = "Use the model's own tokenizer, or enlarge the model with resize_token_embeddings"
    if reach and any(len(ids) > reach[0] for _, ids in rows):
        mend = f"Set max_length to {reach[0]} or less, or {mend[0].lower()}{mend[1:]}"
    raise DataError(f"{len(problems):,} of {len(rows):,} rows do not fit the model. {mend}.", problems)
