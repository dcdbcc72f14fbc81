"""WildJailbreak: 261,559 requests with safe answers, harmful and harmless, plain and disguised (arXiv 2406.18510).

Read as its card says: load_dataset(…, delimiter="\\t", keep_default_na=False).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Dataset, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError, RecipeError
from unforgotten.registry import Count, Seed

Type = Literal["vanilla_harmful", "vanilla_benign", "adversarial_harmful", "adversarial_benign"]
VANILLA: list[Type] = ["vanilla_harmful", "vanilla_benign"]
ADVERSARIAL: list[Type] = ["adversarial_harmful", "adversarial_benign"]
_BLANK_SHARE = 0.01


@dataclass(kw_only=True)
class Wildjailbreak(Dataset):
    """Harmful requests with refusals, harmless look-alikes with answers, and prompts for evaluation.

    The published files are quoted and tab-separated. Every cell is read as text, even if it is "None" or empty; pandas
    by default reads those as missing values.
    """

    kind_field: ClassVar[str] = "types"

    path: str = "allenai/wildjailbreak"
    """A Hub id (gated) with the configs train and eval, or train/train.tsv or eval/eval.tsv of its repository."""
    part: Literal["train", "eval"] = "train"
    """`train`: requests with answers. `eval`: 2,210 disguised prompts without answers, 2,000 harmful and 210
    harmless."""
    types: list[Type] | None = None
    """Types of rows: vanilla_ (plain: 50,050 harmful, 50,050 benign) or adversarial_ (disguised). Left out: both
    vanilla types of train, both types of eval. For evaluation, name one type, so that harmful and harmless prompts
    stay separate."""
    n_rows: Count | None = None
    """Number of rows of these types to draw, in their order. Left out, all are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def __post_init__(self) -> None:
        if self.types is not None and not self.types:
            raise RecipeError("wildjailbreak: `types` is empty. Name types, or leave it out.")
        if plain := [t for t in self.types or [] if self.part == "eval" and t in VANILLA]:
            raise RecipeError(f"wildjailbreak: eval has no {plain[0]} rows, only {' and '.join(ADVERSARIAL)}.")

    @property
    def label(self) -> str:
        """wildjailbreak for the training rows; eval and the types chosen are added."""
        return "-".join(["wildjailbreak", *(["eval"] if self.part == "eval" else []), *(self.types or [])])

    def rows(self) -> list[Row]:
        """The request as it is asked (`vanilla` or `adversarial`), with its completion where the part has any."""
        columns = {"data_type": ("data_type",)}
        records = files.read_columns(
            self.path,
            columns,
            quoted=True,
            config=self.part,
            delimiter="\t",
            keep_default_na=False,
            instead=f"its repository's {self.part}/{self.part}.tsv",
        )
        wanted = self.types or (VANILLA if self.part == "train" else ADVERSARIAL)
        rows, strange, blank, seen = [], [], [], 0
        for line, source, value in records:
            kind = value["data_type"]
            if kind not in (*VANILLA, *ADVERSARIAL):
                strange.append((line, f"data_type {kind!r} is none of {', '.join((*VANILLA, *ADVERSARIAL))}"))
            if kind not in wanted:
                continue
            seen += 1
            needed = ["vanilla" if kind in VANILLA else "adversarial"] + ["completion"] * (self.part == "train")
            if lacking := [name for name in needed if not str(value.get(name) or "").strip()]:
                blank.append((line, f"{kind} without {' and '.join(lacking)} (columns: {', '.join(value)})"))
                continue
            texts = [str(value[name]) for name in needed]
            harm: Literal["harmful", "benign"] = "harmful" if kind.endswith("harmful") else "benign"
            rows.append(ask(*texts, kind=harm, category=kind, source=source))
        # The script that made ai2-adapt-dev/processed-wildjailbreak of it leaves out rows without prompt or answer: a
        # few, if any. Many of them mean that the file is another one.
        if strange or len(blank) > _BLANK_SHARE * seen:
            raise DataError(f"{self.path} is not WildJailbreak's {self.part} part:", sorted(strange + blank))
        if not rows:
            raise DataError(f"{self.path} has no rows of {' or '.join(wanted)}.")
        return files.sample(rows, self.n_rows, self.seed, f"{self.path}, {' and '.join(wanted)}", self.most_rows)
