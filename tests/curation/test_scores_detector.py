"""Object check: the best confidence of the class that a row names, by a whole small detector."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from curation.decode import Pixels
from curation.score import Batch, NetworkScorer
from curation.scores.clip import ClipScorer
from curation.scores.detector import (
    DetectorScorer,
    Found,
    confidence,
    label_of,
    load_detector,
)
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import DetectorSettings
from infra.errors import SluiceError
from tests.curation.generate import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.detector(tmp_path_factory.mktemp("detector"))


def noise(count: int) -> list[Pixels]:
    rng = np.random.default_rng(0)
    sizes = [(40 + 8 * number, 32) for number in range(count)]
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def scored(
    scorer: DetectorScorer, metas: Sequence[str | None], images: Sequence[Pixels | None]
) -> list[dict[str, Any]]:
    rows = pa.table({"meta": pa.array(metas, pa.string())})
    return scorer.score(Batch(rows, images, [None] * len(images))).columns.to_pylist()


def test_a_row_gets_the_confidence_of_its_own_class(folder: Path) -> None:
    scorer = DetectorScorer("seen", str(folder), "concept")
    assert isinstance(scorer, NetworkScorer)
    images = [*noise(4), None]
    metas = [
        '{"concept":"CAT"}',
        '{"concept":"dog"}',
        '{"concept":"cow"}',
        None,
        '{"concept":"cat"}',
    ]
    found = scored(scorer, metas, images)
    for image, row, label in zip(images, found, ("cat", "dog", None, None, None), strict=True):
        if image is None:
            assert set(row.values()) == {None}
            continue
        seen = load_detector(str(folder)).look(image)
        best = max(seen, key=lambda one: one.confidence)
        assert (row["found"], row["found_confidence"]) == (best.label, best.confidence)
        same = [one.confidence for one in seen if one.label == label]
        assert row["confidence"] == (None if label is None else max(same, default=0.0))
    alone = [scored(scorer, [meta], [image])[0] for meta, image in zip(metas, images, strict=True)]
    assert alone == found  # whatever is looked at beside an image


def test_the_best_of_a_class_counts() -> None:
    found = [Found("Cat", 0.2), Found("cat", 0.5), Found("dog", 0.9)]
    known = frozenset({"cat", "dog", "cow"})
    assert confidence(found, "cat", known) == 0.5
    assert confidence(found, "cow", known) == 0.0
    assert confidence(found, "unicorn", known) is None
    assert confidence(found, None, known) is None


@pytest.mark.parametrize(
    "meta", [None, "", "{", "[1]", "3", '{"concept": 3}', '{"concept": ""}', "[" * 100_000]
)
def test_what_names_no_class_is_none(meta: str | None) -> None:
    assert label_of(meta, "concept") is None


def test_what_it_is_made_of_is_told_and_not_where_it_lies(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    here, there = (DetectorScorer("seen", str(each), "concept") for each in (folder, copy))
    assert here.settings() == there.settings()
    assert str(folder) not in json.dumps(here.settings())
    settings = DetectorSettings(kind="detector", model=str(folder), label="class")
    given = Given(ClipScorer("none"), Reference("pool/v", "clip-0"), None)
    assert chosen_scorer("seen", settings, given) == DetectorScorer("seen", str(folder), "class")
    assert settings.runs_network


def test_what_is_no_whole_detector_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no folder of this machine"):
        load_detector(str(tmp_path / "none"))
    with pytest.raises(SluiceError, match="is a path here, and no name of a hub"):
        load_detector(f"hf-hub:{folder}")
    with pytest.raises(SluiceError, match="cannot load the detector"):
        load_detector(str(tmp_path))
    pickled = Path(shutil.copytree(folder, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(SluiceError, match="cannot load the detector"):
        load_detector(str(pickled))
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    state = load_file(broken / "model.safetensors")
    state.pop(sorted(state)[0])
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(SluiceError, match="are not whole"):
        load_detector(str(broken))
