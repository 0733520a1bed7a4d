"""Rows gathered from the bytes of files: what pyarrow's own take gives, of whatever is in them."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import metadata, metadata_files, metadata_rows
from indexes.metadata import Metadata, metadata_path, write_metadata
from indexes.metadata_files import check_batches, map_batches
from indexes.metadata_rows import Columns, Piece, found, gathered
from infra.dataset import index_id
from infra.errors import SluiceError

WORDS = ["", "a cat", "a dög", "猫", "x" * 300]
DAY = datetime.date(2024, 2, 29)
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "flag": (pa.bool_(), [True, False]),
    "tiny": (pa.int8(), [-128, 0, 127]),
    "small": (pa.uint16(), [0, 65535]),
    "half": (pa.float16(), [np.float16(0.5), np.float16(-2)]),
    "score": (pa.float32(), [0.25, float("inf"), -1.5]),
    "wide": (pa.float64(), [1e300, -0.5]),
    "day": (pa.date32(), [DAY]),
    "moment": (pa.timestamp("us", "UTC"), [datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)]),
    "span": (pa.month_day_nano_interval(), [pa.MonthDayNano([1, -2, 3])]),
    "caption": (pa.string(), WORDS),
    "raw": (pa.binary(), [b"", b"\xff\x00", b"abc"]),
    "long": (pa.large_string(), WORDS),
    "price": (pa.decimal128(9, 2), [1, -2]),
    "hash": (pa.binary(3), [b"abc", b"\x00\xff\x00"]),
    "concept": (pa.dictionary(pa.int8(), pa.string()), ["cat", "dog"]),
    "tags": (pa.list_(pa.string()), [[], ["a", None], ["b" * 40]]),
    "box": (pa.struct({"x": pa.int16(), "name": pa.string()}), [{"x": 1, "name": ""}, {}]),
    "nothing": (pa.null(), [None]),
}  # fmt: skip
NARROW = {"tiny": pa.int16(), "score": pa.float64(), "caption": pa.large_string()}
FRACTIONS = st.sampled_from([0.0, 0.3, 1.0])


def shard_of(
    rng: np.random.Generator, shard: int, count: int, nulls: float, without: set[str]
) -> pa.Table:
    """Some rows of a shard, with a column of each type but those left out."""
    rows = np.sort(rng.choice(3 * count + 1, count, replace=False))
    columns: dict[str, Any] = {
        "id": index_id(shard, 0) + rows,
        "uid": pa.array([rng.bytes(16).hex() for _ in range(count)], pa.string()),
    }
    for name in sorted(VALUES.keys() - without):
        kind, choices = VALUES[name]
        drawn = [choices[place] for place in rng.integers(0, len(choices), count)]
        values = [None if rng.random() < nulls else value for value in drawn]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def stored(folder: Path, tables: list[pa.Table], schema: pa.Schema | None = None) -> Metadata:
    """Shards 0, 1 and so on of a folder."""
    for shard, table in enumerate(tables):
        folder.joinpath(metadata_path(shard)).unlink(missing_ok=True)
        write_metadata(str(folder), shard, table)
    schemas = [schema or tables[0].schema, *(table.schema for table in tables)]
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    return Metadata(str(folder), ids, pa.unify_schemas(schemas, promote_options="permissive"))


def same_as_pyarrow(facts: Metadata, wanted: Any, columns: list[str] | None = None) -> None:
    """The rows at places among all, by `take` and by pyarrow."""
    places = np.array(wanted, np.int64)
    expected = facts.table().combine_chunks().take(pa.array(places))
    taken = facts.take(facts.at(places), columns)
    taken.validate(full=True)
    assert taken.schema.equals(facts.schema if columns is None else expected.select(columns).schema)
    for name in taken.column_names:
        assert taken[name].num_chunks <= 1
        assert taken[name].null_count == expected[name].null_count
        assert taken[name].to_pylist() == expected[name].to_pylist(), name


def test_of_columns_of_every_type_the_rows_are_those_of_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_files, "BATCH", 7)
    names = st.sets(st.sampled_from(sorted(VALUES)))

    @settings(max_examples=40, deadline=None)
    @given(st.data(), st.integers(0, 2**32), names, st.lists(FRACTIONS, min_size=1, max_size=3))
    def check(data: st.DataObject, seed: int, absent: set[str], nulls: list[float]) -> None:
        rng = np.random.default_rng(seed)
        tables = [
            shard_of(rng, shard, int(rng.integers(1, 20)), part, data.draw(names) | absent)
            for shard, part in enumerate(nulls)
        ]
        facts = stored(tmp_path, tables)
        places = st.lists(st.sampled_from(range(len(facts))), max_size=30)
        some = st.none() | st.lists(st.sampled_from(facts.columns), unique=True, min_size=1)
        same_as_pyarrow(facts, data.draw(places), data.draw(some))

    check()


@pytest.mark.parametrize("wider", [0, 1, 2])
def test_a_shard_may_have_narrower_types(tmp_path: Path, wider: int) -> None:
    rng = np.random.default_rng(0)
    tables = [shard_of(rng, shard, 9, 0.3, set()) for shard in range(3)]
    for name, kind in NARROW.items():
        column = tables[wider].column_names.index(name)
        changed = tables[wider][name].cast(kind)
        tables[wider] = tables[wider].set_column(column, name, changed)
    facts = stored(tmp_path, tables)
    assert [facts.schema.field(name).type for name in NARROW] == list(NARROW.values())
    same_as_pyarrow(facts, rng.integers(0, len(facts), 40))


@pytest.mark.parametrize("start", [0, 1, 8, 13])
def test_slices_start_within_a_byte_of_bits(tmp_path: Path, start: int) -> None:
    rng = np.random.default_rng(1)
    table = shard_of(rng, 0, 40, 0.3, {"nothing"})
    stored(tmp_path, [table])
    (batch,) = check_batches(map_batches(str(tmp_path / metadata_path(0)), table.schema))
    part = replace(batch, rows=batch.rows.slice(start), ids=batch.ids[start:])
    rows = np.sort(rng.integers(0, 40 - start, 25))
    pieces = list(found([part], part.ids[rows], np.arange(25)))
    taken = gathered(pieces, Columns(table.schema, list(range(len(table.schema)))))
    assert "caption" in table.column_names and pieces[0].rows.tolist() == rows.tolist()
    assert taken.to_pylist() == table.take(pa.array(rows + start)).to_pylist()


def test_no_column_and_no_row_are_asked_for(tmp_path: Path) -> None:
    facts = stored(tmp_path, [shard_of(np.random.default_rng(2), 0, 5, 0.3, set())])
    nothing = facts.take(facts.ids[:0], ["caption", "tags"])
    assert (nothing.num_rows, nothing.column_names) == (0, ["caption", "tags"])
    assert facts.take(facts.ids, []).column_names == []
    with pytest.raises(KeyError, match="color"):
        facts.take(facts.ids, ["color"])


def test_ids_are_found_however_many_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for density in (1, 2, 1000):
        ids = np.sort(rng.choice(density * 200, 200, replace=False)) + index_id(4, 0)
        table = pa.table({"id": ids, "uid": pa.nulls(200, pa.string())})
        write_metadata(str(tmp_path), density, table)
        batches = check_batches(map_batches(str(tmp_path / metadata_path(density))))
        for size in (1, 3, 150):
            places = np.sort(rng.integers(0, 200, size))
            (piece,) = found(batches, ids[places], np.arange(size))
            assert isinstance(piece, Piece) and piece.rows.tolist() == places.tolist()
        for other in np.setdiff1d(np.arange(ids[0] - 2, ids[-1] + 3), ids)[:50].tolist():
            with pytest.raises(SluiceError, match=f"no metadata of the id {other}"):
                list(found(batches, np.array([ids[0], other, ids[-1]]), np.arange(3)))


def test_text_that_offsets_cannot_tell_goes_by_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_rows, "MOST_TEXT", 400)
    tables = [shard_of(np.random.default_rng(4), shard, 8, 0.2, {"raw"}) for shard in range(3)]
    same_as_pyarrow(stored(tmp_path, tables), [3, 1, 20, *range(24)])


def test_of_more_shards_than_are_held_some_are_taken_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "SHARDS_OPEN", 2)
    rng = np.random.default_rng(5)
    facts = stored(tmp_path, [shard_of(rng, shard, 4, 0.2, {"nothing"}) for shard in range(7)])
    for size in (2, 5, 28):
        same_as_pyarrow(facts, rng.integers(0, len(facts), size))


def test_a_compressed_file_gives_the_same_rows(tmp_path: Path) -> None:
    table = shard_of(np.random.default_rng(6), 0, 20, 0.3, set())
    facts = stored(tmp_path, [table])
    path = tmp_path / metadata_path(0)
    content = pa.ipc.open_file(path.read_bytes()).read_all()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), content.schema, options=options) as writer:
        writer.write_table(content)
    assert facts.take(facts.ids).equals(table.combine_chunks())


def test_text_that_is_none_is_named_by_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    tables = [shard_of(rng, shard, 6, 0.0, set()) for shard in range(3)]
    words = pa.array(["sound", "dög here", "", "sound", "", ""])
    tables[1] = tables[1].select(["id", "uid"]).append_column("caption", words)
    facts = stored(tmp_path, tables)
    path = tmp_path / metadata_path(1)
    sound = path.read_bytes()
    path.unlink()
    path.write_bytes(sound.replace("dög".encode(), b"d\xff\xffg"))
    assert facts.take(facts.ids[[0, 6, 8]])["caption"].to_pylist()[1:] == ["sound", ""]
    with pytest.raises(SluiceError, match=r"00001\.arrow is damaged.*UTF"):
        facts.take(facts.ids)


def test_text_that_leaves_its_column_is_never_followed(tmp_path: Path) -> None:
    """Neither in a file that says so at once, nor in one that is changed once it is open."""
    captions = ["a cat", "a dog", "in the rain", "again", ""]
    table = shard_of(np.random.default_rng(8), 0, 5, 0.0, set()).select(["id", "uid"])
    table = table.append_column("caption", pa.array(captions))
    facts = stored(tmp_path, [table])
    path = tmp_path / metadata_path(0)
    offsets = np.frombuffer(table["caption"].combine_chunks().buffers()[1], np.int32, 6)
    sound = path.read_bytes()
    place = sound.index(offsets.tobytes())
    assert facts.take(facts.ids)["caption"].to_pylist() == captions
    for changed in ([0, 2**31 - 1, -(2**31), -1, 26, 26], [0, 9, 8, 21, 26, 26]):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(np.array(changed, np.int32).tobytes())
        for asked in (facts, Metadata(str(tmp_path), facts.ids, facts.schema)):
            with pytest.raises(SluiceError, match=r"00000\.arrow is damaged: text"):
                asked.take(facts.ids)
