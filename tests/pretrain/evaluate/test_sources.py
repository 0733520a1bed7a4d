import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.dataset import read_samples
from infra.errors import SluiceError
from pretrain.encoders import PixelEncoder
from pretrain.evaluate import labelled, sources

PIXELS = PixelEncoder(4)


def write(path, url, name="image", hugging_face=False):
    examples = list(sources.read(url))
    images = [example.image for example in examples]
    if hugging_face:
        images = [{"bytes": image, "path": None} for image in images]
    columns = {
        "uid": [example.uid for example in examples],
        name: images,
        "caption": [f"no {row}" for row in range(len(examples))],
    }
    if hugging_face:
        columns["concept"] = [example.fields["concept"] for example in examples]
    else:
        columns["meta"] = [json.dumps(dict(example.fields)) for example in examples]
    pq.write_table(pa.table(columns), path, row_group_size=50)
    return str(path)


@pytest.mark.parametrize("hugging_face", [False, True])
def test_parquet_gives_what_the_version_gives(colour_splits, tmp_path, hugging_face):
    url = write(tmp_path / "a.parquet", colour_splits[1], hugging_face=hugging_face)
    ours, theirs = (labelled.encode(each, "concept", PIXELS) for each in (url, colour_splits[1]))
    np.testing.assert_array_equal(ours.features, theirs.features)
    assert (ours.uids, ours.labels) == (theirs.uids, theirs.labels)
    assert ours.captions[1] == ("no 1",)


def test_a_folder_and_a_pattern_are_all_their_files(colour_splits, tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.parquet", colour_splits[1], name="jpg")
    for url in (str(tmp_path), f"{tmp_path}/*.parquet"):
        assert len(list(sources.read(url))) == 120
    assert len(list(sources.read(f"{tmp_path}/b*.parquet"))) == 60


def test_content_is_of_the_bytes(colour_splits, tmp_path):
    one = write(tmp_path / "a.parquet", colour_splits[1])
    two = write(tmp_path / "b.parquet", colour_splits[1])
    other = write(tmp_path / "c.parquet", colour_splits[0])
    assert sources.content(one) == sources.content(two) != sources.content(other)
    assert len(sources.content(colour_splits[0])) == 16


def test_bad_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"url": ["x"], "image": ["text"]}), tmp_path / "a.parquet")
    with pytest.raises(SluiceError, match="has no column of image bytes"):
        list(sources.read(str(tmp_path / "a.parquet")))
    for url in (str(tmp_path / "none.parquet"), str(tmp_path / "none")):
        with pytest.raises(SluiceError, match="no dataset version at"):
            list(sources.read(url))
        with pytest.raises(SluiceError, match="no dataset version at"):
            sources.content(url)


def test_images_that_are_missing_or_broken_are_counted(colour_splits, tmp_path):
    good = next(iter(read_samples(colour_splits[0], 0))).image
    columns = {"image": pa.array([good, None, b"x"]), "concept": ["a", "b", "c"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = labelled.encode(str(tmp_path / "a.parquet"), "concept", PIXELS)
    assert found.labels == ["a"] and found.undecodable == 2
    assert [len(uid) for uid, _ in labelled.images(str(tmp_path / "a.parquet"))] == [32]
