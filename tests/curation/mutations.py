"""Damaged and hostile images and tars, each named by one number: the same number, the same bytes.

`judge_image` runs in a sandbox's child, so this imports little at the top.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from curation.decode import decode
from curation.resize import transform
from curation.resize_settings import ResizeSettings

LIMIT = 2**20  # pixels; enough for the seeds, and a declared size of more costs no time
WANTED = (
    ResizeSettings(max_pixels=LIMIT, skip_reencode=False, format="png"),
    ResizeSettings(max_pixels=LIMIT, mode="border", size=17),
    ResizeSettings(max_pixels=LIMIT, verify=True, blur="faces"),
)
FACE = [[0.2, 0.2, 0.8, 0.7]]


def judge_image(data: bytes) -> tuple[str | None, tuple[str | None, ...], str]:
    """What decode and transform say of some bytes, and what is wrong with that, or ""."""
    pixels, error = decode(data, LIMIT)
    if (pixels is None) == (error is None):
        return error, (), "neither pixels nor a reason, or both"
    made = [transform(data, wanted, FACE if wanted.blur else None) for wanted in WANTED]
    made.append(transform(data, WANTED[2]))  # its bytes may pass
    for result in made:
        if (result.data is None) == (result.reason is None):
            return error, (), f"neither an image nor a reason, or both: {result[1:]}"
        if result.data is not None:
            again, _ = decode(result.data)
            if again is None or again.shape[:2] != (result.height, result.width):
                return error, (), f"no image of the size it says: {result[1:]}"
    if pixels is not None and made[0].data is not None:
        again, _ = decode(made[0].data)
        if again is None or not np.array_equal(again, pixels):
            return error, (), "transform and decode see different pixels"
    return error, tuple(result.reason for result in made), ""


def judge_bomb(data: bytes) -> tuple[str | None, str | None, int]:
    """What decode and transform say, and the most memory (bytes) this process ever held.

    By /proc: getrusage counts what the process held that it was forked from.
    """
    error = decode(data)[1]
    made = transform(data, ResizeSettings(mode="border", size=64))
    status = Path("/proc/self/status").read_text()
    return error, made.reason, int(status.partition("VmHWM:")[2].split()[0]) * 1024


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, its checksum right."""
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def interlaced(width: int, height: int) -> bytes:
    """A PNG in Adam7, which Pillow reads but does not write: RGB noise."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    lines = b"".join(
        b"\0" + row.tobytes()
        for x, y, across, down in [*passes, (0, 1, 1, 2)]
        for row in pixels[y::down, x::across]
        if row.size
    )
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return PNG + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


PNG = b"\x89PNG\r\n\x1a\n"


def image_seeds() -> list[bytes]:
    """Small images of every kind that decoders treat in a way of its own."""
    random = np.random.default_rng(0)
    down, across = np.mgrid[0:40, 0:56]
    soft = np.stack([across * 4, down * 6, (across + down) * 2], axis=2).astype(np.uint8)
    soft[10:20, 10:30] = random.integers(0, 256, (10, 20, 3))
    image = Image.fromarray(soft)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray((across * 4).astype(np.uint8)))
    deep = Image.fromarray((across * 1100).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = [image.rotate(angle) for angle in (20, 40, 60)]
    animation = {"save_all": True, "append_images": frames, "duration": 50}
    return [
        encode(image, "JPEG", quality=75),
        encode(image, "JPEG", progressive=True, quality=90),
        encode(image, "JPEG", subsampling=0, restart_marker_blocks=4),
        encode(image, "JPEG", exif=exif, icc_profile=bytes(600), comment=b"hello"),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "PNG", exif=exif, icc_profile=bytes(600)),
        encode(image.convert("P"), "PNG", transparency=3),
        encode(image.convert("1"), "PNG"),
        encode(clear, "PNG"),
        encode(deep, "PNG"),
        interlaced(37, 29),
        encode(image, "WEBP", quality=60, exif=exif),
        encode(clear, "WEBP", lossless=True),
        encode(clear, "WEBP", quality=50),
        encode(image, "WEBP", **animation),
    ]


def flip(random: Random, data: bytearray, other: bytes) -> None:
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def overwrite(random: Random, data: bytearray, other: bytes) -> None:
    """Numbers that are edges of something, mostly near the head."""
    for _ in range(random.choice((1, 1, 3, 10))):
        number = random.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
        size = random.choice((1, 2, 4))
        at = int(random.random() ** 3 * len(data))
        order = random.choice(("big", "little"))
        data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)


def cut(random: Random, data: bytearray, other: bytes) -> None:
    del data[random.randrange(len(data)) :]


def splice(random: Random, data: bytearray, other: bytes) -> None:
    data[random.randrange(len(data)) :] = other[random.randrange(len(other)) :]


def repeat(random: Random, data: bytearray, other: bytes) -> None:
    start = random.randrange(len(data))
    piece = data[start : start + random.choice((1, 4, 64, 1000))]
    at = random.randrange(len(data))
    data[at:at] = piece * random.choice((1, 2, 50))


def remove(random: Random, data: bytearray, other: bytes) -> None:
    start = random.randrange(len(data))
    del data[start : start + random.choice((1, 2, 16, 300))]


def resize_header(random: Random, data: bytearray, other: bytes) -> None:
    """Another size where the format keeps it, its checksum right."""
    width, height = (random.choice((0, 1, 7, 40, 57, 999, 8000, 65_500)) for _ in range(2))
    if data.startswith(b"\xff\xd8"):
        at = next((data.find(bytes((0xFF, kind))) for kind in (0xC0, 0xC2)), -1)
        if at > 0:
            data[at + 5 : at + 9] = struct.pack(">HH", height, width)
            data[at + 9 + random.randrange(8)] = random.randrange(256)
    elif data.startswith(PNG):
        fields = struct.pack(">II", width, height) + bytes(data[24:29])
        if random.random() < 0.5:
            depth, colour = random.choice((1, 2, 4, 8, 16)), random.choice((0, 2, 3, 4, 6))
            fields = fields[:8] + bytes((depth, colour, 0, 0, random.randrange(2)))
        data[8:33] = chunk(b"IHDR", fields)
    elif data[12:16] == b"VP8X":
        data[24:30] = width.to_bytes(3, "little") + height.to_bytes(3, "little")
    else:
        data[26:30] = struct.pack("<HH", width % 2**14, height % 2**14)


def inflate(random: Random, data: bytearray, other: bytes) -> None:
    """A PNG's text, profile or pixels that unpack to megabytes."""
    if not data.startswith(PNG):
        return overwrite(random, data, other)
    packed = zlib.compress(bytes(random.choice((10_000, 3_000_000))), 9)
    name = random.choice((b"zTXt", b"iCCP", b"iTXt", b"IDAT"))
    head = {b"zTXt": b"key\0\0", b"iCCP": b"name\0\0", b"iTXt": b"key\0\1\0\0\0"}.get(name, b"")
    data[33:33] = chunk(name, head + packed) * random.choice((1, 1, 20))
    return None


