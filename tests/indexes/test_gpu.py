"""What a GPU is given to do. Without one faiss's own brute force on the CPU does it in its place.

The last test needs a GPU and is skipped where there is none.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import indexes
from indexes import coarse, gpu, lookup
from indexes.building import build_index, figures_of
from indexes.gpu import Resident, flat_index, resident
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import open_dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner

Build = Callable[[str, str, IndexSettings], Artifact]
HERE = gpu.resources() is not None


def on_cpu(queries: np.ndarray, base: np.ndarray, k: int) -> Any:
    return faiss.knn(queries, base, min(k, len(base)), metric=faiss.METRIC_INNER_PRODUCT)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss on the CPU behind the calls that a GPU would answer."""
    if not HERE:
        monkeypatch.setattr(gpu, "resources", lambda: "pretended")
        monkeypatch.setattr(gpu, "nearest", on_cpu)
        monkeypatch.setattr(lookup, "flat_index", faiss.IndexFlatIP)


def test_the_nearest_centroid_is_found(pretended: None) -> None:
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(200, 16)).astype(np.float32)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    cells = coarse.Coarse(centroids, centroids[:1], np.array([0, 200]))
    products = vectors @ centroids.T
    chosen = products[np.arange(len(vectors)), cells.assign(vectors)]
    assert chosen == pytest.approx(products.max(axis=1), rel=1e-5)


def test_an_index_built_with_it_is_measured_the_same(
    new_store: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth by which recall is measured is the same; codes may lie in other lists."""
    found = {}
    for name in ("without", "with"):
        store = new_store(tmp_path / name, shards=3)
        version = open_dataset(store, "curated")
        settings = IndexSettings.model_validate({"kind": "ivf_sq8", "lists": 8})
        if name == "with" and not HERE:
            monkeypatch.setattr(gpu, "resources", lambda: "pretended")
            monkeypatch.setattr(gpu, "nearest", on_cpu)
        with InlineRunner() as runner:
            made = build_index(version, settings, runner, SilentDisplay())
        assert artifacts.verify(made) == []
        codes = artifacts.load(version.artifact.path("codes", figures_of(made)["codes"]))
        assert codes is not None
        truths = [np.load(codes.path("truth", f"{part.name}.npy")) for part in codes.parts]
        found[name] = {
            (part.name, int(each["query"]), int(each["row"])): float(each["similarity"])
            for part, truth in zip(codes.parts, truths, strict=True)
            for each in truth
        }
        assert min(figures_of(made)["recall@10"].values()) >= 0.99
    both = found["without"].keys() & found["with"].keys()
    assert len(found["without"].keys() ^ found["with"].keys()) <= len(both) / 1000  # at the bound
    differences = [abs(found["without"][each] - found["with"][each]) for each in both]
    assert len(both) > 1000 and max(differences) < 1e-6


def test_a_search_there_gives_the_bits_that_a_search_of_all_gives(
    store: str, pretended: None
) -> None:
    plain, other = indexes.open(f"{store}/curated"), indexes.open(f"{store}/curated", device="cuda")
    vectors = plain.stored(plain.facts.ids[:40])
    for k in (1, 10, len(plain)):
        expected, given = plain.nearest(vectors, k), other.nearest(vectors, k)
        assert np.array_equal(expected[0], given[0]) and np.array_equal(expected[1], given[1])
    hits = other.search(vectors[0], 5)
    assert hits.to_arrow().equals(plain.search(vectors[0], 5).to_arrow())
    assert "on the GPU" in hits.explain() and "on the GPU" not in plain.search(vectors[0]).explain()


def test_conditions_ranges_and_very_many_results_are_answered_without_it(
    store: str, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other = indexes.open(f"{store}/curated"), indexes.open(f"{store}/curated", device="cuda")
    vector = plain.stored(plain.facts.ids[:1])[0]

    def refuse(self: Resident, queries: np.ndarray, k: int) -> Any:
        raise AssertionError("the GPU was asked")

    monkeypatch.setattr(Resident, "candidates", refuse)
    monkeypatch.setattr(lookup, "MOST", 50)
    for ask in (
        lambda idx: idx.search(vector, 5, where="width = 48"),
        lambda idx: idx.range_search(vector, min_similarity=0.5),
        lambda idx: idx.search(vector, 40),
    ):
        assert ask(other).to_arrow().equals(ask(plain).to_arrow())


def test_rows_that_were_removed_are_not_held(
    fresh_store: str, build: Build, pretended: None
) -> None:
    build(fresh_store, "curated", IndexSettings())
    index = indexes.open(f"{fresh_store}/curated", device="cuda")
    first = index.sample(1)
    uid, vector = first.to_pandas()["uid"][0], index.stored(first.to_arrow()["id"].to_numpy())[0]
    assert index.search(vector, 1).to_pandas()["uid"][0] == uid
    index.remove([uid])
    found = index.search(vector, len(index) + 1).to_pandas()["uid"].tolist()
    assert uid not in found and len(found) == len(index)


def test_vectors_that_do_not_fit_are_told(store: str) -> None:
    class Full:
        d = 16

        def add(self, rows: np.ndarray) -> None:
            raise RuntimeError("Error in virtual void* allocMemory()\nout of memory")

    index = indexes.open(f"{store}/curated")
    with pytest.raises(SluiceError, match=r"do not go into the GPU's memory: out of memory"):
        resident(Full(), index._lookup.embedding, index.facts.ids)


def test_a_device_that_there_is_not_is_refused(store: str) -> None:
    with pytest.raises(SluiceError, match="no device 'tpu'"):
        indexes.open(f"{store}/curated", device="tpu")
    if not HERE:
        with pytest.raises(SluiceError, match="faiss finds no GPU"):
            indexes.open(f"{store}/curated", device="cuda")


@pytest.mark.skipif(not HERE, reason="faiss finds no GPU here")
def test_a_real_gpu_finds_the_nearest() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5000, 64)).astype(np.float32)
    queries = base[:50] + 0.01 * rng.normal(size=(50, 64)).astype(np.float32)
    similarity, rows = gpu.nearest(queries, base, 10)
    products = queries @ base.T
    assert rows[:, 0].tolist() == list(range(50))
    assert similarity == pytest.approx(-np.sort(-products, axis=1)[:, :10], rel=1e-4)
    held = flat_index(64)
    held.add(base)
    assert Resident(held, np.arange(5000)).candidates(queries, 1)[:, 0].tolist() == list(range(50))
