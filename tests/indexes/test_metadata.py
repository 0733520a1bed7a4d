"""Metadata: the same answers as one table in memory would give, and damage is told."""

import gc
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import metadata_files
from indexes.metadata import (
    COLUMNS,
    Metadata,
    columns_digest,
    metadata_path,
    shard_metadata,
    write_columns,
    write_metadata,
)
from infra import filesystem
from infra.artifacts import Part
from infra.dataset import index_id, open_dataset, part_name
from infra.errors import SluiceError

ROWS = {0: 23, 3: 1, 7: 40}  # shards, and how many rows each has
WORDS = ["a cat", "a dög", None, "", "a cat in\nthe rain"]


def rows_of(shard: int, count: int) -> pa.Table:
    rng = np.random.default_rng(shard)
    rows = np.sort(rng.choice(1000, count, replace=False))
    scores = np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count)).astype(np.float32)
    columns: dict[str, Any] = {
        "id": index_id(shard, 0) + rows,
        "uid": pa.array([rng.bytes(16).hex() for _ in range(count)], pa.string()),
        "caption": pa.array([WORDS[place % len(WORDS)] for place in range(count)], pa.string()),
        "width": pa.array(rng.integers(1, 100, count), pa.int32()),
        "clip_similarity": pa.array(scores, mask=rng.random(count) < 0.2),
    }
    return pa.table(columns)


def write(folder: str, tables: dict[int, pa.Table]) -> Metadata:
    parts: list[Part] = []
    for shard, table in tables.items():
        file = write_metadata(folder, shard, table)
        rows, columns = len(table), {"columns": columns_digest(table)}
        parts.append(Part(part_name(shard), (file,), rows, rows, {}, columns))
    write_columns(folder, folder, parts)
    return reopened(folder, tables)


def reopened(folder: str, tables: dict[int, pa.Table], removed: Any = None) -> Metadata:
    ids = np.concatenate([np.empty(0, np.int64), *(t["id"].to_numpy() for t in tables.values())])
    return Metadata.open(folder, folder, ids, removed)


