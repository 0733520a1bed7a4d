"""Concepts by prompts, on a real open_clip model of random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.concepts import ConceptsScorer, concept_vectors, similarities, softmax
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import ConceptsSettings
from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from tests.indexes.conftest import write_model

PROMPTS = {"photo": ("photograph",), "sketch": ("pencil sketch", "line drawing")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model")))


def scorer(model: str, **changes: Any) -> ConceptsScorer:
    settings = ConceptsSettings.model_validate({"kind": "concepts", "prompts": PROMPTS} | changes)
    given = Given(ClipScorer(model), Reference("pool/v", "clip-0"), None)
    made = chosen_scorer("types", settings, given)
    assert isinstance(made, ConceptsScorer)
    return made


def batch(vectors: np.ndarray) -> Batch:
    empty = [None] * len(vectors)
    rows = pa.table({"status": ["ok"] * len(vectors)})
    return Batch(rows, empty, empty, {"clip/image": vectors.astype(np.float16)})


def test_probabilities_are_those_of_the_definition(model: str) -> None:
    encoder, made = ClipEncoder.load(model), scorer(model)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    vectors = encoder.encode_images(list(pixels))
    vectors[2] = 0
    found = made.score(batch(vectors)).columns
    assert found.schema == made.columns
    assert all(found[name][2].as_py() is None for name in found.column_names)
    expected = []
    for words in PROMPTS.values():
        texts = [template.format(word) for word in words for template in made.templates]
        mean = encoder.encode_texts(texts).astype(np.float64).mean(axis=0)
        expected.append(vectors.astype(np.float64) @ (mean / np.linalg.norm(mean)))
    logits = encoder.logit_scale * np.stack(expected, axis=1)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row in (0, 1, 3, 4):
        line = found.slice(row, 1).to_pylist()[0]
        assert [line["photo"], line["sketch"]] == pytest.approx(odds[row], abs=1e-4)
        assert line["photo_similarity"] == pytest.approx(expected[0][row], abs=1e-5)
        assert line["best"] == ("photo", "sketch")[odds[row].argmax()]


def test_an_image_at_a_concept_is_of_that_concept(model: str) -> None:
    made = scorer(model)
    at = concept_vectors(made.clip, made.prompts, made.templates)
    assert np.linalg.norm(at, axis=1) == pytest.approx(1)
    assert made.score(batch(at)).columns["best"].to_pylist() == ["photo", "sketch"]


def test_a_batch_without_vectors_loads_no_model() -> None:
    found = scorer("no-such-model").score(batch(np.zeros((2, 16)))).columns
    assert found.num_rows == 2 and found["best"].null_count == 2
    assert scorer("no-such-model").score(batch(np.zeros((0, 16)))).columns.num_rows == 0


def test_vectors_of_another_model_are_refused(model: str) -> None:
    with pytest.raises(SluiceError, match="vectors have 8 numbers, the model's texts 16"):
        scorer(model).score(batch(np.eye(1, 8)))


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1e9, 1e9], [-1e9, 0]])).tolist() == [[0.5, 0.5], [0, 1]]
    assert similarities(np.eye(2, 3), np.eye(1, 3, dtype=np.float32)).tolist() == [[1], [0]]


def test_the_default_concepts_name_columns() -> None:
    settings = ConceptsSettings.model_validate({"kind": "concepts"})
    assert {"photo", "sketch", "cartoon", "screenshot", "text_heavy"} <= set(settings.prompts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": {"photo": [], "sketch": ["sketch"]}}, "at least 1"),
        ({"prompts": {"photo": [" "], "sketch": ["sketch"]}}, "at least 1 char"),
        ({"prompts": {"photo": ["photograph"]}}, "at least 2"),
        ({"prompts": {"a photo": ["photograph"], "sketch": ["sketch"]}}, "pattern"),
        ({"prompts": {"best": ["best"], "sketch": ["sketch"]}}, "'best'"),
        ({"prompts": {"a": ["a"], "a_similarity": ["b"]}}, "'a_similarity'"),
        ({"templates": ["a picture"]}, "no {} where"),
        ({"templates": []}, "at least 1"),
        ({"model": "ViT-L-14"}, "Extra"),
    ],
    ids=["empty", "blank", "single", "spaces", "best", "twice", "fixed", "none", "model"],
)
def test_wrong_settings_are_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ConceptsSettings.model_validate({"kind": "concepts"} | changes)


def test_other_prompts_are_other_settings(model: str, tmp_path: Path) -> None:
    made, other = scorer(model), scorer(model, templates=["{}"])
    assert made.settings() != other.settings()
    assert model not in repr(made.settings())