def animate(random: Random, data: bytearray, other: bytes) -> None:
    """A WebP with frames many times over, and numbers in their headers that make no sense."""
    start = data.find(b"ANMF")
    if start < 0:
        return repeat(random, data, other)
    length = 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    frame = bytearray(data[start : start + length])
    for _ in range(random.randrange(3)):
        frame[8 + random.randrange(16)] = random.randrange(256)
    data[start:start] = frame * random.choice((1, 3, 300))
    if random.random() < 0.7:
        data[4:8] = (len(data) - 8).to_bytes(4, "little")
    return None


def metadata(random: Random, data: bytearray, other: bytes) -> None:
    """EXIF whose directory says what it likes."""
    entries = b"".join(
        struct.pack(
            ">HHII",
            random.choice((0x0112, 0x8769, 0x927C, random.randrange(2**16))),
            random.randrange(14),
            random.choice((0, 1, 2, 2**31, random.randrange(2**32))),
            random.choice((6 << 16, 8, 0, random.randrange(2**32))),
        )
        for _ in range(random.randrange(6))
    )
    body = b"MM\0*\0\0\0\x08" + struct.pack(">H", random.choice((1, 5, 2**16 - 1))) + entries
    if data.startswith(b"\xff\xd8"):
        body = b"Exif\0\0" + body
        data[2:2] = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    elif data.startswith(PNG):
        data[33:33] = chunk(b"eXIf", body)
    else:
        data += b"EXIF" + struct.pack("<I", len(body)) + body


def beneath(random: Random, data: bytearray, other: bytes) -> None:
    """Damage that no checksum of a PNG gives away, down to the packed lines."""
    if not data.startswith(PNG):
        return flip(random, data, other)
    made, at = bytearray(PNG), 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name, body = bytes(data[at + 4 : at + 8]), bytearray(data[at + 8 : at + 8 + size])
        if name == b"IDAT" and body and random.random() < 0.7:
            try:
                lines = bytearray(zlib.decompressobj().decompress(body, 2**22)) or body
            except zlib.error:  # damaged before, in another way
                lines = body
            flip(random, lines, other)
            body = bytearray(zlib.compress(lines))
        elif body and random.random() < 0.5:
            flip(random, body, other)
        made += chunk(name, bytes(body))
        at += 12 + size
    data[:] = made
    return None


