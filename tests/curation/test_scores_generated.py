"""The generated-image score: statistics on planted signals, and its head on images made here."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from curation.decode import Pixels
from curation.score import Batch
from curation.scores.clip import ClipScorer
from curation.scores.generated import NAMES, TILE, features, statistics, tiles
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import GeneratedSettings
from flows.demo.photos import PHOTOS, load

LIKE = Reference("pool/v", "clip-0")


def power_law(slope: float, side: int = 256, seed: int = 0) -> Pixels:
    """Noise whose power falls as frequency to `slope`."""
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    radius[0, 0] = 1
    values = np.fft.ifft2(noise * radius ** (slope / 2)).real
    values = 128 + 40 * (values - values.mean()) / values.std()
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def named(image: Pixels) -> dict[str, float]:
    return dict(zip(NAMES, statistics(image), strict=True))


def photographs(count: int = 6, side: int = 128) -> list[Pixels]:
    """Crops of each bundled photograph, as stored."""
    found = []
    for name in PHOTOS:
        rng = np.random.default_rng(len(name))
        photo = load(name)
        for _ in range(count):
            left, top = (int(rng.integers(0, max(size - side, 1))) for size in photo.size)
            found.append(np.asarray(photo.crop((left, top, left + side, top + side))))
    return found


def enlarged(image: Pixels) -> Pixels:
    half = Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2))
    return np.asarray(half.resize(image.shape[1::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("slope", [-1.0, -2.0])
def test_the_slope_is_that_of_the_noise(slope: float) -> None:
    assert named(power_law(slope))["slope"] == pytest.approx(slope, abs=0.25)


def test_a_chequerboard_stands_out() -> None:
    plain = power_law(-2)
    board = np.indices(plain.shape[:2]).sum(axis=0) % 2 * 4
    with_board = (plain.clip(0, 251) + board[..., None]).astype(np.uint8)
    stripes = (plain.clip(0, 240) + np.arange(256)[None, :, None] % 4 // 2 * 12).astype(np.uint8)
    assert abs(named(plain)["grid"]) < 0.3
    assert named(with_board)["grid"] > 0.8
    assert named(stripes)["grid"] > 0.8


def test_the_gap_is_between_rich_and_poor_tiles() -> None:
    """Fine noise in some tiles alone is a gap; the same everywhere is none."""
    smooth, noisy = power_law(-3), power_law(-1)
    mixed = smooth.copy()
    mixed[:96] = noisy[:96]
    assert abs(named(noisy)["texture_gap"]) < 0.3
    assert named(mixed)["texture_gap"] > 0.8


def test_what_is_enlarged_loses_its_finest_detail() -> None:
    image = power_law(-2)
    before, after = named(image), named(enlarged(image))
    assert after["high_frequency"] < before["high_frequency"] - 0.3


def test_the_head_tells_enlarged_pictures_from_photographs() -> None:
    images = [image for image in photographs() if features(enlarged(image)) is not None]
    made = [enlarged(image) for image in images]
    scores = [named(image)["score"] for image in [*images, *made]]
    target = np.repeat([0, 1], len(images))
    assert len(images) > 80
    assert all(0 <= score <= 1 for score in scores)
    assert roc_auc_score(target, scores) > 0.8


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((31, 200, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.full((40, 2000, 3), 255, np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ],
    ids=["low", "black", "white", "point"],
)
def test_small_and_flat_images_have_none(image: Pixels) -> None:
    assert features(image) is None
    assert np.isnan(statistics(image)).all()


@pytest.mark.parametrize("shape", [(32, 32), (33, 4000), (2000, 1500)], ids=str)
def test_tiles_cover_any_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = tiles(image)
    assert found.shape[1:] == (TILE, TILE, 3) and 1 <= len(found) <= 36
    assert (found[0] == image[:TILE, :TILE]).all() and (found[-1] == image[-TILE:, -TILE:]).all()
    assert np.isfinite(statistics(image)).all()


def test_columns_are_those_of_the_images() -> None:
    settings = GeneratedSettings.model_validate({"kind": "generated"})
    scorer = chosen_scorer("made", settings, Given(ClipScorer("m"), LIKE, None))
    images = [power_law(-2, 64), None, np.zeros((64, 64, 3), np.uint8)]
    rows = pa.table({"status": ["ok", "rejected", "ok"]})
    found = scorer.score(Batch(rows, images, [None] * 3)).columns
    assert found.schema == scorer.columns
    assert found["score"].is_valid().to_pylist() == [True, False, False]
    assert found["slope"][0].as_py() == pytest.approx(named(power_law(-2, 64))["slope"])
    nothing = scorer.score(Batch(rows.slice(0, 0), [], [])).columns
    assert nothing.num_rows == 0
