import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import SluiceError
from pretrain.data import Source, Stream
from pretrain.declare import Options
from pretrain.labels import Labelled, MultiLabelled, densify, read_records
from tests.pretrain.conftest import picture, png, write_version

CLASSES = ("cat", "dog", "3")
RECORD: dict[str, Any] = {"classes": [1, 3], "probabilities": [0.5, 0.25]}


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


def test_records_are_read() -> None:
    (record,) = read_records(RECORD, 4)
    assert (record.shares, record.box, record.flip) == ({1: 0.5, 3: 0.25}, None, None)
    records = read_records([RECORD, {**RECORD, "box": [0, 0.1, 0.5, 1], "flip": False}], 4)
    assert (records[1].box, records[1].flip) == ((0, 0.1, 0.5, 1), False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [1, 4]}, "has class 4, of 4"),
        ({"classes": [1, -1]}, "has class -1"),
        ({"classes": [1, True]}, "has class True"),
        ({"classes": [1, 1]}, "not one probability for each class"),
        ({"classes": [1]}, "not one probability for each class"),
        ({"probabilities": None}, "lacks classes or probabilities"),
        ({"probabilities": [0.9, 0.2]}, "sum to 1.1"),
        ({"probabilities": [0.0, 0.0]}, "sum to 0"),
        ({"probabilities": [0.5, float("nan")]}, "is no share"),
        ({"probabilities": [3.1, -1.2]}, "is no share"),  # logits
        ({"box": [0, 0, 0, 1]}, "not y0, x0, y1, x1"),
        ({"box": [0, 0, 2, 1]}, "not y0, x0, y1, x1"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_records({**RECORD, **change}, 4)


@pytest.mark.parametrize("value", [None, [], [None], "x", [3]])
def test_no_record_is_said_so(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no record|no object"):
        read_records(value, 4)


def test_a_few_probabilities_make_all_and_are_never_softened() -> None:
    """The published `zeros` takes a softmax over probabilities: 0.9 of 1000 classes became 0.2."""
    shares = {1: 0.5, 3: 0.25}
    assert densify(shares, 4, spread=True) == pytest.approx([0.125, 0.5, 0.125, 0.25])
    assert densify(shares, 4, spread=False) == pytest.approx([0, 2 / 3, 0, 1 / 3])
    assert densify({0: 0.9}, 1000, spread=False)[0] == 1.0
    whole = dict.fromkeys(range(4), 0.2501)  # of few digits, a little above 1
    for spread in (True, False):
        assert sum(densify(whole, 4, spread)) == pytest.approx(1)
        assert sum(densify(shares, 7, spread)) == pytest.approx(1)


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