Mutation = Callable[[Random, bytearray, bytes], None]
IMAGE_MUTATIONS: tuple[Mutation, ...] = (
    flip,
    overwrite,
    cut,
    splice,
    repeat,
    remove,
    resize_header,
    inflate,
    animate,
    metadata,
    beneath,
)


def mutated(seeds: list[bytes], mutations: tuple[Mutation, ...], number: int) -> bytes:
    """The damaged file of a number: each seed meets each mutation, alone and then in company."""
    random = Random(number)
    data = bytearray(seeds[number % len(seeds)])
    chosen = [mutations[number // len(seeds) % len(mutations)]]
    if random.random() < 0.3:
        chosen.append(random.choice(mutations))
    for mutation in chosen:
        if data:
            mutation(random, data, random.choice(seeds))
    return bytes(data)


def tar_seeds() -> list[bytes]:
    """Small tars of every kind: img2dataset's, long names in two styles, links, compressed."""
    images = image_seeds()

    def made(count: int, layout: int = tarfile.USTAR_FORMAT, name: str = "") -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
            for number in range(count):
                key = f"{name}{number:05d}"
                members = {
                    ("jpg", "png", "webp")[number % 3]: images[(0, 8, 12)[number % 3]],
                    "txt": b"caption %d" % number,
                    "json": b'{"url": "http://a.b/%d", "n": [1, {"deep": null}]}' % number,
                }
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo(f"{name}link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        return buffer.getvalue()

    plain = made(5)
    return [
        plain,
        made(4, tarfile.GNU_FORMAT, "folder/" * 20),
        made(4, tarfile.PAX_FORMAT, "ordner-\u00e4/" * 12),
        made(1),
        gzip.compress(plain, 1),
        bz2.compress(plain, 1),
        lzma.compress(plain, preset=0),
    ]


def blocks(random: Random, data: bytearray, other: bytes) -> None:
    """Whole blocks of a tar lost, doubled, blanked or taken from elsewhere."""
    count = random.choice((1, 1, 2, 9)) * 512
    at = random.randrange(-(-len(data) // 512)) * 512
    source = random.randrange(-(-len(other) // 512)) * 512
    data[at : at + count] = random.choice(
        (b"", data[at : at + count] * 2, bytes(count), other[source : source + count])
    )


def rewrite_header(random: Random, data: bytearray, other: bytes) -> None:
    """A tar header that lies, its checksum right."""
    magics = [at for at in range(257, len(data), 512) if data[at : at + 5] == b"ustar"]
    if not magics:
        return flip(random, data, other)
    start = random.choice(magics) - 257
    header = data[start : start + 512]
    if random.random() < 0.6:
        size = random.choice((0, 1, 511, 513, 10**6, 8**11 - 1))
        header[124:136] = random.choice(
            (b"%011o\0" % size, b"\x80" + random.randbytes(11), b"\xff" * 12, b"-0000000001\0")
        )
    if random.random() < 0.5:
        header[156] = random.choice(b"01257LKxgSV\0")
    if random.random() < 0.3:
        header[:100] = random.choice(
            (bytes(100), b"../" * 33 + b"x", b"\xff" * 100, b".hidden.jpg".ljust(100, b"\0"))
        )
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[start : start + 512] = header
    return None


def pax(random: Random, data: bytearray, other: bytes) -> None:
    """An extended header in front whose records are no records."""
    endless = b"30 size=99999999999999999999999\n"
    record = random.choice((b"2 ", b"9 a=b\n", b"0 ", b"-5 a=b\n", endless))
    digits = b"9" * 5000
    body = random.choice(
        (record * random.choice((1, 900)), digits + b" a=b\n", b"5011 size=" + digits + b"\n")
    )
    header = bytearray(512)
    header[:5], header[100:108] = b"x.pax", b"0000644\0"
    header[124:136], header[156] = b"%011o\0" % len(body), random.choice(b"xgLK")
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[:0] = bytes(header) + body + bytes(-len(body) % 512)


TAR_MUTATIONS: tuple[Mutation, ...] = (
    flip,
    overwrite,
    cut,
    splice,
    repeat,
    remove,
    blocks,
    rewrite_header,
    pax,
)
