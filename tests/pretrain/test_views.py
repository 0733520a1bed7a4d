import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from pretrain import resample, views

WHOLE = np.asarray([[0.0, 0.0, 1.0, 1.0]])


def noise(size: int, count: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(64, 192, (count, size, size, 3), dtype=np.uint8))


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 13))
def test_the_numbers_of_a_sample_depend_on_its_position_alone(
    first: int, count: int, width: int
) -> None:
    whole = views.uniforms(("key",), np.arange(first + count), width)
    assert np.array_equal(views.uniforms(("key",), first + np.arange(count), width), whole[first:])
    some = np.arange(first, first + count, 3)[::-1]
    assert np.array_equal(views.uniforms(("key",), some, width), whole[some])
    assert whole.min() >= 0
    assert whole.max() < 1


def test_another_key_gives_other_numbers() -> None:
    one, other = (views.uniforms(("key", seed), np.arange(4), 4) for seed in (0, 1))
    assert not np.array_equal(one, other)


@given(st.floats(0.05, 1.0), st.floats(0.3, 3.0), st.integers(0, 2**32))
def test_crops_lie_inside_and_have_the_asked_area(scale: float, aspect: float, seed: int) -> None:
    numbers = np.random.default_rng(seed).random((32, 4)).astype(np.float32)
    sizes = np.tile(np.asarray([[100 * aspect, 100]], np.float32), (32, 1))
    boxes = views.crop_boxes(numbers, sizes, (scale, scale))
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes > -1e-6).all()
    assert (boxes < 1 + 1e-6).all()
    free = (height < 1 - 1e-6) & (width < 1 - 1e-6)
    assert np.allclose((height * width)[free], scale, rtol=1e-4)
    ratio = (width / height / aspect)[free]
    assert ((ratio > 3 / 4 - 1e-4) & (ratio < 4 / 3 + 1e-4)).all()


@pytest.mark.parametrize(("source", "target"), [(48, 32), (48, 20), (20, 48), (32, 32)])
def test_resizing_is_pillows_bicubic(source: int, target: int) -> None:
    images = noise(source)
    mine = views.crop(images, WHOLE, target)[0].permute(1, 2, 0) * 255
    image = Image.fromarray(images[0].numpy())
    theirs = np.asarray(image.resize((target, target), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(mine.numpy() - theirs).max() < 1.5  # Pillow rounds after each axis


@pytest.mark.parametrize(("source", "size"), [(48, 32), (20, 48), (5, 64), (96, 7)])
def test_a_processor_adds_up_what_matrices_multiply(source: int, size: int) -> None:
    images, rng = noise(source, 3), np.random.default_rng(1)
    boxes = views.crop_boxes(
        rng.random((3, 4)).astype(np.float32), np.ones((3, 2), np.float32), (0.1, 1.0)
    )
    box = torch.from_numpy(boxes.astype(np.float32))
    sides = [resample.taps(box[:, i], box[:, i + 2], source, size) for i in (0, 1)]
    assert torch.allclose(
        resample.added_up(images, *sides), resample.multiplied(images, *sides), atol=2e-6
    )


@pytest.mark.parametrize("shape", [(128, 128), (100, 333), (17, 40)])
def test_a_squeezed_image_is_pillows(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(64, 192, (*shape, 3), dtype=np.uint8)
    mine = resample.squeeze(pixels, 96).astype(int)
    theirs = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
    assert np.abs(mine - np.asarray(theirs)).max() <= 1  # which rounds after each axis


def test_a_crop_sees_nothing_outside_its_box() -> None:
    images = torch.zeros(1, 40, 40, 3, dtype=torch.uint8)
    images[:, 10:30, 20:40] = 255
    box = np.asarray([[0.25, 0.5, 0.75, 1.0]])
    assert views.crop(images, box, 16).min() > 0.999
    images = 255 - images
    assert views.crop(images, box, 16).max() < 0.001


def test_a_mirrored_view_is_mirrored() -> None:
    images = noise(24, 2)
    boxes = np.repeat(WHOLE, 2, axis=0)
    plain = views.crop(images, boxes, 16)
    mirrored = views.crop(images, boxes, 16, np.asarray([False, True]))
    assert torch.equal(mirrored[0], plain[0])
    assert torch.allclose(mirrored[1], plain[1].flip(2), atol=1e-6)


def test_blur_is_gaussian() -> None:
    images = noise(32)
    sharp = views.crop(images, WHOLE, 32)
    blurred = views.crop(images, WHOLE, 32, sigma=np.asarray([1.2]))
    expected = gaussian_blur(sharp, [13, 13], [1.2, 1.2])
    inner = slice(7, -7)  # the edges differ: here nothing lies beyond them
    difference = (blurred - expected)[..., inner, inner].abs().max()
    assert difference < 1e-4
    assert torch.allclose(views.crop(images, WHOLE, 32, sigma=np.asarray([0.0])), sharp)


def test_colour_jitter_of_no_strength_or_no_luck_is_none() -> None:
    images = views.crop(noise(16, 4), np.repeat(WHOLE, 4, 0), 16)
    numbers = views.uniforms(("key",), np.arange(4), 5)
    assert torch.allclose(views.colour(images, numbers, 0.0, 1.0), images, atol=1e-5)
    assert torch.allclose(views.colour(images, numbers, 0.4, 0.0), images, atol=1e-5)
    assert not torch.allclose(views.colour(images, numbers, 0.4, 1.0), images, atol=1e-2)


def test_turning_the_hue_keeps_the_luma_and_comes_round() -> None:
    images = views.crop(noise(16, 2), np.repeat(WHOLE, 2, 0), 16)
    turned = views._turn_hue(images, torch.tensor([0.7, 2 * torch.pi]))
    assert torch.allclose(views._luma(turned), views._luma(images), atol=2e-3)
    assert torch.allclose(turned[1], images[1], atol=2e-3)
    assert not torch.allclose(turned[0], images[0], atol=0.1)


def test_grey_and_solarize_touch_the_chosen_alone() -> None:
    images = views.crop(noise(16, 2), np.repeat(WHOLE, 2, 0), 16)
    chosen = np.asarray([True, False])
    grey = views.grey(images, chosen)
    assert torch.equal(grey[0, 0], grey[0, 2])
    assert torch.equal(grey[1], images[1])
    solar = views.solarize(images, chosen)
    assert solar[0].max() <= 0.5
    assert torch.equal(solar[1], images[1])


def test_normalize() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    assert views.normalize(images, (0.5, 0.4, 0.3), (1.0, 0.1, 0.2))[0, :, 0, 0].tolist() == (
        pytest.approx([0.0, 1.0, 1.0], abs=1e-5)
    )


def test_dropped_tokens_leave_a_shorter_caption_with_its_ends() -> None:
    tokens = torch.tensor([[90, 1, 2, 3, 91, 0], [90, 91, 0, 0, 0, 0]])
    numbers = np.array([[0.0, 0.9, 0.1, 0.9, 0.0, 0.0]] * 2, np.float32)
    dropped = views.drop_tokens(tokens, numbers, 0.5)
    assert dropped.tolist() == [[90, 1, 3, 91, 0, 0], [90, 91, 0, 0, 0, 0]]
    assert views.drop_tokens(tokens, numbers, 0.0).equal(tokens)
