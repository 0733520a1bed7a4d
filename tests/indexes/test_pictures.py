import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexes.pictures import decode, originals, query_pixels, thumbnail
from infra.dataset import index_id, open_dataset, read_samples
from infra.errors import SluiceError


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_originals_are_the_bytes_of_the_shards(store: str) -> None:
    url = open_dataset(store, "curated").url
    wanted = [index_id(1, 40), index_id(0, 3), index_id(1, 4)]
    found = originals(url, [*wanted, index_id(0, 0)])  # row 0 was dropped
    assert set(found) == set(wanted)
    for shard in (0, 1):
        for sample in read_samples(url, shard):
            if index_id(shard, sample.row) in found:
                assert found[index_id(shard, sample.row)] == sample.image


def test_a_missing_shard_is_named(store: str) -> None:
    with pytest.raises(SluiceError, match="no shard 00009"):
        originals(open_dataset(store, "curated").url, [index_id(9, 0)])


def test_alpha_lies_on_white_and_exif_turns() -> None:
    clear = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    assert (np.asarray(decode(encoded(clear, "PNG"), "a")) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "b")
    assert turned.size == (4, 8)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7"])
def test_what_is_no_picture_is_named(data: bytes) -> None:
    with pytest.raises(SluiceError, match=re.escape("query.png is no picture")):
        decode(data, "query.png")
    assert thumbnail(data) is None


def test_a_cut_or_huge_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    with pytest.raises(SluiceError, match="no picture"):
        decode(whole[: len(whole) // 2], "cut")
    monkeypatch.setattr("indexes.pictures.PIXEL_LIMIT", 1000)
    with pytest.raises(SluiceError, match="64 x 64 pixels"):
        decode(whole, "huge")


def test_thumbnails_are_small() -> None:
    uri = thumbnail(encoded(Image.effect_noise((700, 300), 90).convert("RGB"), "JPEG"))
    assert uri is not None
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) < 12_000


def test_query_pixels_of_every_kind(tmp_path: Path) -> None:
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    path = tmp_path / "query.png"
    path.write_bytes(encoded(image, "PNG"))
    expected = np.asarray(image)
    for query in (path, str(path), image, expected):
        assert (query_pixels(query) == expected).all()
    with pytest.raises(SluiceError, match="float64"):
        query_pixels(np.zeros((4, 4, 3)))
