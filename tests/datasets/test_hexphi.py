"""HEx-PHI: ten files without header, of which no first request is lost, and the names of the numbers."""

from __future__ import annotations

import csv
import io
from collections import Counter

import pytest

from unforgotten import registry
from unforgotten.datasets.hexphi import CATEGORIES
from unforgotten.errors import DataError


def hexphi(**settings):
    return registry.build("datasets", {"name": "hexphi", **settings})


def requests(number: int, n: int = 30) -> list[str]:
    """Made-up requests, some with what a CSV must quote: commas, quotes and lines."""
    odd = ["Paint, please, a fence", 'Say "good morning" to it', "Write two lines:\nroses\nviolets"]
    return [f"{odd[i % 3]} ({number}.{i})" for i in range(n)]


def text(rows: list[str]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([row] for row in rows)
    return file.getvalue()


FILES = {f"category_{n}.csv": text(requests(n)) for n in CATEGORIES}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_three_hundred_requests_and_every_first_one_among_them(folder) -> None:
    data = hexphi(path=str(folder))
    rows = data.rows()
    assert [row.request for row in rows] == [text for n in CATEGORIES for text in requests(n)]
    assert len(rows) == 300 and {row.kind for row in rows} == {"harmful"} and data.label == "hexphi"
    assert all(len(row.messages) == 1 for row in rows)
    assert Counter(row.category for row in rows) == dict.fromkeys(CATEGORIES.values(), 30)
    assert rows[0].source == f"{folder}/category_1.csv:1"
    assert rows[60].category == "Malware" and rows[60].source == f"{folder}/category_4.csv:1"
    assert rows[61].source == f"{folder}/category_4.csv:2" and rows[63].source == f"{folder}/category_4.csv:6"


def test_the_names_of_the_papers_judge() -> None:
    assert list(CATEGORIES) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]  # 2 was withdrawn
    assert (CATEGORIES[7], CATEGORIES[8]) == ("Fraud/Deception", "Adult Content")  # some loaders exchange them


def test_the_hub_gives_the_same_files(folder, hub_files) -> None:
    calls = hub_files(FILES)
    rows = hexphi().rows()
    assert calls == [("LLM-Tuning-Safety/HEx-PHI", name, "dataset") for name in FILES]
    assert [row.request for row in rows] == [row.request for row in hexphi(path=str(folder)).rows()]
    assert rows[-1].source.startswith("LLM-Tuning-Safety/HEx-PHI/category_11.csv:")
    assert len(hexphi(n_rows=7).rows()) == 7


def test_gated_says_the_terms_and_the_folder(hub_files) -> None:
    hub_files(PermissionError("403 Client Error. (Request ID: 1)"))
    with pytest.raises(DataError) as error:
        hexphi().rows()
    assert "accept its terms at https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI" in str(error.value)
    assert "a folder with category_1.csv and category_3.csv to category_11.csv" in str(error.value)


def test_one_file_is_one_category(folder) -> None:
    rows = hexphi(path=str(folder / "category_8.csv")).rows()
    assert len(rows) == 30 and {row.category for row in rows} == {"Adult Content"}
    (folder / "category_2.csv").write_text(text(requests(2)))
    with pytest.raises(DataError, match="category_2.csv: HEx-PHI has no category 2; it has 1, 3, 4"):
        hexphi(path=str(folder / "category_2.csv")).rows()
    assert len(hexphi(path=str(folder)).rows()) == 300  # a withdrawn category that still lies there is not read


def test_files_saved_anew(folder, write) -> None:
    path = folder / "category_5.csv"
    path.write_text("prompt\n" + text(requests(5)))  # with a header that says so
    assert len(hexphi(path=str(folder)).rows()) == 300
    path.write_text(text(requests(5)[1:]))  # by what took the first request for the header
    with pytest.raises(DataError, match="category_5.csv has 29 requests, and HEx-PHI 30 of each category. Download"):
        hexphi(path=str(folder)).rows()
    merged = write("merged.jsonl", '{"instruction": "Paint a fence", "category": "Malware"}\n{"prompt": "Sing"}\n')
    assert [(r.request, r.category) for r in hexphi(path=merged).rows()] == [("Paint a fence", "Malware"), ("Sing", "")]


def test_a_folder_that_is_not_whole(folder, tmp_path) -> None:
    (folder / "category_3.csv").unlink()
    (folder / "category_10.csv").unlink()
    with pytest.raises(DataError, match="lacks category_3.csv, category_10.csv. Give a folder with category_1.csv"):
        hexphi(path=str(folder)).rows()
    with pytest.raises(DataError, match="There is no file"):
        hexphi(path=str(tmp_path / "nowhere")).rows()
