import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import skimage
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from curation.decode import PIXEL_LIMIT, decode
from curation.resample import shrink
from curation.resize import REDUCED, Layout, Transformed, layout, transform
from curation.resize_settings import ResizeSettings

SAMPLES = Path(skimage.__file__).parent / "data"
PICTURES = Path(sklearn.__file__).parent / "datasets" / "images"


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def smooth(width: int = 40, height: int = 30) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data: bytes | None) -> np.ndarray:
    pixels, error = decode(data or b"")
    assert error is None
    assert pixels is not None
    return pixels.astype(int)


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Sizes that img2dataset 1.47 gave for the same pictures: (width, height) -> (width, height).
GOLDEN = [
    ("border", 256, (640, 427), (256, 171), (256, 256)),
    ("border", 256, (100, 37), (256, 95), (256, 256)),
    ("keep_ratio", 256, (640, 427), (384, 256), (384, 256)),
    ("keep_ratio", 256, (501, 333), (385, 256), (385, 256)),
    ("keep_ratio", 256, (100, 37), (692, 256), (692, 256)),
    ("keep_ratio", 700, (451, 300), (1052, 700), (1052, 700)),
    ("keep_ratio_largest", 256, (501, 333), (256, 170), (256, 170)),
    ("keep_ratio_largest", 256, (3000, 40), (256, 3), (256, 3)),
    ("keep_ratio_largest", 700, (451, 300), (700, 466), (700, 466)),
    ("center_crop", 256, (257, 256), (257, 256), (256, 256)),
    ("center_crop", 256, (640, 427), (384, 256), (256, 256)),
    ("center_crop", 700, (451, 300), (1052, 700), (700, 700)),
]


@pytest.mark.parametrize(("mode", "size", "given_size", "scaled", "final"), GOLDEN)
def test_sizes_are_those_of_the_peer(
    mode: str,
    size: int,
    given_size: tuple[int, int],
    scaled: tuple[int, int],
    final: tuple[int, int],
) -> None:
    wanted = ResizeSettings(mode=mode, size=size)
    assert layout(*given_size, wanted) == Layout(scaled, final)
    made = transform(encode(smooth(*given_size)), wanted)
    assert made.reason is None
    assert made[1:6] == ("jpg", *final, *given_size)
    assert pixels_of(made.data).shape == (final[1], final[0], 3)


@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop"])
def test_only_if_bigger_leaves_the_smaller_as_they_are(mode: str) -> None:
    wanted = ResizeSettings(mode=mode, size=50, only_if_bigger=True)
    small = encode(noise(40, 30))
    assert transform(small, wanted).data == small
    assert transform(encode(noise(90, 80)), wanted).data != small


def test_a_border_is_white_and_the_picture_stands_in_its_middle() -> None:
    made = transform(
        encode(Image.new("RGB", (40, 21), (9, 9, 9)), "PNG"),
        ResizeSettings(mode="border", size=40, format="png"),
    )
    pixels = pixels_of(made.data)
    assert (pixels[:9] == 255).all()
    assert (pixels[9:30] == 9).all()
    assert (pixels[30:] == 255).all()


