"""Tables of labels: what they may hold, and what becomes of each row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.heads.labels import _distinct as distinct
from curation.heads.labels import read_labels
from curation.heads.settings import TrainHeadSettings
from infra.errors import SluiceError

SETTINGS = TrainHeadSettings(label="good", polarity="higher is better")


def written(tmp_path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    return str(tmp_path / "labels.parquet")


@pytest.mark.parametrize(
    "text", ["uid,good\na,true\nb,false\n", "good,uid\n1,a\n0,b\n", "uid,good\na,1.0\nb,0\n"]
)
def test_csv_labels_are_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    table, names = read_labels(str(tmp_path / "labels.csv"), SETTINGS)
    assert names == ()
    assert table.to_pydict() == {"uid": ["a", "b"], "label": [1.0, 0.0]}


def test_words_are_classes(tmp_path: Path) -> None:
    words = ["dog", "cat", None, " ", "bird ", "dog"]
    table, names = read_labels(written(tmp_path, {"uid": list("abcdef"), "good": words}), SETTINGS)
    assert names == ("bird", "cat", "dog")
    assert table["label"].to_pylist() == [2.0, 1.0, None, None, 0.0, 2.0]
    for bad in (["Cat", "dog", "cow"], ["a", "b", "a"], [f"c{number}" for number in range(1001)]):
        with pytest.raises(SluiceError, match=r"its labels are \d+ words"):
            read_labels(written(tmp_path, {"uid": ["x"] * len(bad), "good": bad}), SETTINGS)


def test_every_row_is_counted() -> None:
    table = pa.table(
        {
            "uid": ["a", "b", "b", "c", "c", None, "d", "e", "F"],
            "label": [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, None, float("nan"), 1.0],
        }
    )
    labels, counts = distinct(table)
    assert labels == {"a": 1, "b": 0, "f": 1}
    assert counts == {"labels": 9, "no label": 3, "repeated": 2, "contradicted": 1}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uid": ["a"], "bad": [1]}, "no column 'good'; it has uid, bad"),
        ({"key": ["a"], "good": [1]}, "no column 'uid'"),
        ({"uid": ["a"], "good": ["yes"]}, "its labels are 1 words"),
        ({"uid": [["a"]], "good": [1]}, "cannot be read"),
    ],
    ids=range(4),
)
def test_wrong_tables_are_told(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SluiceError, match=message):
        read_labels(written(tmp_path, columns), SETTINGS)


def test_files_that_are_no_tables_are_told(tmp_path: Path) -> None:
    for name in ("labels.parquet", "labels.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(SluiceError, match="cannot be read"):
            read_labels(str(tmp_path / name), SETTINGS)
    with pytest.raises(SluiceError, match="no table at"):
        read_labels(str(tmp_path / "nowhere.csv"), SETTINGS)
