"""Reading tars of every origin and in every state of disrepair; writing them the same each time."""

import io
import os
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import shards
from infra.shards import TarSample, TarWriter, read_tar, split_name


def write(members: list[tuple[str, bytes]], mode: str = "w", **options: Any) -> bytes:
    """A tar as Python's tarfile writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes, **options: Any) -> list[TarSample]:
    return list(read_tar(io.BytesIO(data), **options))


def test_split_name() -> None:
    assert split_name("a/b.c/000.seg.PNG") == ("a/b.c/000", "seg.png")
    assert split_name("README") == ("README", "")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_other_tools_write(mode: str, layout: int) -> None:
    names = ["0", "long/" + "x" * 80 + "/1", "./2", "\u00e9"]
    if layout != tarfile.USTAR_FORMAT:
        names += ["y" * 200, "\u732b" * 90]
    members = [(f"{n}.{e}", os.urandom(i * 300)) for i, n in enumerate(names) for e in ("a", "b")]
    expected = [
        TarSample(name, {"a": members[2 * i][1], "b": members[2 * i + 1][1]})
        for i, name in enumerate(names)
    ]
    assert read(write(members, mode, format=layout)) == expected


def test_sizes_in_extended_headers_and_base_256() -> None:
    def member(size_field: bytes, before: bytes = b"") -> bytes:
        info = tarfile.TarInfo("0.jpg")
        header = bytearray(info.tobuf())
        header[124:136] = size_field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return before + bytes(header) + b"hello".ljust(512, b"\0") + bytes(1024)

    base256 = member(b"\x80" + (5).to_bytes(11, "big"))
    assert read(base256) == [TarSample("0", {"jpg": b"hello"})]
    record = b"10 size=5\n"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    pax = member(b"00000000000\0", info.tobuf() + record.ljust(512, b"\0"))
    assert read(pax) == [TarSample("0", {"jpg": b"hello"})]


def test_only_members_asked_for_are_read() -> None:
    data = write([("0.jpg", b"x"), ("0.exe", b"y"), ("1.exe", b"z")])
    assert read(data, extensions=("jpg",)) == [TarSample("0", {"jpg": b"x"}), TarSample("1", {})]


def test_repeated_members_are_told_apart() -> None:
    data = write([("0.jpg", b"x"), ("0.jpg", b"y"), ("0.JPG", b"z")])
    assert set(read(data)[0].members) == {"jpg", "jpg#2"}


def test_a_member_over_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MEMBER_LIMIT", 10)
    data = write([("0.jpg", bytes(11)), ("0.txt", b"a"), ("1.jpg", bytes(10))])
    expected = [
        TarSample("0", {"jpg#too_large": b"", "txt": b"a"}),
        TarSample("1", {"jpg": bytes(10)}),
    ]
    assert read(data) == expected


def test_zeros_between_members_are_passed_over() -> None:
    first, second = write([("0.jpg", b"x")]), write([("1.jpg", b"y")])
    assert [sample.key for sample in read(first + second)] == ["0", "1"]


def test_every_cut_is_noticed_and_costs_no_whole_sample() -> None:
    members = [(f"{i}.{e}", bytes([i]) * 700) for i in range(3) for e in ("jpg", "txt")]
    data = write(members)
    end = 6 * 1536  # where the closing zeros begin
    for cut in range(1, end + 1, 53):
        found = read(data[:cut])
        assert found[-1].error == ("truncated_tar" if cut >= 512 else "not_a_tar")
        whole = [sample.key for sample in found if len(sample.members) == 2]
        # A sample is whole once the 700 bytes of its second member are there.
        arrived = [i for i in range(3) if cut >= 3072 * i + 1536 + 512 + 700]
        assert whole == [str(i) for i in arrived]


def test_a_file_that_cannot_be_read_is_no_truncated_tar() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise ConnectionResetError("reset by peer")  # no errno, as clients raise it
            return super().read(2000)

    for mode in ("w", "w:gz"):
        members = [(f"{i}.jpg", os.urandom(1000)) for i in range(9)]
        with pytest.raises(ConnectionResetError):
            list(read_tar(Broken(write(members, mode))))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["jpg", "txt"]), st.binary(max_size=600))
    ),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
    st.sampled_from(["w", "w:gz"]),
)
def test_no_damage_raises_or_invents_bytes(
    members: list[tuple[int, str, bytes]], flips: list[tuple[float, int]], cut: float, mode: str
) -> None:
    data = bytearray(write([(f"{key}.{name}", body) for key, name, body in members], mode))
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    found = read(bytes(data[: int((0.5 + cut) * len(data))]))
    assert all(sample.error for sample in found if sample.key == "" and not sample.members)
    if not flips and cut >= 0.5:
        assert not any(sample.error for sample in found)
        assert sum(len(sample.members) for sample in found) <= len(members)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    found = read(data)
    assert len(found) <= 1 + len(data) // 512


def test_the_writer_writes_what_tarfile_reads_and_always_the_same() -> None:
    def once() -> bytes:
        buffer = io.BytesIO()
        writer = TarWriter(buffer)
        writer.add("000.jpg", b"x" * 600)
        writer.add("000.txt", "\u00e9".encode())
        writer.close()
        return buffer.getvalue()

    data = once()
    assert data == once()
    assert read(data) == [TarSample("000", {"jpg": b"x" * 600, "txt": "\u00e9".encode()})]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
        assert [(info.name, info.mtime, info.uid, info.mode) for info in infos] == [
            ("000.jpg", 0, 0, 0o644),
            ("000.txt", 0, 0, 0o644),
        ]
