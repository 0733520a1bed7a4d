"""A subset file that we write is one that ingest reads."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.columns import dataset_at
from curation.dedup import ALL
from curation.rules_settings import RuleSettings
from curation.settings import SourceSettings
from curation.sources import open_source
from curation.sources.subset import PAIRS
from curation.subset_file import uid_halves, write_subset
from curation.verdicts import VerdictsWork, verdicts_draft
from infra.errors import SluiceError

UIDS = ["f" * 32, "0" * 31 + "1", "8" + "0" * 31, "0" * 31 + "1", "0" * 15 + "1" + "f" * 16]


@pytest.fixture
def made(maker):
    made = maker.dataset("pool", [*({"uid": uid} for uid in UIDS), {"rejected": "not_an_image"}])
    maker.score(made, "clip", {"similarity": [0.9, 0.1, 0.9, 0.9, 0.1, 0.9]})
    return made


@given(st.lists(st.integers(0, 2**128 - 1)))
def test_a_uid_is_two_numbers(numbers: list[int]) -> None:
    halves = uid_halves(pa.chunked_array([pa.array([f"{n:032x}" for n in numbers], pa.string())]))
    assert [(int(high) << 64) + int(low) for high, low in halves] == numbers


def test_ingest_takes_what_was_written(made, tmp_path: Path) -> None:
    target = tmp_path / "out/subset.npy"
    assert write_subset(dataset_at(made.url), str(target)) == 5
    pairs = np.load(target)
    assert pairs.dtype == PAIRS
    assert pairs.tolist() == sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in UIDS)
    assert [path.name for path in target.parent.iterdir()] == ["subset.npy"]
    every = {"uid": [*sorted(set(UIDS)), "e" * 32], "url": list("abcde"), "text": ["x"] * 5}
    pq.write_table(pa.table(every), tmp_path / "t.parquet")
    source = SourceSettings(urls=str(tmp_path / "t.parquet"), subset=str(target))
    records = [record for unit in open_source(source).units(9) for record in unit.records()]
    assert Counter(record.uid for record in records) == Counter(UIDS)


def test_of_verdicts_those_that_are_kept(made, maker, tmp_path: Path) -> None:
    rules = [RuleSettings(reason="poor", score="similarity", min=0.5)]
    draft = verdicts_draft(made.url, made.digest, made.folders, None, rules, None)
    work = VerdictsWork(draft.url, made.url, made.folders, None, rules, None)
    digest = maker.run(draft, [ALL], work).digest
    target = tmp_path / "subset.npy"
    assert write_subset(dataset_at(made.url), str(target), digest[:6]) == 3
    kept = sorted((int(UIDS[i][:16], 16), int(UIDS[i][16:], 16)) for i in (0, 2, 3))
    assert np.load(target).tolist() == kept
    with pytest.raises(SluiceError, match=f"0 verdicts .* 'zz'.*\n.*{digest}"):
        write_subset(dataset_at(made.url), str(target), "zz")


def test_an_empty_version_is_an_empty_subset(maker, tmp_path: Path) -> None:
    made = maker.dataset("pool", [{"rejected": "not_an_image"}])
    assert write_subset(dataset_at(made.url), str(tmp_path / "s.npy")) == 0
    assert np.load(tmp_path / "s.npy").shape == (0,)
