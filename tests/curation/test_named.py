"""`curation.labels` as a notebook calls it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import curation
from curation.scores.clip import load_encoder
from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from tests.indexes.conftest import write_model

CAPTIONS = ["a zebra", "a violin", "a zebra", "a glacier", "", "the 12"]


@pytest.fixture
def made(maker):
    """A version embedded by a small model in its store; the last image vector is missing."""
    folder = f"{maker.store}/runs/filter/01"
    write_model(Path(folder))
    encoder = ClipEncoder.load(folder)
    texts = encoder.encode_texts(CAPTIONS)
    made = maker.dataset("pool", [{"caption": caption} for caption in CAPTIONS])
    vectors = {"text": texts, "image": texts}
    settings = {"model": "runs/filter/01", "pretrained": None}
    maker.score(made, "clip", {"similarity": [0.0] * 6}, vectors, settings)
    load_encoder.cache_clear()
    return made, texts


def test_clusters_are_named_by_captions_of_the_version(made) -> None:
    version, texts = made
    found = curation.labels(texts[:4], f"{version.store}/pool")
    words = {"zebra", "violin", "glacier"}
    assert all(each.label in words and 0 < each.score <= 1 for each in found)
    assert found[0] == found[2] == curation.labels(texts[0], version.url)[0]
    assert curation.labels(texts[:4], f"{version.store}/pool@{version.digest}") == found


def test_what_has_no_direction_has_no_name(made) -> None:
    version, texts = made
    vectors = np.stack([np.zeros(texts.shape[1]), np.full(texts.shape[1], np.nan), texts[1]])
    assert [bool(each.label) for each in curation.labels(vectors, version.url)] == [
        False, False, True,
    ]  # fmt: skip
    assert curation.labels(np.empty((0, texts.shape[1])), version.url) == []


def test_what_cannot_be_named_is_told(made, maker, tmp_path) -> None:
    version, texts = made
    with pytest.raises(SluiceError, match=r"shape \[2, 3\] are to be named"):
        curation.labels(np.ones((2, 3)), version.url)
    with pytest.raises(SluiceError, match="has no scores 'clip-0' of 'clip'"):
        curation.labels(texts, version.url, scores={"clip": "clip-0"})
    with pytest.raises(SluiceError, match="has no scores of 'clip'"):
        curation.labels(texts, maker.dataset("bare", [{}]).url)
    outside = maker.dataset("other", [{"caption": "a zebra"}])
    vectors = {"text": -texts[:1]}
    maker.score(outside, "clip", {"similarity": [0.0]}, vectors, {"model": "sha256:0"})
    with pytest.raises(SluiceError, match="lies outside its store"):
        curation.labels(texts, outside.url)
    with pytest.raises(SluiceError, match="did not make the vectors"):
        curation.labels(texts, outside.url, model=f"{maker.store}/runs/filter/01")


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys, curation\n"
        "assert callable(curation.labels) and callable(curation.sweep)\n"
        "print(sorted({'torch', 'duckdb', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
