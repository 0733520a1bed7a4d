"""Samples copied from tar to tar: the same bytes as read one by one, whatever a window holds."""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import SluiceError
from infra.moving import Places, copy_samples
from infra.shards import TarWriter, read_tar

Sample = tuple[str, int, int]  # its key, the byte its image starts at, its image's bytes


def write_tar(path: Path, rng: random.Random, count: int) -> tuple[dict[str, bytes], list[Sample]]:
    """A tar, the bytes of each sample's members in it, and where its image lies."""
    buffer, pieces, samples = io.BytesIO(), dict[str, bytes](), list[Sample]()
    tar = TarWriter(buffer)
    for number in range(count):
        key = f"{'x' * rng.choice([0, 1, 15, 80])}{number}"
        image = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 9000]))
        others = [
            (f"{key}.{name}", rng.randbytes(rng.choice([0, 2, 600, 3000])))
            for name in ("txt", "json", "seg.png")[: rng.randrange(4)]
        ]
        start = buffer.tell()
        samples.append((key, tar.add_all([(f"{key}.jpg", image), *others]), len(image)))
        pieces[key] = buffer.getvalue()[start:]
        if rng.random() < 0.2:  # a gap: of another key, or no header at all
            tar.add_raw(rng.choice([bytes(1024), rng.randbytes(512)]))
    tar.close()
    path.write_bytes(buffer.getvalue())
    return pieces, samples


def places(samples: Sequence[Sample]) -> Places:
    keys, offsets, sizes = zip(*samples, strict=True) if samples else ((), (), ())
    return Places(pa.array(keys, pa.string()), np.array(offsets, np.int64),
                  np.array(sizes, np.int64))  # fmt: skip


def copied(path: Path, samples: Sequence[Sample], start: int = 0) -> tuple[bytes, list[int]]:
    out = io.BytesIO()
    found = copy_samples(str(path), places(samples), TarWriter(out), start)
    return out.getvalue(), found.tolist()


@pytest.mark.parametrize("window", [512, 2000, 8 * 2**20])
@pytest.mark.parametrize("seed", range(8))
def test_samples_are_copied_as_if_one_by_one(
    tmp_path: Path, window: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.moving.WINDOW", window)
    rng = random.Random(seed)
    pieces, samples = write_tar(tmp_path / "a.tar", rng, 60)
    kept = [sample for sample in samples if rng.random() < rng.choice([0.2, 0.9, 1.0])]
    data, offsets = copied(tmp_path / "a.tar", kept, 5120)
    assert data == b"".join(pieces[key] for key, _, _ in kept)
    again = {sample.key: sample for sample in read_tar(io.BytesIO(data))}
    assert [*again] == [key for key, _, _ in kept]
    assert offsets == [5120 + sample.offsets["jpg"] for sample in again.values()]


def test_what_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    pieces, samples = write_tar(path, random.Random(1), 40)
    whole, (key, offset, size) = path.read_bytes(), samples[20]
    last = offset - 512 + len(pieces[key])
    assert last > offset + size  # it has other files
    wrong: list[tuple[bytes, Sample]] = [
        (whole, (key, samples[21][1], size)),  # at the place of another
        (whole, (key, offset, size + 1)),
        (whole, (key, offset, 2**40)),
        (whole, (key, 0, size)),
        (whole, (key, len(whole) + 512, 0)),
        (whole, ("y" * 600, offset, size)),  # longer than a header
        (whole[: offset + 100], (key, offset, size)),  # cut short in the image
        (whole[: last - 100], (key, offset, size)),  # and in another file
        (whole[:last], (key, offset, size)),  # and before the end
    ]
    other = pieces[key].rindex(f"{key}.".encode()) + offset - 512
    for size_text in (b"77777777777", b"not a size!", b"-0000000001"):
        wrong.append((whole[: other + 124] + size_text + whole[other + 135 :], samples[20]))
    for data, sample in wrong:
        path.write_bytes(data)
        with pytest.raises(SluiceError, match="is damaged") as raised:
            copied(path, [*samples[:3], sample] if sample[1] > samples[3][1] else [sample])
        assert repr(sample[0]) in str(raised.value)
        assert f"byte {sample[1]}" in str(raised.value)
    path.unlink()
    with pytest.raises(SluiceError, match="is gone"):
        copied(path, samples)
