"""Going on from an older plan: its counts and clusters stand, only what is new is decided."""

from itertools import pairwise

import numpy as np
import pytest

from infra.artifacts import Artifact
from infra.dataset import read_table
from infra.errors import SluiceError
from tests.curation.conftest import Maker, uid_of

OLD, NEW = 300, 200


@pytest.fixture
def worlds(maker, tmp_path):
    """Old rows, new rows, and both in one, each with captions and vectors."""
    maker = Maker(maker.store, 64)
    rng = np.random.default_rng(0)
    total = OLD + NEW
    words = np.array(["dog", "cat", "owl", "none"])[np.minimum(rng.zipf(1.5, total) - 1, 3)]
    labels = rng.choice(6, total, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    vectors = np.eye(8)[labels] + rng.normal(size=(total, 8)) * 0.02
    made = []
    for name, rows in (("old", range(OLD)), ("new", range(OLD, total)), ("both", range(total))):
        one = maker.dataset(name, [{"uid": uid_of(i), "caption": words[i]} for i in rows])
        maker.score(one, "clip", {"fine": [True] * len(rows)}, {"image": vectors[list(rows)]})
        made.append(one)
    (tmp_path / "entries.txt").write_text("dog\ncat\nowl")
    return (*made, str(tmp_path / "entries.txt"), labels)


def uids(selecting, made, artifact: Artifact) -> set[str]:
    table = selecting.table(artifact.url, made)
    return set(table.filter(table["selected"])["uid"].to_pylist())


def place(made, artifact: Artifact) -> str:
    return f"{made.url.split('/')[-2]}@{made.digest}/{artifact.digest}"


def test_concepts_choose_of_the_new_rows_what_one_plan_over_all_would(selecting, worlds) -> None:
    old, new, both, entries, _ = worlds
    plan = {"kind": "concepts", "entries": entries, "t": 20}
    first = selecting.select(old, plan)
    second = selecting.select(new, plan, after=place(old, first))
    whole = selecting.select(both, plan)
    ours = {uid_of(i) for i in range(OLD, OLD + NEW)}
    assert uids(selecting, new, second) == uids(selecting, both, whole) & ours
    assert uids(selecting, new, second) < uids(selecting, new, selecting.select(new, plan))
    states = [read_table(one.path("state/concepts.parquet")) for one in (second, whole)]
    assert states[0].equals(states[1])


def test_a_quota_holds_over_both(selecting, worlds) -> None:
    old, new, both, _, _ = worlds
    plan = {"kind": "quotas", "by": "rows.caption", "most": 40}
    first = selecting.select(old, plan)
    second = selecting.select(new, plan, after=place(old, first))
    kept = {}
    for one, artifact in ((old, first), (new, second)):
        table = selecting.table(artifact.url, one)
        for cells in table.filter(table["selected"])["cells"].to_pylist():
            kept[cells[0]] = kept.get(cells[0], 0) + 1
    assert max(kept.values()) == 40
    state = read_table(second.path("state/quotas.parquet")).to_pylist()
    assert {row["value"]: row["taken"] for row in state} == kept
    whole = selecting.select(both, plan)
    assert first.totals["kept"] + second.totals["kept"] == whole.totals["kept"]


def test_old_and_new_rows_are_balanced_over_the_old_clusters(selecting, worlds) -> None:
    old, new, _, _, labels = worlds
    plan = {"kind": "clusters", "levels": [6], "target": 60}
    first = selecting.select(old, plan)
    second = selecting.select(new, plan, after=place(old, first))
    before, now = (
        np.bincount(labels[[int(uid, 16) for uid in found]], minlength=6)
        for found in (uids(selecting, old, first), uids(selecting, new, second))
    )
    assert (before.sum(), now.sum()) == (60, 60)
    left = now < np.bincount(labels[OLD:], minlength=6)
    assert (before + now)[now > 0].max() <= (before + now)[left].min() + 1
    states = [read_table(one.path("state/clusters.parquet")) for one in (first, second)]
    assert states[0]["centroid"].equals(states[1]["centroid"])
    assert sum(states[1]["taken"].to_pylist()) == 120


def test_what_is_not_there_to_go_on_from_is_told(selecting, worlds) -> None:
    old, new, _, entries, _ = worlds
    plan = {"kind": "concepts", "entries": entries, "t": 20}
    first = selecting.select(old, plan)
    with pytest.raises(SluiceError, match=r"selector other: .* left nothing to go on from"):
        selecting.select(new, plan | {"name": "other"}, after=place(old, first))
    with pytest.raises(SluiceError, match="nothing is committed"):
        selecting.select(new, plan, after=f"old@{old.digest}/0123456789abcdef")


def test_a_plan_over_a_grown_pool_keeps_what_the_older_one_chose(selecting, worlds) -> None:
    """Older choices stand as they are: what is decided anew is the new rows, by every selector.

    Over old and new rows in one, without `after`, concepts alone keep a subset of them.
    """
    old, new, both, entries, _ = worlds
    plan = (
        {"kind": "concepts", "entries": entries, "t": 60},
        {"kind": "quotas", "by": "rows.caption", "most": 70},
        {"kind": "clusters", "levels": [6], "fraction": 0.5},
        {"kind": "top", "fraction": 0.9},
    )
    first = selecting.select(old, *plan)
    before = selecting.table(first.url, old)
    second = selecting.select(new, *plan, after=place(old, first))
    assert selecting.table(first.url, old).equals(before)
    for artifact, made in ((first, old), (second, new)):
        (part,) = artifact.parts
        figures = part.extra["selectors"]
        assert [one["kind"] for one in figures] == ["concepts", "quotas", "clusters", "top"]
        for earlier, later in pairwise(figures):
            assert later["rows"] == earlier["realised"]
        for one in figures[1:]:  # what is not drawn one by one is as large as was expected
            assert one["expected"] == pytest.approx(one["realised"], abs=0.51)
        concepts = figures[0]
        assert abs(concepts["expected"] - concepts["realised"]) < 4 * concepts["rows"] ** 0.5
        assert figures[-1]["realised"] == part.kept == len(uids(selecting, made, artifact))
    chosen = uids(selecting, old, first) | uids(selecting, new, second)
    assert len(chosen) == first.totals["kept"] + second.totals["kept"]
    only = plan[0]
    alone, whole = selecting.select(old, only), selecting.select(both, only)
    ours = {uid_of(i) for i in range(OLD)}
    assert uids(selecting, both, whole) & ours <= uids(selecting, old, alone)
