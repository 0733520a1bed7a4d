"""What is read ahead, and by whom; that the samples are the same is tested in `test_data.py`."""

import shutil
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from infra import artifacts
from pretrain.order import Window
from pretrain.ranks import Ranks
from pretrain.reader import Found, Place, Reader
from tests.pretrain.conftest import picture, png, write_version

SHARDS, IN_SHARD = 12, 4


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> str:
    samples = [(png(picture("red", number, "r")), {}) for number in range(SHARDS * IN_SHARD)]
    return write_version(tmp_path_factory.mktemp("reader") / "version", samples, IN_SHARD)


@pytest.fixture
def reader(version: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """reader(shuffle, ranks) -> a Reader, and the shards it has begun to read in that order."""

    def make(shuffle: int = 12, ranks: Ranks | None = None) -> tuple[Reader, list[int]]:
        artifact = artifacts.load(version)
        assert artifact is not None
        made, begun, lock = Reader(artifact, shuffle, ("key",), ranks=ranks), [], threading.Lock()
        read = made._read

        def noted(shard: int) -> Sequence[Found]:
            with lock:
                begun.append(shard)
            return read(shard)

        monkeypatch.setattr(made, "_read", noted)
        return made, begun

    return make


def idle(reader: Reader) -> None:
    """Wait until all that was begun is there."""
    for read in list(reader._shards.values()):
        read.result()


def windows(reader: Reader, count: int) -> list[Window]:
    places = (reader.place(position) for position in range(10**6))
    found = dict.fromkeys(place.window for place in islice(places, count * 12))
    return list(found)[:count]


def test_the_next_window_is_read_while_this_one_is_used(reader: Callable[..., Any]) -> None:
    made, begun = reader()
    first, second, third = windows(made, 3)
    assert first.after == second.shards and second.after == third.shards
    made.at(made.place(0))
    idle(made)
    assert sorted(begun) == sorted([*first.shards, *second.shards])
    for position in range(1, 12):
        made.at(made.place(position))
    assert len(begun) == 6  # nothing is read twice
    made.at(made.place(12))
    idle(made)
    assert sorted(begun[6:]) == sorted(third.shards)
    assert set(made._shards) == {*second.shards, *third.shards}  # the first was let go


def test_the_last_window_of_an_epoch_is_followed_by_the_first_of_the_next(
    reader: Callable[..., Any],
) -> None:
    made, _ = reader()
    *_, last, first = windows(made, SHARDS // 3 + 1)
    assert (last.after, first.start) == (first.shards, SHARDS * IN_SHARD)


def test_a_sample_of_a_window_that_has_passed_is_still_found(reader: Callable[..., Any]) -> None:
    made, _ = reader()
    places: list[Place] = [made.place(position) for position in range(48)]
    ids = [made.at(place).id for place in places]
    assert made.at(places[0]).id == ids[0]
    assert [made.at(place).id for place in places[40:]] == ids[40:]


def test_what_waits_to_be_read_is_given_up_at_the_end(
    reader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, begun = reader(shuffle=24)
    gate, read = threading.Event(), made._read

    def slow(shard: int) -> Sequence[Found]:
        found = read(shard)
        if len(begun) > 1:
            gate.wait(10)
        return found

    monkeypatch.setattr(made, "_read", slow)
    made.at(made.place(0))
    made.close()
    gate.set()
    idle(made)
    assert len(begun) < SHARDS
    assert [made.at(made.place(position)).id for position in range(24)]  # and goes on as before


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_of_several_processes_reads_what_it_is_dealt(
    count: int, reader: Callable[..., Any]
) -> None:
    readers = [reader(shuffle=24, ranks=Ranks(rank, count)) for rank in range(count)]
    positions = range(24)
    dealt = [readers[0][0].place(position).shard for position in positions]
    owners = Ranks(0, count).owners([(0, shard) for shard in dealt])
    total = 0
    for rank, (made, begun) in enumerate(readers):
        made.at(made.place(int((owners == rank).argmax())))
        idle(made)
        here = [shard for shard in begun if shard in made.place(0).window.shards]
        assert {shard for shard, owner in zip(dealt, owners, strict=True) if owner == rank} <= set(
            here
        )
        total += len(here)
    assert total <= 6 + count - 1  # a shard on the border is read by both sides
    assert made.place(0).window.after


def test_a_shard_that_cannot_be_read_stops_nothing(version: str, tmp_path: Path) -> None:
    copy = tmp_path / "version"
    shutil.copytree(version, copy)
    tar = copy / "shards" / "00003.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    artifact = artifacts.load(str(copy))
    assert artifact is not None
    made = Reader(artifact, 12, ("key",))
    found = [made.at(made.place(position)) for position in range(SHARDS * IN_SHARD)]
    assert found.count(None) == IN_SHARD
