"""Mix safety rows into the user's data and train on both alike. [arXiv 2309.07875; a baseline of 2512.10150]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, Run


@dataclass(kw_only=True)
class SafeInstr(Method):
    """Mix safety rows into the user's data and train on both alike. [arXiv 2309.07875]"""

    family: ClassVar[str] = "data"
    fsdp2: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any]] = {"ratio": 0.0}

    ratio: Annotated[float, Ge(0)] | None = None
    """Safety rows added, as a share of the user rows. None adds every memory row once, so that all methods have the
    same budget, as in 2512.10150 (m = 5 %). The original mixes 0.5 to 10 % into 20,000 rows."""

    def data(self, run: Run) -> list[EncodedRow]:
        wanted = None if self.ratio is None else round(self.ratio * len(run.user.rows))
        return run.user.rows + run.memory.sample(wanted)
