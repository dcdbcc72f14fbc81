"""Reading: encodings, line numbers, tables, samples and the Hub."""

from __future__ import annotations

import gzip
import lzma
import sys
from itertools import islice

import pytest

from unforgotten.datasets.reading import files
from unforgotten.errors import DataError


def read(path, **settings):
    records, problems = files.read(path, **settings)
    return [(record.line, record.value) for record in records], problems


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"a": "\xc3\xa9"}\n',
        b'\xef\xbb\xbf{"a": 1}\n{"a": "\xc3\xa9"}\n',  # with a byte order mark
        b'{"a": 1}\r\n{"a": "\xc3\xa9"}\r\n',  # from Windows
        b'{"a": 1}\n{"a": "\xc3\xa9"}',  # no newline at the end
        b'[{"a": 1},\n{"a": "\xc3\xa9"}]',
        gzip.compress(b'{"a": 1}\n{"a": "\xc3\xa9"}\n', mtime=0),
        lzma.compress(b'{"a": 1}\n{"a": "\xc3\xa9"}\n'),
    ],
)
def test_the_same_two_rows_in_every_wrapping(write, content) -> None:
    assert read(write("rows.jsonl", content)) == ([(1, {"a": 1}), (2, {"a": "é"})], [])


def test_lines_are_counted_as_an_editor_counts_them(write) -> None:
    lines = '\n{"a": 1}\n\n   \n{"a": 2}\n'
    assert read(write("a.jsonl", lines)) == ([(2, {"a": 1}), (5, {"a": 2})], [])
    array = '\n[\n  {\n    "a": 1\n  },\n\n  {"a": 2}, {"a": 3}\n]\n'
    assert read(write("a.json", array)) == ([(3, {"a": 1}), (7, {"a": 2}), (7, {"a": 3})], [])
    table = 'goal,n\n"two\nlines",1\nnext,2\n'
    rows, _ = read(write("a.csv", table), header=["goal"])
    assert rows == [(2, {"goal": "two\nlines", "n": "1"}), (4, {"goal": "next", "n": "2"})]


def test_a_line_separator_inside_a_string_ends_no_line(write) -> None:
    text = '{"a": "one\u2028two\u0085three"}\n{"a": 2}\n'
    assert read(write("a.jsonl", text)) == ([(1, {"a": "one\u2028two\u0085three"}), (2, {"a": 2})], [])


def test_every_broken_line_has_its_number(write) -> None:
    rows, problems = read(write("a.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\nnot json\n{"a": 5'))
    assert rows == [(1, {"a": 1}), (3, {"a": 3})]
    assert [line for line, _ in problems] == [2, 4, 5]
    assert problems[1][1] == "broken JSON at column 1: Expecting value"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3, "column 7: Expecting value"),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3, "a comma or ] is missing"),
        ('[\n{"a": 1},\n{"a": 2}\n', 4, "a comma or ] is missing"),
        ('[\n{"a": 1},\n]', 3, "Expecting value"),
        ('["a"]\n["b"]\n', 2, "rows are objects"),
    ],
)
def test_a_broken_array_says_where_it_broke(write, text, line, says) -> None:
    _, [problem] = read(write("a.json", text))
    assert problem[0] == line and says in problem[1]


def test_json_too_deep_to_parse_is_a_problem_and_no_crash(write) -> None:
    deep = '{"a": ' + "[" * 100_000 + "\n"
    _, problems = read(write("a.jsonl", deep + '{"a": 1}\n'))
    assert problems == [(1, "broken JSON: nested too deeply")]
    _, problems = read(write("b.json", "[" * 100_000))
    assert problems == [(1, "broken JSON: nested too deeply")]


