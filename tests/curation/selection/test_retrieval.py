"""Retrieval around a reference set, against brute force; what cannot be compared is refused."""

from pathlib import Path

import numpy as np
import pytest

from infra.errors import SluiceError
from tests.curation.conftest import Maker

ROWS = 120


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def vectors() -> np.ndarray:
    found = unit(np.random.default_rng(0).normal(size=(ROWS, 8)))
    found[7] = 0
    return found


@pytest.fixture
def made(maker, vectors):
    maker = Maker(maker.store, 50)
    made = maker.dataset("pool", [{}] * ROWS)
    maker.score(made, "clip", {"fine": [True] * ROWS}, {"image": vectors})
    return made


@pytest.fixture
def reference(tmp_path: Path) -> tuple[str, np.ndarray]:
    found = unit(np.random.default_rng(1).normal(size=(5, 8)))
    np.save(tmp_path / "reference.npy", found)
    return str(tmp_path / "reference.npy"), found.astype(float)


def chosen(selecting, made, **more) -> np.ndarray:
    artifact = selecting.select(made, {"kind": "retrieval", **more})
    assert artifact.totals["dropped"]["no_vector"] == 1
    (part,) = artifact.parts
    figures = part.extra["selectors"][0]
    assert figures["expected"] == figures["realised"] == part.kept
    return np.flatnonzero(selecting.table(artifact.url, made)["selected"].to_pylist())


def test_the_nearest_of_each_reference(selecting, made, vectors, reference) -> None:
    url, found = reference
    similarity = found @ vectors.astype(float).T
    similarity[:, 7] = -9
    nearest = np.unique(np.argsort(-similarity, axis=1)[:, :4])
    assert chosen(selecting, made, reference=url, neighbours=4).tolist() == nearest.tolist()


def test_a_threshold(selecting, made, vectors, reference) -> None:
    url, found = reference
    best = (found @ vectors.astype(float).T).max(axis=0)
    rows = chosen(selecting, made, reference=url, threshold=0.6)
    assert rows.tolist() == np.flatnonzero(best >= 0.6).tolist()


def test_cells_with_a_reference(selecting, made, vectors, reference) -> None:
    url, _ = reference
    rows = chosen(selecting, made, reference=url, cells=12)
    assert 5 <= len(rows) < ROWS - 1
    assert len(chosen(selecting, made, reference=url, cells=1)) == ROWS - 1


def test_the_vectors_of_another_version(maker, selecting, made, vectors, reference) -> None:
    url, found = reference
    other = maker.dataset("other", [{}] * 5)
    maker.score(other, "clip", {"fine": [True] * 5}, {"image": found})
    version = f"other@{other.digest}"
    rows = chosen(selecting, made, reference=version, threshold=0.6)
    assert rows.tolist() == chosen(selecting, made, reference=url, threshold=0.6).tolist()
    stranger = maker.dataset("stranger", [{}] * 5)
    maker.score(
        stranger, "clip", {"fine": [True] * 5}, {"image": found}, settings={"model": "other"}
    )
    with pytest.raises(SluiceError, match="has no vectors clip/image made as those"):
        chosen(selecting, made, reference=f"stranger@{stranger.digest}", threshold=0.6)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 8)), "holds no vector"),
        (np.full((1, 8), np.nan), "holds no vector"),
        (np.ones((2, 4)), "4 dimensions"),
        (np.ones(8), "shape"),
        (np.array(["a"]), "give floats"),
    ],
)
def test_a_reference_that_cannot_be_compared(selecting, made, tmp_path, array, words) -> None:
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(SluiceError, match=words):
        chosen(selecting, made, reference=str(tmp_path / "wrong.npy"), neighbours=1)


def test_a_file_that_is_no_array(selecting, made, tmp_path) -> None:
    (tmp_path / "wrong.npy").write_text("no array")
    with pytest.raises(SluiceError, match=r"no \.npy"):
        chosen(selecting, made, reference=str(tmp_path / "wrong.npy"), neighbours=1)
