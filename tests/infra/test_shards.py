"""Tars are read whatever is in them, and written byte for byte the same."""

import bz2
import gzip
import hashlib
import io
import lzma
import random
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import shards
from infra.shards import TarSample, TarWriter, read_tar, split_name
from infra.tar import BLOCK, NAME_LIMIT

ERRORS = {None, "truncated_tar", "damaged_tar", "not_a_tar"}

KEYS = st.text(
    st.characters(codec="utf-8", exclude_characters="./\0", exclude_categories=("Cs",)),
    min_size=1,
    max_size=120,
)
SAMPLES = st.dictionaries(
    KEYS,
    st.dictionaries(st.sampled_from(["jpg", "txt", "json"]), st.binary(max_size=2000), min_size=1),
    min_size=1,
    max_size=5,
)
Samples = dict[str, dict[str, bytes]]

PLAIN: Samples = {
    f"{number:05d}": {"jpg": bytes([number]) * (700 + number), "txt": b"a caption"}
    for number in range(4)
}


def write(samples: Samples) -> bytes:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for key, members in samples.items():
        for extension, data in members.items():
            tar.add(f"{key}.{extension}", data)
    tar.close()
    return buffer.getvalue()


def read(data: bytes) -> list[TarSample]:
    return list(read_tar(io.BytesIO(data)))


def whole(found: list[TarSample]) -> Samples:
    return {sample.key: dict(sample.members) for sample in found if sample.error is None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000.jpg", ("000", "jpg")),
        ("a/b.c/000.seg.PNG", ("a/b.c/000", "seg.png")),
        ("./000.txt", ("./000", "txt")),
        ("000", ("000", "")),
    ],
)
def test_names_split_as_webdataset_splits_them(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


@given(SAMPLES)
def test_what_is_written_is_read(samples: Samples) -> None:
    assert whole(read(write(samples))) == samples


@given(SAMPLES)
def test_what_is_written_is_a_tar_for_others_too(samples: Samples) -> None:
    with tarfile.open(fileobj=io.BytesIO(write(samples))) as tar:
        infos = tar.getmembers()
        found = {info.name: tar.extractfile(info).read() for info in infos}  # type: ignore[union-attr]
    assert found == {
        f"{key}.{extension}": data
        for key, members in samples.items()
        for extension, data in members.items()
    }
    assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in infos} == {
        (0, 0, 0, "", 0o644)
    }


def test_the_bytes_of_a_known_shard_never_change() -> None:
    # Written bytes are content digests: another Python must give the same.
    samples = {**PLAIN, "long" * 40: {"txt": "ä long name".encode()}}
    assert hashlib.sha256(write(samples)).hexdigest()[:16] == "b03ec5552bd608ae"


@given(st.binary(max_size=5000))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    assert {sample.error for sample in read(data)} <= ERRORS


