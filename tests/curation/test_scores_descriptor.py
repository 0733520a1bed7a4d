import numpy as np
import pyarrow as pa
import pytest

from curation.score import Batch, score_draft
from curation.scores import pixels
from curation.scores.descriptor import DescriptorScorer


def test_vectors_are_unit_or_zero() -> None:
    textured = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    flat = np.full((30, 30, 3), 90, np.uint8)
    rows = pa.table({"status": ["ok", "rejected", "ok", "ok"]})
    batch = Batch(rows, [textured, None, flat, None], [None, None, None, "truncated"])
    scores = DescriptorScorer().score(batch)
    assert scores.columns["described"].to_pylist() == [True, False, False, False]
    vectors = scores.vectors["pixels"]
    assert vectors.shape == (4, pixels.dimension())
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 0, 0], abs=1e-5)
    assert np.array_equal(vectors[0], pixels.descriptor(textured))


def test_a_changed_descriptor_is_another_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        return score_draft("store/pool/x", "d" * 16, DescriptorScorer()).spec.digest

    before = digest()
    assert before == digest()
    monkeypatch.setattr(pixels, "GRID", pixels.GRID + 1)
    assert digest() != before
