"""The scorer of heads: nulls, refusals, and what its columns say of themselves."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.heads.card import Card
from curation.heads.file import head_bytes
from curation.heads.settings import TrainHeadSettings
from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.head import HeadScorer, embedding_name, known_dimension
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import HeadSettings
from curation.units import Meaning, meanings
from infra.errors import SluiceError
from tests.curation.heads.made import TOLD, module, save, unit

OPENAI = "ViT-L-14/openai"


def scorer(tmp_path: Path, made_by: str = OPENAI, **more: str) -> HeadScorer:
    file = save(module("v1-l14"), tmp_path / "head.safetensors")
    return HeadScorer("beauty", file, "clip/image", made_by, **{**TOLD, **more})


def given(pretrained: str) -> Given:
    return Given(ClipScorer("ViT-L-14", pretrained), Reference("pool", "clip-0"), None)


def batch(vectors: np.ndarray) -> Batch:
    count = len(vectors)
    return Batch(pa.table({"row": range(count)}), [None] * count, [None] * count,
                 {"clip/image": vectors})  # fmt: skip


def test_rows_without_a_vector_are_null_and_nothing_else_is(tmp_path: Path) -> None:
    vectors = unit(7, 768)
    vectors[[0, 4]] = 0
    found = scorer(tmp_path).score(batch(vectors)).columns
    assert found["score"].is_null().to_pylist() == [row in (0, 4) for row in range(7)]
    assert found.schema.equals(scorer(tmp_path).columns, check_metadata=True)
    told = found.schema.field("score").metadata
    assert told == {b"units": b"aesthetic score 1..10", b"polarity": b"higher is better"}
    assert scorer(tmp_path).score(batch(vectors[:0])).columns.num_rows == 0


def test_a_head_over_classes_gives_a_column_for_each(tmp_path: Path) -> None:
    card = Card(
        activations=("none",), output="softmax", classes=("cat", "dog"), dimension=8,
        embedding="a/b", units="probability",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {"weight": rng.normal(size=(2, 8)), "bias": np.zeros(2)}
    (tmp_path / "kinds.safetensors").write_bytes(head_bytes(card, tensors, ("",)))
    kinds = HeadScorer("kinds", str(tmp_path / "kinds.safetensors"), "clip/image", "a/b")
    vectors = unit(5, 8)
    vectors[3] = 0
    found = kinds.score(batch(vectors)).columns
    assert found.schema.equals(kinds.columns, check_metadata=True)
    assert meanings({"kinds": kinds.columns})["kinds.dog"] == Meaning("probability")
    assert found["cat"].is_null().to_pylist() == found["dog"].is_null().to_pylist()
    sums = np.array(found["cat"].drop_null()) + np.array(found["dog"].drop_null())
    np.testing.assert_allclose(sums, np.ones(4), rtol=1e-6)
    assert kinds.score(batch(vectors[:0])).columns.num_rows == 0


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="vectors of 768 numbers, clip/image has 512"):
        scorer(tmp_path).score(batch(unit(3, 512)))


@pytest.mark.parametrize(
    "made_by", ["ViT-L-14/laion2b_s32b_b82k", "ViT-B-32/openai", "runs/filter/0123", ""]
)
def test_vectors_of_another_model_are_refused_before_any_work(tmp_path: Path, made_by: str) -> None:
    with pytest.raises(SluiceError, match=f"for vectors of {OPENAI}, clip/image is of"):
        scorer(tmp_path, made_by)


def test_a_head_over_captions_is_refused_before_any_work(tmp_path: Path) -> None:
    file = save(module("v1-l14"), tmp_path / "head.safetensors")
    with pytest.raises(SluiceError, match="over clip/text, the vectors of captions"):
        HeadScorer("beauty", file, "clip/text", OPENAI, **TOLD)
    for settings in (HeadSettings, TrainHeadSettings):
        with pytest.raises(ValidationError, match="vectors of images, such as clip/image"):
            settings.model_validate(
                {"kind": "head", "file": file, "label": "x", "vectors": "clip/text"}
            )


def test_a_head_of_another_dimension_is_refused_before_any_work(tmp_path: Path) -> None:
    told = {**TOLD, "embedding": "ViT-B-32/openai"}  # which gives 512 numbers, the head takes 768
    with pytest.raises(SluiceError, match="vectors of 768 numbers, clip/image has 512"):
        scorer(tmp_path, "ViT-B-32/openai", **told)
    assert known_dimension("ViT-L-14-quickgelu/openai") == 768
    assert known_dimension("runs/filter/0123") is None and known_dimension("../../x") is None


def test_the_same_head_is_the_same_score_wherever_its_card_is_told(tmp_path: Path) -> None:
    one, other = scorer(tmp_path), scorer(tmp_path, units="points")
    assert one.settings() == scorer(tmp_path, "ViT-L-14-quickgelu/openai").settings()
    assert one.settings() != other.settings()


def test_a_recipe_s_head_is_held_against_the_model_that_embeds(tmp_path: Path) -> None:
    file = save(module("v1-l14"), tmp_path / "head.safetensors")
    settings = HeadSettings.model_validate({"kind": "head", "file": file, **TOLD})
    made = chosen_scorer("beauty", settings, given("openai"))
    assert (made.name, made.reads_vectors) == ("beauty", ("clip/image",))
    with pytest.raises(SluiceError, match="clip/image is of ViT-L-14/laion400m_e32"):
        chosen_scorer("beauty", settings, given("laion400m_e32"))
    other = settings.model_copy(update={"vectors": "descriptor/pixels"})
    with pytest.raises(SluiceError, match="descriptor/pixels is of descriptor"):
        chosen_scorer("beauty", other, given("openai"))


def test_models_are_named_as_the_score_folder_s_manifest_names_them() -> None:
    assert embedding_name(ClipScorer("ViT-L-14", "openai").settings()) == OPENAI
    assert embedding_name(ClipScorer("runs/filter/01", store="s").settings()) == "runs/filter/01"
    assert embedding_name({"scorer": "descriptor", "size": 8}) == "descriptor"
