"""What a location is taken for."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.sources import detect
from infra.errors import SluiceError

IMAGE = pa.array([b"x"], pa.binary())
URLS = {"URL": ["https://x.org"], "TEXT": ["a"]}


def parquet(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def kind(location: Path | str) -> dict[str, Any]:
    return detect(str(location)).model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0.tar", "1.tar"], "tars"),
        (["0.tar.gz"], "tars"),
        (["00000.tar", "00000.parquet", "00000_stats.json"], "tars"),
        (["a.csv", "b.csv.gz"], "urls"),
        (["a.tsv"], "urls"),
        (["a.jsonl.zst", "README.md"], "urls"),
        (["list.txt"], "urls"),
        (["cats/a.jpg", "cats/a.txt", "a.PNG", "a.json"], "folder"),
    ],
)
def test_folders_and_patterns(names: list[str], expected: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    assert kind(tmp_path) == {expected: str(tmp_path)}
    if len({Path(name).suffix for name in names}) == 1:
        assert kind(tmp_path / "*") == {expected: str(tmp_path / "*")}
    if len(names) == 1:
        assert kind(tmp_path / names[0]) == {expected: str(tmp_path / names[0])}


@pytest.mark.parametrize(
    "names",
    [
        ["0.tar", "9.parquet"],
        ["a.csv", "b.parquet"],
        ["a.jpg", "metadata.csv"],
        ["a.arrow", "a.parquet"],
        ["a.jpg", "0.tar"],
    ],
)
def test_a_mixture_is_not_guessed_at(names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(SluiceError, match=r"cannot tell what .* is: it holds files 1 of") as error:
        detect(str(tmp_path))
    assert "`tars:`" in error.value.way_out


def test_no_file_and_no_known_file(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no file at"):
        detect(str(tmp_path / "*.parquet"))
    touch(tmp_path, "a.xls")
    with pytest.raises(SluiceError, match="no file there has a suffix that is known"):
        detect(str(tmp_path / "a.xls"))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (URLS, {"urls": ""}),
        (URLS | {"digest": IMAGE}, {"urls": ""}),
        ({"jpg": IMAGE, "caption": ["a"]}, {"parquet": ""}),
        (
            {"image": [{"bytes": b"x", "path": "a"}], "text": ["a"]},
            {"parquet": "", "image": "image", "caption": "text"},
        ),
        (URLS | {"png": IMAGE}, {"parquet": "", "image": "png", "caption": "TEXT"}),
    ],
)
def test_parquet_by_its_columns(
    columns: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    parquet(tmp_path / "p.parquet", columns)
    location = str(tmp_path / "*.parquet")
    assert kind(location) == {name: value or location for name, value in expected.items()}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"words": ["a"]}, "shows no column of image bytes or of URLs; it has words"),
        ({"png": IMAGE, "webp": IMAGE}, "several columns of image bytes: png, webp"),
    ],
)
def test_parquet_that_cannot_be_told(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    parquet(tmp_path / "p.parquet", columns)
    with pytest.raises(SluiceError, match=message):
        detect(str(tmp_path))


def test_arrow(tmp_path: Path) -> None:
    table = pa.table({"image": IMAGE, "caption": ["a"]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert kind(tmp_path) == {"arrow": str(tmp_path), "image": "image"}
