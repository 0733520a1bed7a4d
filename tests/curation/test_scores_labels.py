"""Names from captions: planted clusters, whose words and images share directions."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.labels import (
    WORDS,
    CaptionIndex,
    KnownWords,
    LabelsScorer,
    candidates,
    caption_index,
    labels,
)
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import LabelsSettings
from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from tests.curation.conftest import Maker
from tests.indexes.conftest import write_model

THINGS = ("harbour", "zebra", "violin", "glacier")
MANNERS = ("misty", "playful", "solitary")
AXES = {word: np.eye(16)[place] for place, word in enumerate((*THINGS, *MANNERS))}
GAP = 0.5 * np.eye(16)[15]  # texts lie apart from images, as they do in CLIP


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def encode(texts: Sequence[str]) -> np.ndarray:
    """The sum of the axes of known words; other words lie apart."""
    sums = [sum((AXES.get(word, np.zeros(16)) for word in text.split()), GAP) for text in texts]
    return unit(np.array(sums)).astype(np.float16)


CAPTIONS = [f"the {manner} {thing}, by http://a.example/zebra.jpg"
            for manner, thing in itertools.product(MANNERS, THINGS)]  # fmt: skip
INDEX = CaptionIndex(CAPTIONS, encode([caption.replace(",", "") for caption in CAPTIONS]))


def cluster(thing: str, count: int = 50, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, 16)) * 0.1
    return unit(AXES[thing] - GAP + noise)


@pytest.mark.parametrize("thing", THINGS)
def test_planted_clusters_get_their_names(thing: str) -> None:
    centre = cluster(thing).mean(axis=0, keepdims=True)
    [found] = labels(centre, INDEX, encode, 20.0)
    assert found.label == thing and 0.3 < found.score <= 1
    each = labels(cluster(thing, 20), INDEX, encode, 20.0)
    assert [label.label for label in each].count(thing) >= 19


def test_scores_are_those_of_the_definition() -> None:
    index = CaptionIndex(["harbour zebra"], encode(["harbour zebra"]))
    vector = unit(AXES["harbour"] + 0.2 * AXES["zebra"])
    [found] = labels(vector[None], index, encode, 10.0)
    words = encode(["harbour", "zebra"]).astype(np.float64)
    powers = np.exp(10 * words @ vector), np.exp(10 * words @ index.vectors[0])
    image, captions = (power / power.sum() for power in powers)
    assert found.score == pytest.approx((0.7 * image + 0.3 * captions)[0], abs=1e-4)
    assert found.label == "harbour"


def test_what_has_no_vector_or_no_words_has_no_name() -> None:
    empty = CaptionIndex([], np.zeros((0, 16), np.float16))
    numbers = CaptionIndex(["IMG_1234.jpg"], encode(["zebra"]))
    for index in (empty, numbers):
        assert [each.label for each in labels(cluster("zebra", 2), index, encode, 1.0)] == [
            None
        ] * 2
    [none, some] = labels(np.stack([np.zeros(16), AXES["zebra"]]), INDEX, encode, 20.0)
    assert none.label is None and some.label == "zebra"
    assert labels(np.zeros((0, 16)), INDEX, encode, 20.0) == []


def test_a_vector_that_is_no_number_is_refused() -> None:
    with pytest.raises(SluiceError, match="not numbers"):
        labels(np.full((1, 16), np.nan), INDEX, encode, 20.0)


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (["A Zebra, and the zebra's foal!"], ["foal", "zebra", "zebra's"]),
        (["IMG_2041.JPG www.shop.example/zebra 12345 me@shop.com"], []),
        (["the photo of an ox"], []),
        (["", " "], []),
        (["Straße Ελλάδα 東京都"], ["strasse", "ελλάδα", "東京都"]),
    ],
    ids=["plain", "addresses", "short", "empty", "scripts"],
)
def test_candidates_could_name_something(captions: list[str], words: list[str]) -> None:
    assert candidates(captions) == words


def test_the_most_frequent_words_are_candidates() -> None:
    letters = [a + b + c for a, b, c in itertools.product("abcdef", repeat=3)]
    found = candidates([*letters, *["zebra crossing"] * 2])
    assert len(found) == WORDS and {"zebra", "crossing"} <= set(found)


def test_a_word_has_one_vector_whatever_it_comes_with(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = str(write_model(tmp_path_factory.mktemp("model")))
    encoder = ClipEncoder.load(folder)
    together = KnownWords(encoder.encode_texts, {}).encode(THINGS)
    alone = KnownWords(encoder.encode_texts, {})
    assert (np.concatenate([alone.encode([word]) for word in THINGS]) == together).all()
    assert alone.vectors.keys() == set(THINGS)


def test_samples_are_named_from_the_captions_of_their_version(
    maker: Maker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(write_model(tmp_path_factory.mktemp("model")))
    encoder = ClipEncoder.load(folder)
    captions = ["a zebra", "a violin", "a zebra", "a glacier"]
    texts = encoder.encode_texts(captions)
    texts[3] = 0
    made = maker.dataset("pool", [{"caption": caption} for caption in captions])
    maker.score(made, "clip", {"similarity": [0.0] * 4}, {"text": texts, "image": texts})
    given = Given(ClipScorer(folder), Reference(made.url, made.folders["clip"]), None)
    index = caption_index(given.pool, 100)
    assert index.captions == ["a violin", "a zebra"]
    settings = LabelsSettings.model_validate({"kind": "labels"})
    scorer = chosen_scorer("named", settings, given)
    assert isinstance(scorer, LabelsScorer)
    rows, empty = pa.table({"status": ["ok"] * 4}), [None] * 4
    found = scorer.score(Batch(rows, empty, empty, {"clip/image": texts})).columns
    assert found.schema == scorer.columns
    again = labels(texts, index, KnownWords(encoder.encode_texts, {}).encode, encoder.logit_scale)
    assert found["label"].to_pylist() == [each.label for each in again]
    assert set(found["label"].to_pylist()[:3]) <= {"zebra", "violin"}
    assert found["score"].is_valid().to_pylist() == [True, True, True, False]
    settings = LabelsSettings.model_validate({"kind": "labels", "captions": "trusted"})
    with pytest.raises(SluiceError, match="compares with the trusted split"):
        chosen_scorer("named", settings, given)
