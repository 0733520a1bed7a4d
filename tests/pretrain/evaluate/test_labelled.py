import numpy as np
import pytest

from infra.errors import SluiceError
from pretrain.encoders import PixelEncoder
from pretrain.evaluate import labelled

PIXELS = PixelEncoder(4)


def test_every_sample_with_its_label_in_order(colour_splits, monkeypatch):
    whole = labelled.encode(colour_splits[0], "concept", PIXELS)
    assert len(whole.uids) == len(set(whole.uids)) == len(whole.labels) == 120
    assert whole.labels[:4] == ["red", "green", "blue", "red"]
    assert whole.features.shape == (120, 48) and whole.undecodable == 0
    monkeypatch.setattr(labelled, "BATCH", 7)
    np.testing.assert_array_equal(
        labelled.encode(colour_splits[0], "concept", PIXELS).features, whole.features
    )


@pytest.mark.parametrize("meta", [{}, {"concept": None}, {"concept": " "}, {"concept": ["a"]}])
def test_a_sample_without_a_label_is_named(version, tmp_path, meta):
    url = version(tmp_path / "split", [(b"", {"concept": "red"}), (b"", meta)])
    with pytest.raises(SluiceError, match="has no field 'concept'") as error:
        labelled.encode(url, "concept", PIXELS)
    assert url in error.value.what and "row 1" in error.value.what
    assert "evaluate.label" in error.value.way_out


def test_undecodable_samples_are_counted(version, tmp_path, colour_splits):
    from infra.dataset import read_samples

    good = next(iter(read_samples(colour_splits[0], 0))).image
    samples = [(good, {"concept": 1}), (good[:80], {"concept": 2}), (b"x", {"concept": 2})]
    found = labelled.encode(version(tmp_path / "split", samples), "concept", PIXELS)
    assert found.labels == ["1"] and found.undecodable == 2
    with pytest.raises(SluiceError, match="no sample to evaluate on"):
        labelled.encode(version(tmp_path / "bad", samples[1:]), "concept", PIXELS)


def test_a_missing_version_is_named(tmp_path):
    with pytest.raises(SluiceError, match="no dataset version at"):
        labelled.encode(str(tmp_path / "none"), "concept", PIXELS)
