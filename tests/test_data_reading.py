"""Rows out of files, folders, embedded sources and hub sets, and what is said about broken ones."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from data_helpers import write_rows
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bit_axon.data import hub, json_rows
from bit_axon.data.hub import read_hub
from bit_axon.data.reading import Row, digest_sources, read_rows, rows_of_list
from bit_axon.data.sources import Source, parse_sources
from bit_axon.errors import ConfigError, DataError
from bit_axon.files import sha256_file

ROWS = [{"text": "one"}, {"text": "two", "n": 2}, {"text": "drei\n{]ü"}]


def values(source: Source | str | Path) -> list[Any]:
    source = source if isinstance(source, Source) else Source(str(source))
    return [row.values for row in read_rows(source)]


def test_json_lines_with_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"text": "two"}')
    rows = list(read_rows(Source(str(file))))
    assert rows == [Row({"text": "one"}, str(file), 1), Row({"text": "two"}, str(file), 4)]
    assert rows[1].where == f"{file}:4"
    assert digest_sources([Source(str(file))])[0].rows == 2


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "a.json"
    file.write_text("\n " + json.dumps(ROWS, indent=indent) + "\n")
    assert values(file) == ROWS
    lines = [row.line for row in read_rows(Source(str(file)))]
    assert lines == ([3, 6, 10] if indent else [2, 2, 2])


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    assert values(write_rows(tmp_path / "data.json", ROWS)) == ROWS


def test_array_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([*ROWS, 12.5, -3e5, "\U0001f642\\u", None, True], indent=1))
    for size in (1, 2, 3, 7, 16):
        monkeypatch.setattr(json_rows, "_PIECE_CHARACTERS", size)
        found = list(json_rows.read_json(file))
        assert [value for _, value in found] == json.loads(file.read_text())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_values, max_size=4), st.booleans(), st.integers(1, 9))
def test_any_array_reads_as_json_does(items: list[Any], ascii_only: bool, size: int) -> None:
    text = json.dumps(items, ensure_ascii=ascii_only)
    reader = json_rows._ArrayReader(_Pieces(text, size), Path("a.json"))  # type: ignore[arg-type]
    assert [value for _, value in reader.items()] == items


class _Pieces:
    """A file that gives a few characters at a time, whatever is asked for."""

    def __init__(self, text: str, size: int):
        self._text = text
        self._size = size

    def read(self, count: int) -> str:
        piece, self._text = self._text[: self._size], self._text[self._size :]
        return piece


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"n": None, **row} for row in ROWS]), file)
    assert values(file) == [{"text": "one", "n": None}, ROWS[1], {**ROWS[2], "n": None}]
    assert digest_sources([Source(str(file))])[0].rows == 3


def test_folder_splits(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "validation", "other"):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "README.md").write_text("no data")

    def texts(split: str | None) -> list[str]:
        return [v["text"] for v in values(Source(str(tmp_path), split=split))]

    assert texts("train") == ["train-0", "train-1"]
    assert texts("valid") == ["validation"]
    assert texts(None) == ["other", "train-0", "train-1", "validation"]
    with pytest.raises(DataError, match=r"files of split 'test'.*got other\.jsonl"):
        texts("test")


def test_folder_without_named_training_files_never_trains_on_the_others(tmp_path: Path) -> None:
    for name in ("a", "b", "valid"):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": name}])
    assert [v["text"] for v in values(Source(str(tmp_path), split="train"))] == ["a", "b"]


def test_data_subfolder_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data files .*got none"):
        values(tmp_path)
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train.jsonl", ROWS)
    assert values(tmp_path) == ROWS


def test_embedded_source() -> None:
    rows = list(read_rows(Source("embedded:demo/valid?rows=3")))
    assert len(rows) == 3 and set(rows[0].values) == {"prompt", "chosen", "rejected"}
    assert rows[2].where == "embedded:demo/valid?rows=3:3"
    digest = digest_sources([Source("embedded:pretrain/train?rows=5")])[0]
    assert digest.rows == 5
    assert digest == digest_sources([Source("embedded:pretrain/train?rows=5")])[0]
    assert digest.sha256 != digest_sources([Source("embedded:pretrain/train?rows=6")])[0].sha256


def test_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached in tests: `datasets` is given a set, the rest is real."""
    asked: list[Any] = []

    def load(path: str, config: str | None, split: str, revision: str | None) -> Any:
        asked.append((path, config, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(hub, "snapshot_download", lambda path, **_: path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = list(read_rows(Source("owner/name", config="main", split="train", revision="v1")))
    assert [row.values["text"] for row in rows] == [row["text"] for row in ROWS]
    assert rows[1].where == "owner/name:2"
    assert asked == [("owner/name", "main", "train", "v1")]


def test_hub_set_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("Unknown split\nand more")

    monkeypatch.setattr(hub, "snapshot_download", lambda path, **_: path)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"'owner/name' \(split train\); got Unknown split\. Check"):
        list(read_hub(Source("owner/name")))


def test_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(DataError, match=r"'owner/name' \(split train\); got nothing in the local cache"):
        list(read_hub(Source("owner/name")))


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write_rows(tmp_path / "training.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no such file\. Did you mean '.*training\.jsonl'\?"):
        values(tmp_path / "trainig.jsonl")
    with pytest.raises(DataError, match=r"there is: training\.jsonl"):
        values(tmp_path / "zzz.jsonl")
    with pytest.raises(DataError, match=r"does not exist either"):
        values(tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(DataError, match=r"no such file"):
        values("no_such_file.jsonl")


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(DataError, match=r"wanted a data file \(\.jsonl, .*a\.csv"):
        values(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: wanted JSON; got Expecting value at column"),
        ("a.jsonl", b'{"a": 1}\n"text"\n', r"a\.jsonl:2: wanted a row that is an object; got a text"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: wanted a row that is an object; got a list"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl:1: .*not UTF-8"),
        ("a.json", b'[{"a": 1},\n {"a": 1 "b": 2}]', r"a\.json:2: .*Expecting ',' delimiter"),
        ("a.json", b'[{"a": 1},\n\n {"a": "x', r"a\.json:3: .*Unterminated string"),
        ("a.json", b'[{"a": 1}\n {"a": 1}]', r"a\.json:2: .*'\{' where ',' belongs"),
        ("a.json", b'[{"a": 1}', r"a\.json:1: .*the end of the file where ',' belongs"),
        ("a.json", b'[{"a": 1}]\nx', r"a\.json:2: .*'x' behind the end"),
        ("a.json", b"[1,\n2]", r"a\.json:1: wanted a row that is an object; got a number"),
        ("a.jsonl", b"\n\n", r"wanted at least one row"),
        ("a.json", b"[ ]", r"wanted at least one row"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: wanted a Parquet file"),
    ],
)
def test_broken_content_names_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        values(tmp_path / name)


def test_rows_of_a_list() -> None:
    assert [row.where for row in rows_of_list(ROWS)] == ["rows:1", "rows:2", "rows:3"]
    with pytest.raises(DataError, match=r"rows:1: wanted a row that is an object"):
        list(rows_of_list(["x"]))  # type: ignore[list-item]


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", ROWS)
    digest = digest_sources([Source(str(tmp_path))])[0]
    assert (digest.source, digest.path, digest.rows) == (str(tmp_path), str(file), 3)
    assert digest.sha256 == sha256_file(file)


def test_parse_sources() -> None:
    assert parse_sources("a.jsonl") == (Source("a.jsonl"),)
    assert parse_sources({"path": "a", "weight": 2}, split="train") == (Source("a", 2.0, "train"),)
    mixed = parse_sources(["a", {"path": "b", "weight": 0.5, "split": "test"}], split="valid")
    assert mixed == (Source("a", 1.0, "valid"), Source("b", 0.5, "test"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"wanted a data source"),
        ([], r"wanted a data source"),
        (3, r"wanted a data source"),
        ({"weight": 1}, r"wanted path of a data source"),
        ({"path": "a", "wieght": 1}, r"'wieght'\. Did you mean 'weight'"),
        ({"path": "a", "weight": 0}, r"weight of a data source above 0; got 0"),
        ({"path": "a", "weight": "2"}, r"weight of a data source"),
        ("", r"wanted path"),
    ],
)
def test_wrong_sources(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_sources(value)
