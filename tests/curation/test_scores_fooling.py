"""The fooling-image score, against images made to fool a real (tiny, random) open_clip model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.fooling import (
    FEWEST,
    FoolingScorer,
    likenesses,
    own_prompts,
    prompt_vectors,
    read_prompts,
)
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import FoolingSettings
from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from tests.curation.conftest import Maker
from tests.indexes.conftest import digits, write_model

STEPS, REACH = 40, 0.05


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As workers have it; many threads fight over so small a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ClipEncoder]:
    folder = str(write_model(tmp_path_factory.mktemp("model")))
    return folder, ClipEncoder.load(folder)


def reference_of(maker: Maker, vectors: np.ndarray) -> Reference:
    made = maker.dataset("trusted", [{}] * len(vectors))
    maker.score(made, "clip", {"similarity": [0.0] * len(vectors)}, {"image": vectors})
    return Reference(made.url, made.folders["clip"])


def fooled(encoder: ClipEncoder, image: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Projected gradient ascent on the lowest cosine with a few prompts, as 8-bit pixels."""
    targets = torch.from_numpy(prompts)
    mean, std = (
        torch.tensor(getattr(encoder.preprocess, name)).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    pixels = torch.from_numpy(image / 255).float().permute(2, 0, 1)[None].requires_grad_(True)
    for _ in range(STEPS):
        features = cast(Any, encoder.model).encode_image((pixels - mean) / std)
        (F.normalize(features, dim=-1) @ targets.T).min().backward()
        with torch.no_grad():
            pixels += REACH * cast(torch.Tensor, pixels.grad).sign()
            pixels.clamp_(0, 1)
            cast(torch.Tensor, pixels.grad).zero_()
    return (pixels[0].detach().permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def test_images_made_to_fool_come_above_ordinary_ones(
    maker: Maker, encoder: tuple[str, ClipEncoder]
) -> None:
    """Made for 25 other prompts than those that are looked at."""
    folder, model = encoder
    images = [image[8:40, 8:40] for image in digits(220)[0]]
    reference = reference_of(maker, model.encode_images(images[:200]))
    settings = FoolingSettings.model_validate({"kind": "fooling"})
    scorer = chosen_scorer("fooling", settings, Given(ClipScorer(folder), reference, reference))
    targets = model.encode_texts([f"a photo of number {n}" for n in range(25)]).astype(np.float32)
    made = [fooled(model, image, targets) for image in images[200:204]]
    vectors = model.encode_images([*made, *images[204:]])
    empty = [None] * len(vectors)
    rows = pa.table({"status": ["ok"] * len(vectors)})
    found = scorer.score(Batch(rows, empty, empty, {"clip/image": vectors})).columns
    assert found.schema == scorer.columns
    percentile = np.array(found["percentile"].to_pylist())
    assert (percentile[:4] > 99).all()
    assert 20 < np.median(percentile[4:]) < 80
    assert (np.array(found["low_percentile"].to_pylist())[:4] > 99).all()


def test_rows_without_a_vector_are_null() -> None:
    scorer = FoolingScorer("f", ClipScorer("none"), Reference("p", "clip-0"))
    empty = Batch(pa.table({"status": ["ok"]}), [None], [None], {"clip/image": np.zeros((1, 4))})
    assert scorer.score(empty).columns.to_pylist() == [dict.fromkeys(scorer.columns.names)]


def test_values_are_those_of_the_definition() -> None:
    cosines = np.random.default_rng(0).uniform(-1, 1, (3, 40)).astype(np.float32)
    mean, low = likenesses(np.eye(3), cosines.T.copy())
    assert mean == pytest.approx(cosines.mean(axis=1))
    assert low.tolist() == np.sort(cosines, axis=1)[:, 1].tolist()


def test_our_prompts_are_a_thousand_and_stay_as_they_are() -> None:
    prompts = own_prompts()
    assert len(set(prompts)) == len(prompts) == 1000
    assert prompts[:2] == [
        "a picture of one red aardvark",
        "a picture of one blue accordion in the snow",
    ]


def test_prompts_of_ones_own_are_read_by_content(
    tmp_path: Path, encoder: tuple[str, ClipEncoder]
) -> None:
    lines = [f"thing {number}" for number in range(FEWEST)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join([*lines, "", "thing 0", " "]))
    file = str(tmp_path / "a.txt")
    assert read_prompts(file) == lines
    assert prompt_vectors(ClipScorer(encoder[0]), file).shape == (FEWEST, 16)
    settings = [
        FoolingScorer("f", ClipScorer("m"), Reference("p", "clip-0"), str(tmp_path / name))
        for name in ("a.txt", "b.txt")
    ]
    assert settings[0].settings() == settings[1].settings()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read prompts"), (b"\xff\xfe", "cannot read prompts"), (b"one\n", "1 prompts")],
    ids=["missing", "binary", "few"],
)
def test_prompts_that_are_none_are_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(SluiceError, match=words):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_a_recipe_without_a_trusted_split_is_told() -> None:
    settings = FoolingSettings.model_validate({"kind": "fooling"})
    with pytest.raises(SluiceError, match=r"scores\.fooling compares with the trusted split"):
        chosen_scorer("fooling", settings, Given(ClipScorer("m"), Reference("p", "clip-0"), None))
