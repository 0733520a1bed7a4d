"""Rows taken out of a version, and indexes that go on from older ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indexes
from indexes.building import figures_of, stages
from indexes.kinds import KINDS
from indexes.settings import IndexSettings
from infra import artifacts, dataset
from infra.artifacts import Artifact, Spec
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.indexes.conftest import write_dataset, write_scores

Build = Callable[[str, str, IndexSettings], Artifact]


def settings_of(**values: Any) -> IndexSettings:
    return IndexSettings.model_validate({"publish_below_target": True, **values})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_removed_is_not_found_again(fresh_store: str, build: Build, kind: str) -> None:
    build(fresh_store, "curated", settings_of(kind=kind, lists=4))
    idx = indexes.open(f"{fresh_store}/curated")
    count, every = len(idx), idx.metadata.column("uid").to_pylist()
    vector = idx.vector(every[10])
    gone = [hit["uid"] for hit in idx.search(vector, k=3)]
    assert idx.remove(gone, "asked for by its author") == 3
    for again in (idx, indexes.open(f"{fresh_store}/curated")):
        assert len(again) == count - 3
        left = [hit["uid"] for hit in again.search(vector, k=count)]
        assert len(left) == count - 3 and not {*gone} & {*left}
        some = again.search(vector, k=5, where="width >= 1")
        assert len(some) == 5 and not {*gone} & {hit["uid"] for hit in some}
        assert not {*gone} & {hit["uid"] for hit in again.sample(count)}
        assert again.metadata.column("uid").to_pylist() == [u for u in every if u not in gone]
        assert sum(n for _, n in again.facts.facets("width").values) == count - 3
        with pytest.raises(SluiceError, match="there is no uid"):
            again.search(uid=gone[0])
        with pytest.raises(SluiceError, match="there is no uid"):
            again.remove([gone[0]])


def test_an_index_built_after_a_removal_does_not_hold_the_rows(
    new_store: Callable[..., str], tmp_path: Path, build: Build
) -> None:
    store = new_store(tmp_path, shards=2)
    settings = settings_of(kind="ivf_sq8", lists=4)
    first = build(store, "curated", settings)
    idx = indexes.open(f"{store}/curated")
    gone = idx.metadata.column("uid")[3].as_py()
    vector, count = idx.vector(gone), len(idx)
    idx.remove([gone])
    second = build(store, "curated", settings)
    assert second.digest != first.digest
    assert second.parts[0].kept == count - 1 and second.parts[0].dropped["removed"] == 1
    compact = indexes.open(f"{store}/curated")
    assert compact.artifact.digest == second.digest and len(compact) == count - 1
    assert gone not in {hit["uid"] for hit in compact.search(vector, k=count)}
    # Only the shard that held it was encoded again.
    assert artifacts.verify(second) == []
    assert build(store, "curated", settings).digest == second.digest


def grown(store: str, shards: int, seed: str = "0123456789abcdef") -> tuple[str, str]:
    """The pool with so many shards, scored; its name with the version, and its embedding."""
    from indexes.encoder import ClipEncoder

    spec = Spec("dataset", "ingest", {"source": "digits", "shards": shards})
    pool = write_dataset(f"{store}/pool/{spec.digest}", spec, shards, set())
    model = f"runs/filter/{seed}"
    folder = write_scores(dataset.Dataset(pool), ClipEncoder.load(f"{store}/{model}"), model)
    return f"pool@{pool.digest}", f"{folder}/image"


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_rabitq"])
def test_a_grown_version_takes_the_codes_that_are_there(
    new_store: Callable[..., str],
    tmp_path: Path,
    build: Build,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = new_store(tmp_path, shards=1)
    old, old_vectors = grown(store, 2)
    new, new_vectors = grown(store, 3)
    first = build(store, old, settings_of(kind=kind, lists=4, embedding=old_vectors))
    whole = build(store, new, settings_of(kind="flat", embedding=new_vectors))
    encoded: list[int] = []

    def counting(vectors: Any, trained: Any) -> Any:
        encoded.append(len(vectors))
        return real(vectors, trained)

    from indexes import codes

    real = codes.encoded
    monkeypatch.setattr(codes, "encoded", counting)
    after = settings_of(kind=kind, lists=4, embedding=new_vectors, after=old)
    second = build(store, new, after)
    assert encoded == [59]  # of the new shard alone, one of whose rows has no vector
    assert figures_of(second)["quantizer"] == figures_of(first)["quantizer"]
    idx = indexes.open(f"{store}/{new}")
    assert len(idx) == 3 * 59
    exact = indexes.open(f"{store}/{new}", whole.digest)
    for row in (5, 70, 150):
        uid = exact.metadata.column("uid")[row].as_py()
        ours, theirs = (
            each.search(uid=uid, k=10).table["uid"].to_pylist() for each in (idx, exact)
        )
        assert len({*ours} & {*theirs}) >= 8
    third = grown(store, 4)
    again = settings_of(kind=kind, lists=4, embedding=third[1], after=new)
    encoded.clear()
    build(store, third[0], again)
    assert encoded == [59]  # a chain of versions goes on from its first quantizer


def test_what_an_index_cannot_go_on_from(
    new_store: Callable[..., str], tmp_path: Path, build: Build
) -> None:
    from tests.indexes.conftest import write_model

    store = new_store(tmp_path, shards=1)
    write_model(tmp_path / "runs" / "filter" / "other", seed=5)
    old, old_vectors = grown(store, 2, "other")
    new, new_vectors = grown(store, 3)
    after = settings_of(embedding=new_vectors, after=old)
    with pytest.raises(SluiceError, match=f"index.after names {old}"):
        stages(open_dataset(store, new).url, "abc", after)
    build(store, old, settings_of(kind="ivf_flat", lists=4, embedding=old_vectors))
    with pytest.raises(SluiceError, match="another model"):
        build(store, new, after)


def test_vectors_that_changed_are_encoded_again(
    new_store: Callable[..., str], tmp_path: Path, build: Build
) -> None:
    from indexes.codes import content_of

    rng = np.random.default_rng(0)
    vectors, rows = rng.normal(size=(20, 8)).astype(np.float16), np.arange(0, 20, 2)
    first = content_of(vectors, rows)
    assert content_of(vectors.copy(), rows) == first != content_of(vectors, rows[1:])
    vectors[1] += 1  # a row that is not indexed
    assert content_of(vectors, rows) == first
    vectors[2] += 1
    assert content_of(vectors, rows) != first
