"""Stores written by older code stay readable: everything that reads one reads the kept ones."""

from pathlib import Path

import numpy as np
import pytest

import indexes
from curation.explain import explain
from flows.export import export
from flows.main import Options
from flows.store.diff import diff
from flows.store.lineage import lineage
from flows.store.trace import trace
from infra.catalogue.gc import Retention, plan_gc
from infra.catalogue.survey import survey
from infra.catalogue.verify import verify_store
from infra.dataset import open_dataset
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from pretrain import encoders
from tests.data.kept import KEPT, unpack


@pytest.fixture(scope="module", params=KEPT, ids=lambda path: path.name.partition(".")[0])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(request.param, tmp_path_factory.mktemp("old"))


def test_there_are_kept_stores() -> None:
    assert KEPT


def test_it_is_whole_and_nothing_in_it_is_litter(store: Path) -> None:
    catalogue = survey(str(store))
    looked, damage = verify_store(catalogue, InlineRunner(), SilentDisplay())
    assert damage == [] and looked == len(catalogue.nodes)
    assert plan_gc(catalogue, Retention(older_than=0, unfinished=0)).removals == []


def test_its_versions_are_read_explained_compared_and_traced(store: Path) -> None:
    curated = open_dataset(str(store), "curated")
    samples = [sample for shard in curated.shards for sample in curated.samples(shard)]
    assert len(samples) == curated.artifact.totals["kept"] > 0
    rows = [row for shard in curated.shards for row in curated.rows(shard).to_pylist()]
    gone = next(row for row in rows if row["reason"] == "exact_duplicate")
    (found,) = [each for each in explain(str(store), gone["uid"]) if each.state == "dropped"]
    assert found.reasons[0] == "exact_duplicate" and found.twin_uid and found.scores
    compared = diff(str(store), "pool", "curated", SilentDisplay())
    assert compared.movements.left == sum(each.count for each in compared.movements.moved) > 0
    kept = next(row["uid"] for row in rows if row["status"] == "ok")
    seen = trace(str(store), kept, SilentDisplay())
    assert {each.version.partition("@")[0] for each in seen.held} == {"pool", "curated"}
    (run,) = seen.saw
    assert run.times is not None
    assert "pool@" in str(lineage(str(store), run.run))


@pytest.mark.slow
def test_its_index_is_searched_its_run_loaded_and_its_samples_exported(
    store: Path, tmp_path: Path
) -> None:
    idx = indexes.open(f"{store}/curated", model=str(store / "model"))
    hits = idx.search("painted blocks", k=3)
    assert len(hits) == 3 and len(hits.more_like(0, k=3)) == 3
    run = next(node for node in survey(str(store)).nodes.values() if node.kind == "run")
    encoder = encoders.load(str(store / run.place))
    assert encoder.encode_images([np.asarray(hits.image(0))]).shape[0] == 1
    said = export(
        Options("your-shards", ("run.executor=inline",), str(store)),
        "curated", str(tmp_path / "out"), SilentDisplay(),
    )  # fmt: skip
    assert said.startswith(f"{open_dataset(str(store), 'curated').artifact.totals['kept']} samples")
