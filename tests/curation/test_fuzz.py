"""Damaged and hostile bytes end in pixels or a reason, and no row of a tar gets lost."""

import io
import math
import struct
import zlib
from collections import Counter, deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.decode import PIXEL_LIMIT
from curation.ingest import ingest_row
from curation.sandbox import MEMORY, CrashedError, Sandbox
from curation.settings import SourceSettings
from curation.sources import Record, open_source
from infra.shards import TarSample, read_tar
from tests.curation.mutations import (
    IMAGE_MUTATIONS,
    PNG,
    TAR_MUTATIONS,
    chunk,
    encode,
    image_seeds,
    judge_bomb,
    judge_image,
    mutated,
    tar_seeds,
)

MIB = 2**20


def fuzz_images(numbers: range) -> Counter[str | None]:
    """What `decode` says of the mutated images, counted; AssertionError with the culprits."""
    seeds, wrong, counts = image_seeds(), [], Counter[str | None]()
    waiting: deque[tuple[int, Any]] = deque()

    def take() -> None:
        number, future = waiting.popleft()
        try:
            reason, _, fault = future.result()
        except CrashedError as error:
            reason, fault = None, error.value
        counts[reason] += 1
        if fault:
            wrong.append((number, fault))

    with Sandbox(judge_image, deadline=10) as box:
        for number in numbers:
            waiting.append((number, box.submit(mutated(seeds, IMAGE_MUTATIONS, number))))
            if len(waiting) > 100:
                take()
        while waiting:
            take()
    assert not wrong
    assert counts.total() == len(numbers)
    return counts


def test_the_seeds_themselves_are_sound() -> None:
    for seed in image_seeds():
        reason, reasons, fault = judge_image(seed)
        assert (reason, fault) == (None, "")
        assert set(reasons) == {None}


def test_mutated_images_end_in_pixels_or_a_reason() -> None:
    counts = fuzz_images(range(0, 20_000, 79))
    assert set(counts) == {None, "truncated", "decode_failed", "too_many_pixels"}


@pytest.mark.long
def test_20_000_mutated_images_end_in_pixels_or_a_reason() -> None:
    counts = fuzz_images(range(20_000))
    assert set(counts) == {None, "truncated", "decode_failed", "too_many_pixels"}
    assert counts[None] > 2000  # the mutations reach the decoders


def common_start(first: bytes, second: bytes) -> int:
    length = min(len(first), len(second))
    different = np.frombuffer(first[:length], np.uint8) != np.frombuffer(second[:length], np.uint8)
    return int(different.argmax()) if different.any() else length


def read(data: bytes) -> list[TarSample]:
    return list(read_tar(io.BytesIO(data)))


def check_tar(seed: bytes, data: bytes, folder: Path) -> int:
    """Every row of a damaged tar is accounted for; what stood before the damage is as it was."""
    found = read(data)
    if seed[257:262] == b"ustar":
        before = seed[: common_start(seed, data) // 512 * 512]
        kept = len(read(before)) - 1  # the last of them may go on after the damage
        assert found[:kept] == read(seed)[:kept]
    (folder / "00000.tar").write_bytes(data)
    units = open_source(SourceSettings(tars=str(folder / "00000.tar"))).units(100)
    records: list[Record] = [record for unit in units for record in unit.records()]
    rows = [ingest_row(0, number, record) for number, record in enumerate(records)]
    assert len(rows) == len(records) >= max(len(found), 1)
    for number, (row, image) in enumerate(rows):
        assert row["row"] == number
        assert (row["status"] == "ok") == (image is not None) == (row["reason"] is None)
        assert image is None or (row["format"] and row["caption"])
    return len(rows)


def fuzz_tars(numbers: range, folder: Path) -> int:
    seeds = tar_seeds()
    return sum(
        check_tar(seeds[number % len(seeds)], mutated(seeds, TAR_MUTATIONS, number), folder)
        for number in numbers
    )


def test_mutated_tars_lose_no_row(tmp_path: Path) -> None:
    assert fuzz_tars(range(0, 2000, 19), tmp_path) > 105


@pytest.mark.slow
def test_2_000_mutated_tars_lose_no_row(tmp_path: Path) -> None:
    assert fuzz_tars(range(2000), tmp_path) > 4000


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", size) + b"".join(chunks) + chunk(b"IEND", b"")


@cache
def zeros(size: int) -> bytes:
    """`size` zeros, packed into about a thousandth of that."""
    packer = zlib.compressobj(9)
    block = bytes(16 * MIB)
    pieces = [packer.compress(block) for _ in range(size // len(block))]
    return b"".join(pieces) + packer.compress(bytes(size % len(block))) + packer.flush()


def declared(width: int, height: int) -> bytes:
    """A JPEG that says it is this large."""
    data = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


PIXELS = zlib.compress(bytes(64 * 65), 1)  # 64 x 64 of grey
BOMBS = {
    "a gigapixel": lambda: png(2**15, 2**15, 1, 0, chunk(b"IDAT", zeros(2**27 + 2**15))),
    "the largest PNG": lambda: png(2**31 - 1, 2**31 - 1, 16, 6, chunk(b"IDAT", b"")),
    "the largest JPEG": lambda: declared(65_500, 65_500),
    "the largest WebP": lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\x3f\0" * 2,
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_by_the_header(name: str) -> None:
    with Sandbox(judge_bomb) as box:
        _, _, idle = box.submit(b"").result()
        reason, made, held = box.submit(BOMBS[name]()).result()
    assert (reason, made) == ("too_many_pixels", "too_many_pixels")
    assert held - idle < 16 * MIB


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (b"zTXt", b"key\0\0"),
        (b"iTXt", b"key\0\1\0\0\0"),
        (b"iCCP", b"name\0\0"),
        (b"IDAT", b""),
    ],
)
def test_what_unpacks_to_64_megabytes_is_not_unpacked(name: bytes, head: bytes) -> None:
    bomb = chunk(name, head + zeros(2**26))
    data = png(64, 64, 8, 0, *((bomb,) if name == b"IDAT" else (bomb, chunk(b"IDAT", PIXELS))))
    with Sandbox(judge_bomb) as box:
        _, _, idle = box.submit(b"").result()
        reason, made, held = box.submit(data).result()
    assert reason == made
    assert reason in (None, "decode_failed")
    assert held - idle < 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "CMYK"])
def test_the_largest_image_allowed_fits_into_the_memory_allowed(mode: str) -> None:
    side = math.isqrt(PIXEL_LIMIT)
    if mode == "CMYK":
        data = encode(Image.new("CMYK", (side, side)), "JPEG", progressive=True)
    elif mode == "I;16":
        data = png(side, side, 16, 0, chunk(b"IDAT", zeros(side * (2 * side + 1))))
    else:
        data = encode(Image.new(mode, (side, side)), "PNG", compress_level=1)
    with Sandbox(judge_bomb) as box:
        reason, made, held = box.submit(data).result()
    assert (reason, made) == (None, None)
    assert held < 0.8 * MEMORY