@given(
    SAMPLES,
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from("-+~"), st.binary(max_size=600)), max_size=4
    ),
)
def test_no_damage_crashes_the_reader(
    samples: Samples, damage: list[tuple[float, str, bytes]]
) -> None:
    data = write(samples)
    for place, how, piece in damage:
        at = int(place * len(data))
        rest = at + len(piece) * (how != "+")
        data = data[:at] + (b"" if how == "-" else piece) + data[rest:]
    for packed in (data, gzip.compress(data, 1)[: len(data) // 2]):
        found = read(packed)
        assert {sample.error for sample in found} <= ERRORS


@given(SAMPLES, st.floats(0, 1))
def test_a_tar_cut_short_keeps_its_whole_samples(samples: Samples, place: float) -> None:
    data = write(samples)
    end = len(data.rstrip(b"\0"))  # the zeros that close a tar may go and nothing is lost
    cut = int(place * end)
    found = read(data[:cut])
    kept = whole(found)
    assert list(kept.items()) == list(samples.items())[: len(kept)]
    assert [sample.error for sample in found if sample.error] in (["truncated_tar"], ["not_a_tar"])
    # A sample is whole once the next one has begun.
    starts = [offset for offset in sample_starts(data, samples) if offset + 512 <= cut]
    assert len(kept) >= len(starts) - 1


def sample_starts(data: bytes, samples: Samples) -> list[int]:
    """The offsets of the first member header of each sample."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
    starts, position = [], 0
    for members in samples.values():
        starts.append(infos[position].offset_data - 512)
        position += len(members)
    return starts


def test_after_a_damaged_header_reading_goes_on() -> None:
    data = bytearray(write(PLAIN))
    offset = sample_starts(bytes(data), PLAIN)[1]
    data[offset : offset + 512] = b"\xaa" * 512
    found = read(bytes(data))
    assert [sample.error for sample in found].count("damaged_tar") == 1
    kept = whole(found)
    assert kept["00002"] == PLAIN["00002"]
    assert kept["00003"] == PLAIN["00003"]


@pytest.mark.parametrize(
    "records",
    [
        b"5011 size=" + b"9" * 5000 + b"\n",  # int() refuses as many digits
        b"9" * 5000 + b" a=b\n",
        b"2 " * (NAME_LIMIT // 2),  # half a million of them, once read in quadratic time
    ],
)
def test_a_hostile_pax_header_costs_neither_a_crash_nor_time(records: bytes) -> None:
    header = bytearray(BLOCK)
    header[:1], header[124:136], header[156:157] = b"x", b"%011o\0" % len(records), b"x"
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    hostile = bytes(header) + records + bytes(-len(records) % BLOCK)
    started = time.thread_time()
    found = read(write(PLAIN)[: -2 * BLOCK] + hostile + write({"last": {"jpg": b"1"}}))
    assert time.thread_time() - started < 8  # some 0.4 seconds; it was 20
    assert whole(found).keys() >= {*list(PLAIN)[:-1], "last"}


def test_bytes_that_are_no_tar_are_called_so() -> None:
    for data in (b"", b"<html>404</html>", b"\x1f\x8bnot gzip", bytes(range(256)) * 40):
        assert [(sample.error, dict(sample.members)) for sample in read(data)] == [
            ("not_a_tar", {})
        ]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_read_the_same(pack: object) -> None:
    assert callable(pack)
    assert whole(read(pack(write(PLAIN)))) == PLAIN


def test_a_repeated_extension_is_kept_apart() -> None:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for data in (b"one", b"two"):
        tar.add("000.jpg", data)
    tar.close()
    (sample,) = read(buffer.getvalue())
    assert sample.members == {"jpg": b"one", "jpg#2": b"two"}


def test_a_member_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MEMBER_LIMIT", 1000)
    (sample,) = read(write({"000": {"jpg": bytes(1001), "txt": b"a caption"}}))
    assert sample.members == {"jpg#too_large": b"", "txt": b"a caption"}
    assert sample.error is None


def test_links_are_not_followed_and_folders_and_hidden_files_are_no_samples() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("data", tarfile.DIRTYPE), ("data/000.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("data/._000.jpg", "data/000.txt"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"text"))
    (sample,) = read(buffer.getvalue())
    assert sample == TarSample("data/000", {"jpg#link": b"", "txt": b"text"})


def test_extensions_not_asked_for_are_passed_over() -> None:
    found = list(read_tar(io.BytesIO(write(PLAIN)), ("txt",)))
    assert [dict(sample.members) for sample in found] == [{"txt": b"a caption"}] * len(PLAIN)


def test_a_disk_that_fails_is_no_damaged_tar() -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: object, /) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(read_tar(Failing(write(PLAIN))))


# ---- the quick way through ordinary members, and the careful one ----


def mutated(rng: random.Random) -> bytes:
    """A tar of one of the usual writers, with bytes changed, cut out or put in."""
    buffer = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(rng.randrange(1, 6)):
            key = rng.choice(
                ("{:03d}", "a/b.c/{:03d}", "x" * 60 + "/" + "y" * 60 + "{:03d}", ".{:03d}")
            )
            for extension in rng.sample(("jpg", "txt", "json", "JPG", "seg.png"), 3):
                data = rng.randbytes(rng.choice((0, 5, 511, 512, 513, 3000)))
                info = tarfile.TarInfo(f"{key.format(number)}.{extension}")
                info.size = len(data)
                info.mtime = rng.choice((0, 1.5))
                info.type = rng.choice((tarfile.REGTYPE,) * 9 + (tarfile.SYMTYPE,))
                tar.addfile(info, io.BytesIO(data))
    data = bytearray(buffer.getvalue())
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.choice((rng.randrange(len(data)), 512 * rng.randrange(len(data) // 512)))
        piece = rng.choice((rng.randbytes(1), rng.randbytes(600), bytes(512), b"7"))
        how = rng.choice("+-~~~")
        data[at : at + (0 if how == "+" else len(piece))] = b"" if how == "-" else piece
    return bytes(data)


def agree(count: int, seed: int) -> None:
    """Both ways, and any size of buffer, give the same samples at the same places."""
    rng = random.Random(seed)
    for _ in range(count):
        data = mutated(rng)
        found = [(read, read.offsets) for read in read_tar(io.BytesIO(data))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "_ORDINARY", b"")
            assert [(read, read.offsets) for read in read_tar(io.BytesIO(data))] == found
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("infra.tar.CHUNK", 1024)
            assert [(read, read.offsets) for read in read_tar(io.BytesIO(data))] == found
        for read, offsets in found:
            for name, offset in offsets.items():
                content = read.members[name]
                assert data[offset : offset + len(content)] == content
                assert shards.is_member(data[offset - 512 : offset], read.key, len(content))


def test_the_quick_way_is_the_careful_way() -> None:
    agree(150, 0)


@pytest.mark.slow
def test_the_quick_way_is_the_careful_way_for_2000_mutated_tars() -> None:
    agree(2000, 1)