def test_a_centre_crop_is_the_middle() -> None:
    image = noise(50, 30)
    wanted = ResizeSettings(mode="center_crop", size=30, format="png")
    made = transform(encode(image, "PNG"), wanted)
    assert np.array_equal(pixels_of(made.data), np.asarray(image)[:, 10:40])


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_every_format_becomes_every_format(source: str, kind: str) -> None:
    wanted = ResizeSettings(mode="keep_ratio", size=24, format=kind)
    made = transform(encode(smooth(48, 36), source), wanted)
    assert (made.format, made.width, made.height) == (kind, 32, 24)
    expected = shrink(np.asarray(smooth(48, 36)), (48, 36), (32, 24)).astype(int)
    assert np.abs(pixels_of(made.data) - expected).mean() < 4


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_bytes_that_need_no_change_stay(source: str) -> None:
    data = encode(noise(32, 32), source, quality=60, compress_level=1)
    kind = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[source]
    for wanted in (
        ResizeSettings(format=kind),
        ResizeSettings(mode="center_crop", size=32, format=kind),
        ResizeSettings(mode="border", size=32, format=kind, verify=True, blur="faces"),
    ):
        assert transform(data, wanted) == Transformed(data, kind, 32, 32, 32, 32, None)
        again = transform(data, wanted.model_copy(update={"skip_reencode": False}))
        assert again.data != data
        assert transform(data, wanted, [[0.2, 0.2, 0.6, 0.6]]).data != data


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_forgotten(source: str, orientation: int) -> None:
    data = encode(smooth(48, 32), source, exif=with_exif(orientation), quality=95)
    upright = pixels_of(data)
    kind = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[source]
    made = transform(data, ResizeSettings(format=kind))
    assert (made.data == data) is (orientation == 1)
    made = transform(data, ResizeSettings(mode="keep_ratio", size=16, format="png"))
    size = (48, 32) if orientation < 5 else (32, 48)
    assert made[2:6] == (size[0] // 2, size[1] // 2, *size)
    with Image.open(io.BytesIO(made.data or b"")) as image:
        assert not image.getexif()
    expected = shrink(upright.astype(np.uint8), size, (size[0] // 2, size[1] // 2)).astype(int)
    assert np.abs(pixels_of(made.data) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    else:
        image = smooth().convert(mode)
    data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    made = transform(data, ResizeSettings(format="png", skip_reencode=False))
    with Image.open(io.BytesIO(made.data or b"")) as made_image:
        assert made_image.mode == "RGB"
    assert np.array_equal(pixels_of(made.data), pixels_of(data))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    made = transform(data, ResizeSettings(mode="keep_ratio", size=10, format="png"))
    assert (pixels_of(made.data) == [200, 0, 0]).all()


@pytest.mark.parametrize(
    ("limits", "size", "reason"),
    [
        ({"min_size": 31}, (40, 30), "too_small"),
        ({"min_size": 30}, (40, 30), None),
        ({"max_pixels": 1199}, (40, 30), "too_many_pixels"),
        ({"max_pixels": 1200}, (40, 30), None),
        ({"max_aspect": 3}, (91, 30), "extreme_aspect"),
        ({"max_aspect": 3}, (90, 30), None),
        ({"max_aspect": 3}, (30, 91), "extreme_aspect"),
        ({"mode": "keep_ratio", "size": 9000}, (40, 30), "too_many_pixels"),
        ({"mode": "keep_ratio", "size": 100}, (700, 1), "too_many_pixels"),
    ],
)
def test_limits(limits: dict[str, object], size: tuple[int, int], reason: str | None) -> None:
    made = transform(encode(noise(*size)), ResizeSettings(**limits))
    assert made.reason == reason
    assert made[4:6] == size
    assert (made.data is None) == (reason is not None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>", "not_an_image"),
        (b"GIF89a" + bytes(50), "unsupported_format"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "truncated"),
        (encode(noise())[:500], "truncated"),
        (encode(noise(), "PNG")[:-20], "truncated"),
        (encode(noise(), "PNG")[:300] + bytes(40) + encode(noise(), "PNG")[340:], "decode_failed"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason(data: bytes, reason: str) -> None:
    for wanted in (ResizeSettings(skip_reencode=False), ResizeSettings(mode="border", size=9)):
        assert transform(data, wanted)[0::6] == (None, reason)
    kind = "png" if data.startswith(b"\x89") else "jpg"
    assert transform(data, ResizeSettings(format=kind, verify=True)).reason == reason


@pytest.mark.parametrize(
    "boxes", [[[0, 0, 1]], [["a", 0, 1, 1]], [[0, 0, float("nan"), 1]], [[10, 10, 200, 300]], 7]
)
def test_a_face_that_cannot_be_found_is_not_let_through(boxes: object) -> None:
    made = transform(encode(noise()), ResizeSettings(blur="faces"), boxes)  # type: ignore[arg-type]
    assert made.reason == "bad_boxes"
    assert made.data is None


def test_faces_are_blurred_where_they_end_up() -> None:
    """The box is of the upright original, whatever the orientation, scale and crop."""
    image = Image.new("RGB", (200, 100), (40, 40, 40))
    stripes = np.where(np.arange(40) // 2 % 2, 250, 0).astype(np.uint8)
    image.paste(Image.fromarray(np.tile(stripes, (40, 1))), (80, 30))
    wanted = ResizeSettings(mode="center_crop", size=100, format="png")
    sideways = image.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it back
    for data in (encode(image, "PNG"), encode(sideways, "PNG", exif=with_exif(6))):
        assert pixels_of(transform(data, wanted).data)[35:65, 35:65].std() > 100
        made = transform(data, wanted, [[0.4, 0.3, 0.6, 0.7]])
        assert pixels_of(made.data)[35:65, 35:65].std() < 12


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = ((first - second.astype(float)) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def photographs() -> dict[str, bytes]:
    made = {
        name: simplejpeg.encode_jpeg(
            np.ascontiguousarray(np.asarray(Image.open(SAMPLES / f"{name}.png").convert("RGB"))),
            quality=85,
            colorsubsampling="420",
        )
        for name in ("astronaut", "coffee", "chelsea", "motorcycle_left", "camera")
    }
    files = [*SAMPLES.glob("*.jpg"), *PICTURES.glob("*.jpg")]
    return made | {file.stem: file.read_bytes() for file in files}


@pytest.mark.parametrize("cell", REDUCED)
def test_decoding_at_reduced_scale_is_within_40_db_of_full_decode_and_area(cell: int) -> None:
    differ = 0
    for name, data in photographs().items():
        full = pixels_of(data).astype(np.uint8)
        height, width, _ = full.shape
        size = min(width, height) // (cell * REDUCED[cell])
        if size < 16:
            continue
        wanted = ResizeSettings(mode="keep_ratio", size=size, format="png")
        made = transform(data, wanted)
        scaled = layout(width, height, wanted).scaled
        exact = shrink(full, (width, height), scaled)
        got = pixels_of(made.data)
        assert psnr(got, exact) >= 40, name
        differ += not np.array_equal(got, exact)
    assert differ >= 2  # they were decoded smaller


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_whatever_the_size_the_layout_is_met(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    mode = data.draw(st.sampled_from(["border", "keep_ratio", "keep_ratio_largest", "center_crop"]))
    wanted = ResizeSettings(mode=mode, size=data.draw(st.integers(1, 60)))
    made = transform(encode(smooth(width, height)), wanted)
    assert made.reason is None
    assert made[2:6] == (*layout(width, height, wanted).final, width, height)
    assert pixels_of(made.data).shape == (made.height, made.width, 3)
    assert made == transform(encode(smooth(width, height)), wanted)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"mode": "border"},
        {"size": 256},
        {"only_if_bigger": True},
        {"format": "png", "quality": 95},
        {"format": "jpg", "quality": 0},
        {"mode": "fit", "size": 9},
        {"max_aspect": 0.5},
        {"sise": 9},
    ):
        with pytest.raises(ValidationError):
            ResizeSettings(**wrong)  # type: ignore[arg-type]
    assert ResizeSettings().max_pixels == PIXEL_LIMIT
    assert all(field.description for field in ResizeSettings.model_fields.values())
