"""The outlier score: golden against scikit-learn and SciPy, calibrated, stated at its limits."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.outlier import Gaussian, fit, shrunk_covariance
from curation.scores.reference import Given, Reference, percentiles, read_reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import OutlierSettings
from infra.errors import SluiceError
from tests.curation.conftest import Maker


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cloud(count: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    """Unit vectors around one direction, as those of a model are; float16."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(count, dim)) * np.linspace(0.02, 0.3, dim)
    return unit(np.eye(dim)[0] + spread).astype(np.float16)


def batch(vectors: np.ndarray) -> Batch:
    empty = [None] * len(vectors)
    return Batch(pa.table({"status": ["ok"] * len(vectors)}), empty, empty, {"clip/image": vectors})


@pytest.mark.parametrize("count", [8, 200])
def test_distances_are_those_of_scikit_learn_and_scipy(count: int) -> None:
    points = cloud(count).astype(np.float64)
    centred = points - points.mean(axis=0)
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    assert shrunk_covariance(centred) == pytest.approx(covariance, rel=1e-9, abs=1e-12)
    others = cloud(5, seed=1).astype(np.float64)
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(other, points.mean(axis=0), inverse) for other in others]
    assert Gaussian.fit(points).distances(others) == pytest.approx(expected, rel=1e-6)


def test_components_measure_within_the_principal_directions() -> None:
    points = cloud(300).astype(np.float64)
    gaussian = Gaussian.fit(points, components=3)
    _, _, axes = np.linalg.svd(points - points.mean(axis=0))
    inside, outside = points.mean(axis=0) + axes[:1], points.mean(axis=0) + axes[-1:]
    assert gaussian.distances(outside) == pytest.approx(0, abs=1e-6)
    assert gaussian.distances(inside) > 1
    everything = Gaussian.fit(points, components=12).distances(inside)
    assert everything == pytest.approx(Gaussian.fit(points).distances(inside))
    with pytest.raises(SluiceError, match="13 components of vectors of 12 numbers"):
        Gaussian.fit(points, components=13)


@pytest.mark.parametrize("count", [60, 1000])
def test_a_percentile_means_what_it_says_even_with_few_points(count: int) -> None:
    """Of fresh points of the same kind some p per cent come above the percentile 100 - p."""
    made, fresh = fit(cloud(count, 64)), cloud(2000, 64, seed=1)
    found = percentiles(made.gaussian.distances(fresh).astype(np.float32), made.distances)
    for level in (50, 80, 90):
        assert (found > level).mean() * 100 == pytest.approx(100 - level, abs=16)
    assert (found > 99).mean() < 0.12


def test_what_is_unlike_the_reference_comes_last(maker: Maker) -> None:
    reference = reference_of(maker, cloud(200))
    settings = OutlierSettings.model_validate({"kind": "outlier"})
    scorer = chosen_scorer("odd", settings, Given(ClipScorer("m"), reference, reference))
    vectors = np.concatenate([cloud(20, seed=2), np.eye(12)[-1:], np.zeros((1, 12))])
    found = scorer.score(batch(vectors.astype(np.float16))).columns
    assert found.schema == scorer.columns
    assert found["percentile"][20].as_py() == 100
    assert found["distance"][20].as_py() > 2 * max(found["distance"].to_pylist()[:20])
    assert found["distance"][21].as_py() is None and found["percentile"][21].as_py() is None
    assert reference.digest in repr(scorer.settings())
    nothing = scorer.score(batch(np.zeros((0, 12), np.float16))).columns
    assert nothing.num_rows == 0


def reference_of(maker: Maker, vectors: np.ndarray) -> Reference:
    made = maker.dataset("trusted", [{"caption": f"{row}"} for row in range(len(vectors))])
    maker.score(made, "clip", {"similarity": [0.0] * len(vectors)}, {"image": vectors})
    return Reference(made.url, made.folders["clip"])


def test_reference_rows_do_not_depend_on_shards(maker: Maker) -> None:
    vectors = cloud(30)
    vectors[4] = 0
    rows = read_reference(reference_of(maker, vectors), "image", 1000)
    other = Maker(f"{maker.store}/other", 7)
    again = read_reference(reference_of(other, vectors), "image", 1000)
    assert (rows.vectors == again.vectors).all() and rows.captions == again.captions
    assert sorted(map(int, rows.captions)) == [row for row in range(30) if row != 4]
    assert (vectors[[int(caption) for caption in rows.captions]] == rows.vectors).all()
    for limit in (1, 6, 29):
        few = read_reference(reference_of(maker, vectors), "image", limit)
        same = read_reference(reference_of(other, vectors), "image", limit)
        assert few.captions == same.captions and (few.vectors == same.vectors).all()
        assert limit - 1 <= len(few.captions) <= limit  # row 4 may be among them
        assert list(rows.captions[: len(few.captions)]) == list(few.captions)


def test_few_rows_of_many_are_read_alike(maker: Maker) -> None:
    vectors = cloud(200)
    one, other = Maker(maker.store, 200), Maker(f"{maker.store}/other", 13)
    for limit in (1, 5, 40):
        few = read_reference(reference_of(one, vectors), "image", limit)
        same = read_reference(reference_of(other, vectors), "image", limit)
        assert few.captions == same.captions and (few.vectors == same.vectors).all()
        assert (vectors[[int(caption) for caption in few.captions]] == few.vectors).all()


def test_points_on_a_line_still_give_a_distance() -> None:
    """A direction without any variance has a floor: what leaves it is far, not infinite."""
    points = np.tile(unit(np.array([[1, 0.1, 0], [1, -0.1, 0]])), (50, 1))
    gaussian = Gaussian.fit(points)
    along, away = gaussian.distances(points.mean(axis=0) + 0.1 * np.eye(3)[1:])
    assert along == pytest.approx(1, rel=0.02)
    assert 100 < away < np.inf


def test_a_reference_that_tells_nothing_is_refused(maker: Maker) -> None:
    with pytest.raises(SluiceError, match="have no spread: all are equal"):
        fit(np.tile(cloud(1), (100, 1)))
    with pytest.raises(SluiceError, match="has 9 vectors, an outlier score needs 10"):
        fit(cloud(9))
    with pytest.raises(SluiceError, match="vectors have 3 numbers, the reference's 12"):
        fit(cloud(50)).gaussian.distances(np.eye(3))
    settings = OutlierSettings.model_validate({"kind": "outlier"})
    with pytest.raises(SluiceError, match=r"scores\.odd compares with the trusted split"):
        chosen_scorer("odd", settings, Given(ClipScorer("m"), Reference("p", "clip-0"), None))
    with pytest.raises(SluiceError, match=r"no sample of .* has a vector 'image'"):
        read_reference(reference_of(maker, np.zeros((5, 12))), "image", 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0], ids=["nan", "inf", "long"])
def test_vectors_that_are_none_are_refused(maker: Maker, value: float) -> None:
    vectors = cloud(20)
    vectors[3, 0] = value
    with pytest.raises(SluiceError, match="neither of unit length nor zero"):
        read_reference(reference_of(maker, vectors), "image", 100)
