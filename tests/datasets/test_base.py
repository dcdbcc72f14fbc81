"""What holds for every data set: `most_rows` bounds its rows, and `n_rows` promises them."""

from dataclasses import dataclass

import pytest

from unforgotten.datasets.base import Dataset, Row, ask, bounded
from unforgotten.datasets.lookalikes import Lookalikes
from unforgotten.datasets.refusals import Refusals
from unforgotten.datasets.tasks import Tasks
from unforgotten.datasets.world import World
from unforgotten.errors import DataError
from unforgotten.recipe.data_sets import DataSets, dataset
from unforgotten.recipe.read import parse


@dataclass(kw_only=True)
class Elsewhere(Dataset):
    """A set of another package, which knows neither `n_rows` nor `most_rows`."""

    def rows(self) -> list[Row]:
        return [ask(str(i)) for i in range(20)]


@pytest.fixture
def sets(write):
    lines = "".join(f'{{"prompt": "ask {i}", "refusal": "i cannot"}}\n' for i in range(30))
    file = str(write("r.jsonl", lines))
    return [
        (Lookalikes, {}, 345),
        (Tasks, {}, 390),
        (World, {"part": "sums_test"}, 200),
        (Refusals, {"path": file}, 30),
    ]


def test_a_bound_draws_as_many_and_takes_all_of_a_smaller_set(sets) -> None:
    for cls, fields, there in sets:
        every = cls(**fields).rows()
        assert len(every) == there == len(cls(**fields, most_rows=there + 1).rows())
        few = cls(**fields, most_rows=7).rows()
        assert few == cls(**fields, n_rows=7).rows() and len(few) == 7
        assert (
            cls(**fields, n_rows=20, most_rows=7).rows() == few
            and len(cls(**fields, n_rows=5, most_rows=7).rows()) == 5
        )


def test_a_bound_does_not_hide_that_a_set_has_fewer_rows_than_promised(sets) -> None:
    for cls, fields, _ in sets:
        with pytest.raises(DataError, match="n_rows is 9999, but there are"):
            cls(**fields, n_rows=9999, most_rows=7).rows()


def test_a_set_that_does_not_heed_its_bound_is_drawn_from() -> None:
    assert len(bounded(Elsewhere())) == 20 == len(bounded(Elsewhere(most_rows=21)))
    few = [row.request for row in bounded(Elsewhere(most_rows=6))]
    assert len(few) == 6 and few == sorted(few, key=int) and few != [str(i) for i in range(6)]


def test_a_trial_takes_all_of_a_set_with_fewer_rows(write) -> None:
    file = str(write("p.jsonl", "".join(f'{{"prompt": "ask {i}"}}\n' for i in range(25))))
    recipe = parse(
        {
            "model": "m",
            "rows": 300,
            "safety_data": [{"name": "refusals", "path": file}, "lookalikes"],
            "evaluate": {"harm": {"name": "refusals", "path": file}, "utility": {"name": "world", "part": "sums_test"}},
        }
    )
    assert recipe.evaluate is not None
    specs = [*recipe.safety_data, *recipe.evaluate.harm, *recipe.evaluate.utility]
    assert [len(DataSets().read(spec).rows) for spec in specs] == [25, 300, 25, 200]
    assert [len(dataset(spec).rows()) for spec in specs] == [25, 300, 25, 200]