def test_bytes_that_are_not_utf_8_are_named_by_line(write) -> None:
    latin = b'{"a": "ok"}\n{"a": "caf\xe9"}\n{"a": "\xff"}\n{\n'
    rows, problems = read(write("latin.jsonl", latin))
    assert rows == [(1, {"a": "ok"})] and [line for line, _ in problems] == [2, 3, 4]  # with all else that is wrong
    assert problems[0][1] == "byte 11: invalid continuation byte: not UTF-8. Save the file as UTF-8"
    for name, text in {"a.json": b'[{"a": "caf\xe9"},\n{"a": 1}]', "a.txt": b"caf\xe9 now\nNo\n"}.items():
        with pytest.raises(DataError, match="line 1: byte .* not UTF-8"):
            files.read(write(name, text), sole="prompt")
    with pytest.raises(DataError, match="looks like UTF-16"):
        files.read(write("wide.jsonl", '{"a": "é"}'.encode("utf-16")))


def test_files_that_are_not_there_or_hold_nothing(write, tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match="There is no file .*nowhere.jsonl"):
        files.read(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match="There is no file data/nowhere.csv"):
        files.read("data/nowhere.csv")  # has a Hub id's shape and a file's suffix
    with pytest.raises(DataError, match="is a folder"):
        files.read(str(tmp_path))
    for name, content in [("a.jsonl", b""), ("b.jsonl", b" \n\n"), ("c.jsonl", gzip.compress(b""))]:
        with pytest.raises(DataError, match="is empty"):
            files.read(write(name, content))
    with pytest.raises(DataError, match="not a complete gzip file"):
        files.read(write("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 100)[:-9]))
    with pytest.raises(DataError, match="not a complete xz file"):
        files.read(write("cut.jsonl.xz", lzma.compress(b'{"a": 1}\n' * 100)[:-9]))
    monkeypatch.delenv("UNFORGOTTEN_NO_PLACE", raising=False)
    for path in ("$UNFORGOTTEN_NO_PLACE/a.jsonl", "${UNFORGOTTEN_NO_PLACE}/a.jsonl"):
        with pytest.raises(DataError, match="UNFORGOTTEN_NO_PLACE is not set"):
            files.read(path)


def test_a_shipped_recipe_without_its_data_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="There is no file data/set/rows.json.* set UNFORGOTTEN_DATA"):
        files.read("data/set/rows.json")
    with pytest.raises(DataError) as error:
        files.read("mine/set/rows.json")
    assert "UNFORGOTTEN_DATA" not in str(error.value)


def test_home_and_variables_are_filled_in(write, tmp_path, monkeypatch) -> None:
    write("a.jsonl", '{"a": 1}')
    monkeypatch.setenv("UNFORGOTTEN_PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("$UNFORGOTTEN_PLACE/a.jsonl", "${UNFORGOTTEN_PLACE}/a.jsonl", "~/a.jsonl"):
        records, _ = files.read(path)
        assert records == [files.Record(1, f"{path}:1", {"a": 1})]  # the source is what the user wrote


def test_a_tsv_quotes_nothing_and_a_csv_is_strict(write) -> None:
    rows, problems = read(write("a.tsv", 'sentence\tlabel\nhe said " and left \t1\n"fine" \t0\n'), header=["sentence"])
    assert [value["sentence"] for _, value in rows] == ['he said " and left ', '"fine" ']
    assert problems == []
    with pytest.raises(DataError, match="Close every quote") as error:
        files.read(write("a.csv", 'goal,n\nfirst,1\n"never closed,2\nthird,3\n'), header=["goal"])
    assert error.value.problems[0][0] == 3


def test_a_tsv_that_quotes_is_read_so_where_it_is_said(write) -> None:
    table = 'goal\tn\n"two\nlines, ""quoted""\there"\t1\nNone\t\n'
    rows, problems = read(write("a.tsv", table), header=["goal"], quoted=True)
    assert rows == [
        (2, {"goal": 'two\nlines, "quoted"\there', "n": "1"}),
        (4, {"goal": "None", "n": ""}),  # an empty cell is empty, and a word is a word
    ]
    assert problems == []
    with pytest.raises(DataError, match="Close every quote"):
        files.read(write("b.tsv", 'goal\tn\n"never closed\t1\n'), header=["goal"], quoted=True)


def test_a_packed_table_is_a_table(write) -> None:
    for pack in (gzip.compress, lzma.compress):
        name = "a.csv.gz" if pack is gzip.compress else "a.csv.xz"
        assert read(write(name, pack(b"goal,n\nx,1\n")), header=["goal"])[0] == [(2, {"goal": "x", "n": "1"})]


def test_a_parquet_file_is_read_whole_or_by_columns(parquet, write, monkeypatch) -> None:
    path = parquet("a.parquet", [{"a": 1, "b": "é"}, {"a": 2, "b": None}])
    assert read(path) == ([(1, {"a": 1, "b": "é"}), (2, {"a": 2, "b": None})], [])
    assert list(files.stream(path, columns=["b"])) == [
        files.Record(1, f"{path}:1", {"b": "é"}),
        files.Record(2, f"{path}:2", {"b": None}),
    ]
    with pytest.raises(DataError, match="b.parquet is not a complete Parquet file"):
        files.read(write("b.parquet", b"PAR1 and no more"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"is a Parquet file, which needs `pip install 'unforgotten\[data\]'`"):
        files.read(path)


def test_a_stream_takes_no_more_of_the_hub_than_is_asked_for(hub, write) -> None:
    taken = []

    def rows(**options):
        for i in range(100):
            taken.append(i)
            yield {"a": i}

    calls = hub(rows)
    actual = list(files.stream("owner/name", split="code", first_rows=3))
    assert calls == [("owner/name", None, "code", {"streaming": True})]
    assert actual[2] == files.Record(2, "owner/name/code:2", {"a": 2}) and taken == [0, 1, 2]
    assert [r.value for r in islice(files.stream("owner/name"), 2)] == [{"a": 0}, {"a": 1}]
    path = write("a.jsonl", '{"a": 1}\n{"a": 2}\n')
    assert [r.line for r in files.stream(path, first_rows=1)] == [1, 2]  # a file is read to its end
    with pytest.raises(DataError, match="line 2: broken JSON"):
        list(files.stream(write("b.jsonl", '{"a": 1}\n{"a": \n')))


def test_the_hub_failing_midway_is_told_like_one_that_cannot_be_reached(hub) -> None:
    def rows(**options):
        yield {"a": 0}
        raise TimeoutError("no answer")

    hub(rows)
    with pytest.raises(DataError, match="TimeoutError: no answer.\n.*accept its terms"):
        list(files.stream("owner/name"))


def test_a_folder_a_hub_id_or_neither(tmp_path, write) -> None:
    assert files.folder(str(tmp_path)) == tmp_path and files.folder("owner/name") is None
    for path in (str(tmp_path / "none"), write("a.jsonl", "{}"), "data/nowhere.jsonl"):
        with pytest.raises(DataError, match="There is no folder"):
            files.folder(path)


def test_a_row_of_another_width_is_a_problem(write) -> None:
    rows, problems = read(write("a.csv", "goal,n\na,1\nb\nc,3,4\n"), header=["goal"])
    assert rows == [(2, {"goal": "a", "n": "1"})]
    assert problems == [(3, "1 cells where the header has 2"), (4, "3 cells where the header has 2")]


def test_one_column_without_header_loses_no_row(write) -> None:
    both = write("a.csv", '"Stay, please"\nGo away\n')
    assert read(both, header=["goal"], sole="goal")[0] == [(1, {"goal": "Stay, please"}), (2, {"goal": "Go away"})]
    text = write("a.txt", "Stay, please\r\n\r\n  Go away  \r\n")
    assert read(text, sole="goal")[0] == [(1, {"goal": "Stay, please"}), (3, {"goal": "Go away"})]
    with pytest.raises(DataError, match=r"names none of the columns goal; it is 'Stay, please'.* use a .txt file"):
        files.read(write("b.csv", "Stay, please\nGo away\n"), header=["goal"], sole="goal")
    with pytest.raises(DataError, match="'behavior', looks like a header. Rename it to 'goal'"):
        files.read(write("c.csv", "behavior\nGo away\n"), header=["goal"], sole="goal")


def test_columns_are_found_by_any_of_their_names_and_blank_cells_by_their_line(write) -> None:
    path = write("a.jsonl", '{"goal": "x", "other": 1}\n{"prompt": "y", "goal": null}\n')
    rows = files.read_columns(path, {"prompt": ("goal", "prompt")})
    assert [row.value["prompt"] for row in rows] == ["x", "y"]
    with pytest.raises(DataError) as error:
        files.read_columns(write("b.jsonl", '{"goal": " "}\n7\n{"goal": "z"}\n'), {"prompt": ("goal", "prompt")})
    assert error.value.problems == [
        (1, "no goal or prompt (columns: goal)"),
        (2, "a row must be an object, not a number"),
    ]
    assert "2 rows cannot be used" in str(error.value)


def test_a_sample_is_fixed_by_seed_and_length_keeps_the_order_and_grows() -> None:
    rows = list(range(100))
    ten = files.sample(rows, 10, 7, "x")
    assert ten == sorted(ten) and len(set(ten)) == 10
    assert ten == files.sample(list(range(100)), 10, 7, "x")
    assert [r + 1000 for r in ten] == files.sample([r + 1000 for r in rows], 10, 7, "x")  # the rows do not matter
    assert ten != files.sample(rows, 10, 8, "x")
    assert set(ten) < set(files.sample(rows, 20, 7, "x"))
    assert files.sample(rows, None, 7, "x") == rows == files.sample(rows, 100, 7, "x")
    for wrong in (0, -1, 101):
        with pytest.raises(DataError, match=f"x: n_rows is {wrong}, but there are 100 rows"):
            files.sample(rows, wrong, 7, "x")


def test_a_sample_is_the_same_on_every_machine() -> None:
    # Worked out once with random.Random(0).shuffle on 0..9: [7, 8, 1, 5, 3, 4, 2, 0, 9, 6].
    assert files.sample(list("abcdefghij"), 3, 0, "x") == ["b", "h", "i"]


def test_the_hub_is_asked_for_name_config_and_split(hub) -> None:
    calls = hub([{"a": 1}, {"a": 2}])
    records, problems = files.read("owner/name", config="main", split="test")
    assert calls == [("owner/name", "main", "test")] and problems == []
    assert records == [files.Record(0, "owner/name/test:0", {"a": 1}), files.Record(1, "owner/name/test:1", {"a": 2})]


def test_the_hub_out_of_reach_says_the_way_round(hub, monkeypatch) -> None:
    hub(ConnectionError("Couldn't reach the Hub.\nmore"))
    with pytest.raises(DataError, match="ConnectionError: Couldn't reach the Hub.\n.*accept its terms.*local file"):
        files.read("owner/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'unforgotten\[data\]'"):
        files.read("owner/name")


def test_what_else_may_be_given_is_said_with_the_terms(hub, hub_files) -> None:
    from unforgotten.datasets.reading import hub as hugging_face

    hub(PermissionError("Dataset 'owner/name' is a gated dataset on the Hub."))
    with pytest.raises(DataError, match=r"https://huggingface.co/datasets/owner/name and .* give `path:` its a.csv"):
        files.read("owner/name", instead="its a.csv")
    calls = hub_files({"a.csv": "x"})
    assert hugging_face.file("owner/name", "a.csv").read_text() == "x" and calls == [("owner/name", "a.csv", "dataset")]
    hub_files(PermissionError("403 Client Error.\nmore"))
    with pytest.raises(DataError) as error:
        hugging_face.file("owner/name", "a.csv", instead="a folder of its files")
    assert str(error.value) == (
        "owner/name (a.csv) cannot be read from the Hub: PermissionError: 403 Client Error.\n"
        "If it is gated, accept its terms at https://huggingface.co/datasets/owner/name and run `hf auth login`. "
        "Or give `path:` a folder of its files."
    )
