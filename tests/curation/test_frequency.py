"""Caption frequency: exact, over all shards."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curation.columns import column_schemas, read_columns
from curation.dedup import ALL
from curation.frequency import (
    COLUMNS,
    NAME,
    FrequencyWork,
    counts_of,
    frequency_draft,
    normalised,
    repeats,
)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=5))
def test_counts_are_those_of_the_whole(shards: list[list[int]]) -> None:
    pieces = [np.array(shard, np.uint64) for shard in shards]
    repeated, counts = repeats(list(pieces))
    often = Counter(value for shard in shards for value in shard)
    for shard, piece in zip(shards, pieces, strict=True):
        assert counts_of(piece, repeated, counts).tolist() == [often[value] for value in shard]


def test_equal_captions_are_counted_across_shards(maker) -> None:
    captions = ["A cat", "a  CAT ", "ａ cat", "a dog", "", "  ", "a\u00a0cat\n", "dog a", None]
    samples = [*({"caption": c} for c in captions), {"caption": "a cat", "rejected": "broken"}]
    made = maker.dataset("pool", samples)
    draft = frequency_draft(made.url, made.digest)
    artifact = maker.run(draft, [ALL], FrequencyWork(draft.url, made.url))
    folders = {NAME: draft.url.rpartition("/")[2]}
    found = pa.concat_tables(
        read_columns(made.url, folders, shard, ["frequency.captions"]) for shard in range(3)
    )["frequency.captions"].to_pylist()
    assert found == [4, 4, 4, 1, None, None, 4, 1, None, None]
    assert column_schemas(made.url, folders, 0)[NAME].equals(COLUMNS)
    assert artifact.totals["rows"] == 10


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalised(pa.chunked_array([pa.array([text], pa.string())]))
    assert normalised(once).to_pylist() == once.to_pylist()


def test_an_empty_version(maker) -> None:
    made = maker.dataset("pool", [{"rejected": "broken"}])
    draft = frequency_draft(made.url, made.digest)
    assert maker.run(draft, [ALL], FrequencyWork(draft.url, made.url)).totals["rows"] == 1
