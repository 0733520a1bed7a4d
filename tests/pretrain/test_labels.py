import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import SluiceError
from pretrain.data import Source, Stream
from pretrain.declare import Options
from pretrain.labels import Labelled, MultiLabelled
from tests.pretrain.conftest import picture, png, write_version

CLASSES = ("cat", "dog", "3")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"concept": "dog"}, {1: 1.0}),
        ({"concept": " cat "}, {0: 1.0}),
        ({"concept": 3}, {2: 1.0}),
        ({"concept": {"cat": 3, "dog": 1}}, {0: 0.75, 1: 0.25}),
        ({"concept": "cow"}, "concept 'cow' is none of the 3 classes"),
        ({"concept": {"cow": 1}}, "none of the 3"),
        ({"concept": {"cat": -1}}, "is no share"),
        ({"concept": {"cat": float("nan")}}, "is no share"),
        ({"concept": {"cat": True}}, "is no number"),
        ({"concept": {}}, "sum to nothing"),
        ({"concept": ["cat"]}, "has no concept"),
        ({}, "has no concept"),
    ],
)
def test_labels_are_read_or_refused(fields: dict[str, Any], expected: Any) -> None:
    options = Labelled(classes=CLASSES)
    if isinstance(expected, str):
        assert expected in str(options.unusable(fields))
    else:
        assert options.unusable(fields) is None
        assert options.read(fields) == expected


def test_several_labels_or_none() -> None:
    options = MultiLabelled(classes=CLASSES)
    assert options.read({"labels": ["dog", 3, "dog"]}) == {1: 1.0, 2: 1.0}
    assert options.read({"labels": []}) == {}
    assert "no list" in str(options.unusable({"labels": "dog"}))
    assert "'cow' is none" in str(options.unusable({"labels": ["dog", "cow"]}))


@pytest.mark.parametrize("classes", [("a", "a"), ("a", " a"), ("a", ""), ("a",)])
def test_classes_are_distinct(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two or more classes"):
        Labelled(classes=classes)


def version(folder: Path, labels: list[str]) -> str:
    samples = [
        (png(picture("red", number, "labels")), {"concept": label})
        for number, label in enumerate(labels)
    ]
    return write_version(folder, samples, per_shard=4)


def stream(url: str, options: Options) -> Stream:
    return Stream(
        [Source(url)],
        batch=4,
        canvas=16,
        shuffle=8,
        seed=0,
        cache_mib=1,
        threads=1,
        texts=True,
        unusable=options.unusable,
    )


def test_a_sample_of_no_class_is_skipped_counted_and_named(tmp_path: Path) -> None:
    url = version(tmp_path / "mixed", ["cat", "dog", "cow", "cat", "dog", "cat"])
    source = stream(url, Labelled(classes=CLASSES))
    batches = list(islice(source.batches(source.start()), 3))  # 12 samples: the five, twice or more
    labels = [fields["concept"] for batch in batches for fields in batch.meta]
    assert len(labels) == 12 and set(labels) == {"cat", "dog"}
    state = batches[-1].state
    assert state["skipped"][0] in (2, 3)
    (name,) = state["bad"]
    assert name.startswith("mixed:")
    again = next(source.batches(batches[0].state))
    assert again.ids.tolist() == batches[1].ids.tolist()
    np.testing.assert_array_equal(again.places, batches[1].places)
    json.dumps(state)


def test_a_source_of_no_class_at_all_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    url = version(tmp_path / "cows", ["cow"] * 6)
    source = stream(url, Labelled(classes=CLASSES))
    with pytest.raises(SluiceError, match=r"can be used, .* \(concept 'cow' is none of the 3"):
        next(source.batches(source.start()))