def mapped_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are mapped from now on, as they are."""
    names: list[str] = []
    mapped = metadata_files.map_batches

    def noted(url: str, schema: Any = None) -> Any:
        names.append(url.rpartition("/")[2])
        return mapped(url, schema)

    monkeypatch.setattr("indexes.metadata.map_batches", noted)
    return names


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_files, "BATCH", 7)


@pytest.fixture
def tables() -> dict[int, pa.Table]:
    return {shard: rows_of(shard, count) for shard, count in ROWS.items()}


@pytest.fixture
def facts(tmp_path: Path, tables: dict[int, pa.Table], small_batches: None) -> Metadata:
    return write(str(tmp_path), tables)


def naive(tables: dict[int, pa.Table], wanted: Sequence[int]) -> list[dict[str, Any]]:
    rows = {row["id"]: row for table in tables.values() for row in table.to_pylist()}
    return [rows[key] for key in wanted]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    return repr(found) == repr(expected)  # NaN is not itself


def test_rows_come_in_the_order_asked(facts: Metadata, tables: dict[int, pa.Table]) -> None:
    assert len(facts) == sum(ROWS.values())
    assert facts.ids.tolist() == sorted(key for t in tables.values() for key in t["id"].to_pylist())
    assert facts.columns == tables[0].column_names
    everything = facts.ids
    assert same(facts.table().to_pylist(), naive(tables, everything.tolist()))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(everything.tolist()), max_size=90))
    def check(wanted: list[int]) -> None:
        found = facts.take(np.array(wanted, np.int64))
        assert found.schema.equals(facts.schema)
        assert same(found.to_pylist(), naive(tables, wanted))

    check()


def test_places_are_those_among_all_ids(facts: Metadata) -> None:
    places = np.random.default_rng(0).permutation(len(facts))
    assert facts.at(places).tolist() == facts.ids[places].tolist()
    assert facts.at(places[:0]).tolist() == []


@pytest.mark.parametrize("gone", [[0], [0, 1, 2, 23], [22, 23, 24, 63], list(range(64)), [5, 5000]])
def test_removed_ids_leave_no_gaps(
    tmp_path: Path, facts: Metadata, tables: dict[int, pa.Table], gone: list[int]
) -> None:
    every = facts.ids
    removed = np.sort([every[place] if place < 64 else index_id(9, place) for place in gone])
    left = np.setdiff1d(every, removed)
    rest = reopened(str(tmp_path), tables, removed)
    assert len(rest) == len(left) and rest.ids.tolist() == left.tolist()
    assert rest.at(np.arange(len(left))).tolist() == left.tolist()
    assert rest.table()["id"].to_pylist() == left.tolist() == rest.matching("true").tolist()
    if len(left):
        uids = facts.take(every, ["uid"])["uid"].to_pylist()
        found = rest.find_all(uids)
        assert found[found >= 0].tolist() == left.tolist()
        assert rest.every(uids)["id"].to_pylist() == left.tolist()


def test_only_shards_that_are_asked_for_are_mapped(
    tmp_path: Path, tables: dict[int, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write(str(tmp_path), tables)
    names = mapped_files(monkeypatch)
    facts = reopened(str(tmp_path), tables, expected.ids[:2])
    assert (len(facts), facts.columns) == (len(expected) - 2, expected.columns)
    first, last = facts.at(np.array([0, len(facts) - 1])).tolist()
    assert facts.take(np.array([last])).num_rows == 1
    assert names == ["00007.arrow"]
    (tmp_path / metadata_path(3)).unlink()
    assert facts.take(np.array([first, last, last]))["id"].to_pylist() == [first, last, last]
    assert names == ["00007.arrow", "00000.arrow"]
    for ask in (lambda: facts.take(tables[3]["id"].to_numpy()), lambda: facts.matching("true")):
        with pytest.raises(SluiceError, match=r"metadata/00003\.arrow is missing"):
            ask()


def test_of_shards_with_the_same_columns_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = mapped_files(monkeypatch)
    tables = {shard: rows_of(shard, 3) for shard in range(6)}
    tables[4] = tables[4].drop_columns(["width"])
    write(str(tmp_path), tables)
    assert names == ["00000.arrow", "00004.arrow"]


def test_damaged_columns_are_named(tmp_path: Path, tables: dict[int, pa.Table]) -> None:
    write(str(tmp_path), tables)
    path = tmp_path / COLUMNS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SluiceError, match=r"columns\.arrow is damaged"):
        reopened(str(tmp_path), tables)
    path.unlink()
    with pytest.raises(SluiceError, match=r"columns\.arrow is missing"):
        reopened(str(tmp_path), tables)


def test_a_file_with_values_of_another_type_is_named(
    tmp_path: Path, tables: dict[int, pa.Table]
) -> None:
    facts = write(str(tmp_path), tables)
    other = tables[3].set_column(3, "width", pa.array(["wide"]))
    write_metadata(str(tmp_path), 3, other)
    for ask in (lambda: facts.take(facts.ids), lambda: facts.matching("true")):
        with pytest.raises(SluiceError, match=r"00003\.arrow is damaged"):
            ask()


@pytest.mark.parametrize("missing", [index_id(0, 1001), index_id(1, 0), index_id(7, 999_999)])
def test_an_id_that_is_not_here_is_an_error(facts: Metadata, missing: int) -> None:
    assert missing not in facts.ids
    for wanted in ([missing], [int(facts.ids[0]), missing]):
        with pytest.raises(SluiceError, match="id"):
            facts.take(np.array(wanted))


@pytest.mark.parametrize("mixers", ["as they are", "all keys alike"])
def test_every_uid_is_found_and_no_other(
    tmp_path: Path, tables: dict[int, pa.Table], mixers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mixers == "all keys alike":
        monkeypatch.setattr(metadata_files, "MIXERS", np.zeros(4, np.uint64))
    facts = write(str(tmp_path), tables)
    uids: list[str] = facts.table()["uid"].to_pylist()
    order = np.random.default_rng(0).permutation(len(uids))
    asked = [uids[place] for place in order]
    assert facts.find_all([*asked, "nobody", ""]).tolist() == [*facts.ids[order], -1, -1]
    assert facts.find(asked[0]) == facts.ids[order[0]]
    assert facts.find("f" * 32) is None
    assert facts.find(asked[0] + "0") is None
    assert facts.find("\ud800") is None


def test_of_rows_with_one_uid_the_first_is_found(tmp_path: Path) -> None:
    table = rows_of(2, 9)
    again = table.set_column(1, "uid", pa.array(["ab" * 16] * 9))
    facts = write(str(tmp_path), {2: again, 4: rows_of(4, 3)})
    assert facts.find("ab" * 16) == again["id"][0].as_py()


def test_shards_may_have_other_columns(tmp_path: Path) -> None:
    tables = {0: rows_of(0, 5), 1: rows_of(1, 5), 2: rows_of(2, 5)}
    tables[1] = tables[1].drop_columns(["clip_similarity"])
    tables[1] = tables[1].append_column("concept", pa.array(["cat"] * 5))
    tables[2] = tables[2].set_column(2, "caption", pa.nulls(5))
    tables[2] = tables[2].set_column(3, "width", tables[2]["width"].cast(pa.int64()))
    facts = write(str(tmp_path), tables)
    assert facts.columns == ["id", "uid", "caption", "width", "clip_similarity", "concept"]
    assert facts.schema.field("width").type == pa.int64()
    assert facts.schema.field("caption").type == pa.string()
    rows = facts.take(facts.ids).to_pylist()
    some = facts.take(facts.ids[4:6], ["concept", "uid"]).to_pylist()
    assert some == [{"concept": row["concept"], "uid": row["uid"]} for row in rows[4:6]]
    assert [row["concept"] for row in rows] == [None] * 5 + ["cat"] * 5 + [None] * 5
    assert [row["clip_similarity"] for row in rows[5:10]] == [None] * 5
    assert len(facts.matching("concept = 'cat' and clip.similarity is null")) == 5
    assert facts.facets("concept") == ([("cat", 5)], 10)


def test_types_that_do_not_go_together_are_an_error(tmp_path: Path) -> None:
    other = rows_of(1, 3)
    other = other.set_column(3, "width", pa.array(["wide"] * 3))
    with pytest.raises(SluiceError, match="do not agree"):
        write(str(tmp_path), {0: rows_of(0, 3), 1: other})


def test_conditions_are_those_of_a_table(facts: Metadata) -> None:
    frame = facts.table().to_pandas()
    expected = frame.id[(frame.width > 50) & (frame.clip_similarity > 0)].tolist()
    assert facts.matching("width > 50 and clip.similarity > 0 and not isnan(clip_similarity)"
                          ).tolist() == expected  # fmt: skip
    assert facts.matching("false").tolist() == []
    with pytest.raises(SluiceError, match="widht"):
        facts.matching("widht > 3")
    for bad in ("caption::INT > 3", "", "true; select 1", "caption = '\ud800'"):
        with pytest.raises(SluiceError, match="where="):
            facts.matching(bad)


@pytest.mark.parametrize("column", ["width", "clip_similarity", "id"])
@pytest.mark.parametrize("where", [None, "width > 40", "false"])
def test_histograms_count_every_row_once(facts: Metadata, column: str, where: str | None) -> None:
    rows = facts.take(facts.matching(where or "true"))
    values = [value for value in rows[column].to_pylist() if value is not None]
    finite = [value for value in values if math.isfinite(value)]
    found = facts.histogram(column, where, 6)
    assert int(found.counts.sum()) + found.nulls == len(rows)
    assert int(found.counts.sum()) == len(finite)
    counts, edges = np.histogram(np.array(finite, np.float64), 6)
    assert found.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(found.edges, edges)


def test_facets_are_the_most_frequent_values(facts: Metadata) -> None:
    captions: list[str | None] = facts.table()["caption"].to_pylist()
    counts = Counter(caption for caption in captions if caption is not None)
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    assert facts.facets("caption") == (expected, captions.count(None))
    assert facts.facets("caption", top=2) == (expected[:2], captions.count(None))
    assert facts.facets("caption", "caption is not null", 1) == (expected[:1], 0)
    assert facts.facets("caption", "false") == ([], 0)


def test_a_column_that_is_none_is_an_error(facts: Metadata) -> None:
    for ask in (facts.histogram, facts.facets):
        with pytest.raises(SluiceError, match="no column '\"; drop"):
            ask('"; drop')
    with pytest.raises(SluiceError, match="no numbers"):
        facts.histogram("caption")
    with pytest.raises(SluiceError, match="bins"):
        facts.histogram("width", bins=0)


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    table = rows_of(0, 20)
    pieces = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert write_metadata(str(tmp_path), 0, table) == write_metadata(str(tmp_path), 0, pieces)


def test_no_rows_are_rows_too(tmp_path: Path) -> None:
    facts = write(str(tmp_path), {0: rows_of(0, 0), 1: rows_of(1, 2)})
    assert len(facts) == 2
    assert facts.take(facts.ids[:0]).num_rows == 0
    nothing = write(str(tmp_path), {})
    assert (len(nothing), nothing.columns) == (0, ["id", "uid"])
    assert nothing.matching("true").tolist() == [] and nothing.find("ab") is None


def test_a_remote_store_is_read_whole_once(
    tables: dict[int, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = write("memory://metadata-test", tables)
    read: list[str] = []
    whole = filesystem.read_bytes
    monkeypatch.setattr(filesystem, "read_bytes", lambda url: read.append(url) or whole(url))
    for _ in range(2):
        assert same(facts.take(facts.ids).to_pylist(), naive(tables, facts.ids.tolist()))
        assert len(facts.matching("true")) == len(facts)
    assert len(read) == len(set(read)) == len(tables)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_file_stays_open(facts: Metadata) -> None:
    gc.collect()
    before = open_files()
    held = facts.take(facts.ids)
    assert open_files() == before
    assert len(held) == len(facts)


@pytest.mark.parametrize("size", [0, 5, 40, 700, -3])
def test_a_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    facts = write(str(tmp_path), {0: rows_of(0, 20)})
    path = tmp_path / metadata_path(0)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SluiceError, match=r"metadata/00000\.arrow is damaged"):
        facts.take(facts.ids[:1])


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    table = rows_of(4, 3)
    for folder in (str(tmp_path), "memory://nowhere"):
        facts = Metadata(folder, table["id"].to_numpy(), table.schema)
        with pytest.raises(SluiceError, match=r"00004\.arrow is missing"):
            facts.take(facts.ids)
    path = tmp_path / metadata_path(4)
    path.parent.mkdir()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema):
        pass
    facts = Metadata(str(tmp_path), table["id"].to_numpy(), table.schema)
    with pytest.raises(SluiceError, match=r"00004\.arrow is not what an index knows"):
        facts.take(facts.ids)


def test_what_points_outside_of_a_file_is_found_before_it_is_followed(tmp_path: Path) -> None:
    table = rows_of(0, 20)
    write(str(tmp_path), {0: table})
    path = tmp_path / metadata_path(0)
    sound = path.read_bytes()
    offsets = bytes(pa.array(table["uid"].to_pylist()).buffers()[1])[: 4 * 21]
    ids = table["id"].to_numpy().tobytes()
    changes = [
        (offsets, offsets[:40] + b"\xff\xff\xff\x7f" + offsets[44:]),
        (ids, ids[8:16] + ids[:8] + ids[16:]),
        ("dög".encode(), b"d\xff\xffg"),
    ]
    for place, damage in changes:
        assert place in sound
        path.unlink()
        path.write_bytes(sound.replace(place, damage))
        facts = reopened(str(tmp_path), {0: table})
        with pytest.raises(SluiceError, match=r"00000\.arrow is damaged"):
            facts.take(facts.ids)


def test_metadata_of_a_shard_are_its_facts_and_scores(store: str) -> None:
    from indexes.embeddings import vectors_of

    curated = open_dataset(store, "curated")
    embedding = vectors_of(curated, "clip/image")
    rows = np.array([3, 10, 59])
    table = shard_metadata(curated, embedding, 1, rows)
    assert table["id"].to_pylist() == [index_id(1, row) for row in rows.tolist()]
    assert table["uid"].to_pylist() == [curated.rows(1)["uid"][row].as_py() for row in rows]
    assert {"caption", "concept", "clip_similarity"} < set(table.column_names)
